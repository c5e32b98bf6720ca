"""Packets and a little world for tests of the plane: two peers without protection, times by hand."""

import struct
from random import Random

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.sfu.plane.api import Address, Codec, Extension, SrtpProfile
from tertulia.sfu.plane.simulated import Simulated

ALICE = Address(0, "192.0.2.1", 5001)
BOB = Address(0, "192.0.2.2", 5002)
PUBLISHED = {Extension.MID: 4, Extension.RID: 10, Extension.RRID: 11, Extension.TWCC: 3, Extension.AUDIO_LEVEL: 1}
SUBSCRIBED = {Extension.MID: 9, Extension.TWCC: 5, Extension.AUDIO_LEVEL: 2}


def one_byte(elements: dict[int, bytes]) -> bytes:
    """A one-byte header extension block (RFC 8285 4.2)."""
    body = b"".join(bytes([number << 4 | len(data) - 1]) + data for number, data in elements.items())
    body += bytes(-len(body) % 4)
    return struct.pack("!HH", 0xBEDE, len(body) // 4) + body if elements else b""


def rtp(
    ssrc: int,
    sequence: int,
    timestamp: int,
    payload: bytes,
    *,
    pt: int = 96,
    marker: bool = False,
    extensions: dict[int, bytes] | None = None,
    padding: int = 0,
) -> bytes:
    block = one_byte(extensions or {})
    first = 0x80 | (0x10 if block else 0) | (0x20 if padding else 0)
    head = struct.pack("!BBHII", first, marker << 7 | pt, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
    tail = bytes(padding - 1) + bytes([padding]) if padding else b""
    return head + block + payload + tail


def vp8(
    picture: int, *, key: bool = False, start: bool = True, tid: int = 0, sync: bool = False, tl0: int = 0
) -> bytes:
    """A VP8 payload with 15-bit picture id, TL0PICIDX and TID (RFC 7741 4.2), then a bit of frame."""
    head = struct.pack("!BBHBB", 0x80 | (0x10 if start else 0), 0xE0, 0x8000 | picture, tl0, tid << 6 | sync << 5)
    if not start:
        return head + b"more of the frame"
    tag = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 360) if key else b"\x11\x00\x00"
    return head + tag + b"frame"


def parsed(data: bytes) -> tuple[int, int, int, int, int, dict[int, bytes], bytes]:
    """(ssrc, sequence, timestamp, payload type, marker, extensions, payload) of a packet we sent."""
    first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", data)
    assert first >> 6 == 2
    o, extensions = 12, {}
    if first & 0x10:
        profile, words = struct.unpack_from("!HH", data, 12)
        end, o = 16 + 4 * words, 16
        while o < end:
            if data[o] == 0:
                o += 1
            elif profile == 0xBEDE:
                size = (data[o] & 15) + 1
                extensions[data[o] >> 4] = data[o + 1 : o + 1 + size]
                o += 1 + size
            else:
                extensions[data[o]] = data[o + 2 : o + 2 + data[o + 1]]
                o += 2 + data[o + 1]
        o = end
    return ssrc, sequence, timestamp, second & 0x7F, second >> 7, extensions, data[o:]


def is_rtcp(data: bytes) -> bool:
    return 192 <= data[1] < 224


class World:
    """Alice publishes, Bob subscribes, all in the clear."""

    def __init__(self, codec: Codec = Codec.VP8, clock_hz: int = 90000) -> None:
        self.now = Nanos(1000 * MILLISECOND)
        self.plane = Simulated(Random(7))
        self.alice = self.peer(ALICE, PUBLISHED, 0xA)
        self.bob = self.peer(BOB, SUBSCRIBED, 0xB)
        self.track = self.plane.add_track(codec, clock_hz)

    def peer(self, address: Address, ids: dict[Extension, int], feedback_ssrc: int) -> TransportId:
        transport = self.plane.add_transport()
        self.plane.set_keys(transport, SrtpProfile.NULL, b"", b"")
        self.plane.allow(transport, address)
        self.plane.select(transport, address)
        self.plane.set_extensions(transport, ids)
        self.plane.set_feedback(transport, feedback_ssrc)
        return transport

    def up(self, ssrc: int = 0x1000, layer: int = 0, pt: int = 96, *, nack: bool = True) -> int:
        return self.plane.add_up(self.track, self.alice, ssrc, layer, payload_type=pt, nack=nack, twcc=True)

    def down(self, **kwargs: object) -> int:
        settings: dict[str, object] = {"payload_type": 100, "first_sequence": 500, "first_timestamp": 7000} | kwargs
        return self.plane.add_down(self.track, self.bob, 0x2000, **settings)  # type: ignore[arg-type]

    def receive(self, data: bytes, source: Address = ALICE) -> None:
        self.plane.receive(self.now, source, data)

    def rest(self, milliseconds: int) -> None:
        """Let time pass with every wake-up on the way."""
        end = self.now + milliseconds * MILLISECOND
        while (due := self.plane.next_wake()) is not None and due <= end:
            self.now = Nanos(max(due, self.now))
            self.plane.wake(self.now)
        self.now = Nanos(end)
        self.plane.wake(self.now)

    def sent(self, to: Address) -> list[bytes]:
        """Everything sent since the last call to one address; the rest is thrown away."""
        found = []
        while (item := self.plane.poll_datagram()) is not None:
            if item[0] == to:
                found.append(item[1])
        return found

    def media(self) -> list[tuple[int, int, int, int, int, dict[int, bytes], bytes]]:
        """RTP that Bob got since the last call."""
        return [parsed(data) for data in self.sent(BOB) if not is_rtcp(data)]
