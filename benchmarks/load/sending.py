"""Sending as an encoder does: frames of a clip on time, header extensions, SRTP, simulcast layers that stop and start.

A paused layer (Dynacast) sends nothing and begins again with a key frame; a key-frame request starts the clip again;
a NACK gets the packet once more.
"""

import struct
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.batch import SEND_SLOTS, SLOT_BYTES, Outbox
from benchmarks.load.media import MAGIC, STAMP, Clip, vp8_descriptor
from benchmarks.load.offer import LEVEL, MID, RID, TWCC
from tertulia.protocol.rtp import build_extensions
from tertulia.protocol.seq import ntp_of_unix_ns
from tertulia.sfu.plane import srtp

HISTORY = 128
"""Packets kept for repeats, per layer."""
KEY_FRAME_GAP_NS = 300_000_000
"""A clip is not started again sooner: encoders do not obey a flood of requests either."""
NAMED_PACKETS = 100
"""mid and rid travel in the first packets, then until the server has answered (RFC 8852 3.3 leaves the number open)."""
_HEADER = struct.Struct("!BBHII")
_TAIL_BYTES = 16
"""What SRTP may add."""


@dataclass(slots=True)
class Sent:
    """Counters of one worker's sending."""

    packets: int = 0
    bytes: int = 0
    frames: int = 0
    key_frames: int = 0
    repeats: int = 0
    late: int = 0
    """Frames sent long after they were due: the generator is too slow."""


class Route:
    """Where a connection's packets go out: its socket, its SRTP session, its transport sequence number."""

    __slots__ = ("context", "session", "sock", "transport_sequence")

    def __init__(self, sock: Any, profile: int, key: bytes) -> None:
        self.sock = sock
        self.session = srtp.session(profile, key, outbound=True)
        self.context = self.session._srtp[0]
        self.transport_sequence = 0


@dataclass(slots=True)
class Layer:
    """One outgoing SSRC."""

    clip: Clip
    ssrc: int
    payload_type: int
    mid: str
    rid: str
    extensions: dict[int, int]
    """Our name of each extension the server takes -> its id."""
    due_ns: int
    """Monotonic."""
    sequence: int
    timestamp: int
    quality: int = 0
    """LiveKit's number of the layer: 0 low, 1 medium, 2 high."""
    paused: bool = False
    frame: int = 0
    """Next frame of the clip."""
    number: int = 0
    """Frames sent."""
    picture: int = 0
    packets: int = 0
    octets: int = 0
    restarted_ns: int = 0
    key_wanted: bool = False
    _named: tuple[bytes, int] = (b"", 0)
    _plain: tuple[bytes, int] = (b"", 0)
    _history: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._named = self._extension_block(True)
        self._plain = self._extension_block(False)

    def _extension_block(self, named: bool) -> tuple[bytes, int]:
        """The block and where its transport sequence number stands in it (0: nowhere)."""
        elements: list[tuple[int, bytes]] = []
        if number := self.extensions.get(TWCC, 0):
            elements.append((number, b"\0\0"))
        if named and (number := self.extensions.get(MID, 0)):
            elements.append((number, self.mid.encode()))
        if named and self.rid and (number := self.extensions.get(RID, 0)):
            elements.append((number, self.rid.encode()))
        if self.clip.codec == "opus" and (number := self.extensions.get(LEVEL, 0)):
            elements.append((number, bytes([0x80 | 25])))
        if not elements:
            return b"", 0
        return build_extensions(elements), 5 if self.extensions.get(TWCC, 0) else 0

    def want_key_frame(self, now_ns: int) -> None:
        if now_ns - self.restarted_ns >= KEY_FRAME_GAP_NS:
            self.frame = 0
        else:
            self.key_wanted = True

    def set_paused(self, paused: bool, now_ns: int) -> None:
        if self.paused and not paused:
            self.frame, self.due_ns = 0, now_ns
        self.paused = paused

    def send_frame(self, now_ns: int, route: Route, outbox: Outbox, sent: Sent) -> None:
        """The next frame of the clip, in one go."""
        if self.key_wanted and now_ns - self.restarted_ns >= KEY_FRAME_GAP_NS:
            self.frame = 0
        if self.frame == 0:
            self.restarted_ns, self.key_wanted = now_ns, False
            sent.key_frames += self.clip.codec != "opus"
        payloads = self.clip.frames[self.frame]
        stamp = STAMP.pack(time.time_ns(), self.number & 0xFFFFFFFF, MAGIC)
        last = len(payloads) - 1
        video = self.clip.codec != "opus"
        slot = 0
        for index, payload in enumerate(payloads):
            if slot == SEND_SLOTS:
                outbox.flush(route.sock, slot)
                slot = 0
            descriptor = vp8_descriptor(self.picture, self.number, index == 0) if self.clip.codec == "vp8" else b""
            marker = video and index == last
            self._packet(route, outbox, slot, marker, descriptor, payload, stamp if index == last else b"")
            slot += 1
        outbox.flush(route.sock, slot)
        sent.packets += len(payloads)
        sent.bytes += sum(map(len, payloads))
        sent.frames += 1
        self.frame = (self.frame + 1) % len(self.clip.frames)
        self.number += 1
        self.picture = self.picture + 1 & 0x7FFF
        step = (self.clip.clock_hz * self.clip.interval_ns + 500_000_000) // 1_000_000_000
        self.timestamp = self.timestamp + step & 0xFFFFFFFF

    def _packet(
        self, route: Route, outbox: Outbox, slot: int, marker: bool, descriptor: bytes, payload: bytes, stamp: bytes
    ) -> None:
        block, place = self._named if self.packets < NAMED_PACKETS else self._plain
        at = slot * SLOT_BYTES
        view = outbox.view
        number = self.sequence
        _HEADER.pack_into(
            view, at, 0x90 if block else 0x80, self.payload_type | (0x80 if marker else 0), number, self.timestamp,
            self.ssrc,
        )  # fmt: skip
        body = block + descriptor + payload + stamp
        size = 12 + len(body)
        view[at + 12 : at + size] = body
        if place:
            route.transport_sequence = route.transport_sequence + 1 & 0xFFFF
            view[at + 12 + place] = route.transport_sequence >> 8
            view[at + 13 + place] = route.transport_sequence & 0xFF
        length = srtp.ffi.new("int *", size)
        srtp.lib.srtp_protect(route.context, srtp.ffi.cast("void *", outbox.pool.base + at), length)
        size = length[0]
        outbox.set_length(slot, size)
        self._history[number] = bytes(view[at : at + size])
        self._history.pop(number - HISTORY & 0xFFFF, None)
        self.sequence = number + 1 & 0xFFFF
        self.packets += 1
        self.octets += len(body) - len(block)

    def repeat(self, numbers: list[int], route: Route, sent: Sent) -> None:
        """What a NACK asks for, as far as it is kept."""
        for number in numbers:
            packet = self._history.get(number)
            if packet is not None:
                sent.repeats += 1
                try:
                    route.sock.send(packet)
                except OSError:
                    return

    def sender_report(self, unix_ns: int) -> bytes:
        """RFC 3550 6.4.1, and an SDES with our canonical name (6.5)."""
        head = struct.pack("!BBHI", 0x80, 200, 6, self.ssrc)
        body = struct.pack("!QIII", ntp_of_unix_ns(unix_ns), self.timestamp, self.packets, self.octets & 0xFFFFFFFF)
        return head + body + struct.pack("!BBHI", 0x81, 202, 3, self.ssrc) + b"\x01\x05bench\0"
