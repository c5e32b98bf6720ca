"""Simulated senders: packets a real encoder could have made (VP8 descriptor, simulcast by rid, Opus with audio levels).

The payload names its layer, frame and index, so that a receiver can judge what the forwarder did.
"""

import struct
from dataclasses import dataclass, field
from random import Random

from tertulia.protocol.machine import SECOND, Nanos

MAGIC = b"sim!"
VIDEO_HZ, AUDIO_HZ = 90_000, 48_000
MID, RID, LEVEL, TWCC = 4, 10, 1, 3
"""Header extension ids the simulated clients offer."""


def header(
    payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int, extensions: dict[int, bytes]
) -> bytes:
    """RTP header with one-byte extensions (RFC 3550 5.1, RFC 8285 4.2)."""
    first = 0x90 if extensions else 0x80
    fixed = struct.pack(
        "!BBHII", first, payload_type | (0x80 if marker else 0), sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc
    )
    if not extensions:
        return fixed
    body = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in extensions.items())
    body += bytes(-len(body) % 4)
    return fixed + struct.pack("!HH", 0xBEDE, len(body) // 4) + body


def vp8(picture_id: int, key: bool, start: bool) -> bytes:
    """Payload descriptor with 15-bit picture id and TL0PICIDX, then the first byte of the frame (RFC 7741 4.2, 4.3)."""
    descriptor = bytes(
        [0x90 if start else 0x80, 0xE0, 0x80 | picture_id >> 8 & 0x7F, picture_id & 0xFF, picture_id & 0xFF, 0]
    )
    if not start:
        return descriptor
    frame = struct.pack("<I", (0 if key else 1) | 0x10)[:3]
    return descriptor + frame + (b"\x9d\x01\x2a" + struct.pack("<HH", 320, 180) if key else b"")


@dataclass
class Stream:
    """One SSRC of a simulated publisher."""

    ssrc: int
    payload_type: int
    mid: str
    rid: str
    layer: int
    interval_ns: int
    packets: int
    """Per frame."""
    size: int
    """Payload bytes per packet."""
    sequence: int
    timestamp: int
    video: bool = True
    key_wanted: bool = True
    frame: int = 0
    picture_id: int = 0
    paused: bool = False
    sent: dict[int, bytes] = field(default_factory=dict)

    def next_frame(self) -> list[bytes]:
        """The packets of one frame."""
        key, self.key_wanted = self.key_wanted and self.video, False
        count = self.packets * 2 if key else self.packets
        made = []
        for index in range(count):
            extensions = {MID: self.mid.encode()}
            if self.rid:
                extensions[RID] = self.rid.encode()
            if not self.video:
                extensions[LEVEL] = bytes([0x80 | 20])
            marker = self.video and index == count - 1
            packet = header(self.payload_type, marker, self.sequence, self.timestamp, self.ssrc, extensions)
            if self.video:
                packet += vp8(self.picture_id, key, index == 0)
            packet += MAGIC + struct.pack("!BBIHB", self.layer, key, self.frame, index, count)
            packet += bytes(max(0, self.size - 16))
            self.sent[self.sequence & 0xFFFF] = packet
            self.sent.pop(self.sequence - 600 & 0xFFFF, None)
            made.append(packet)
            self.sequence += 1
        self.frame += 1
        self.picture_id = self.picture_id + 1 & 0x7FFF
        self.timestamp += self.interval_ns * (VIDEO_HZ if self.video else AUDIO_HZ) // SECOND
        return made

    def sender_report(self, now: Nanos) -> bytes:
        """RFC 3550 6.4.1 without report blocks."""
        ntp = (now + 3_900_000_000 * SECOND) * (1 << 32) // SECOND
        return struct.pack(
            "!BBHIQIII", 0x80, 200, 6, self.ssrc, ntp, self.timestamp & 0xFFFFFFFF, self.frame, self.frame
        )


LIGHT = (1, 2, 4)
HEAVY = (1, 4, 14)
"""Packets per frame of each layer; at 15 frames per second about 125, 490 and 1700 kbit/s."""


def camera(
    rng: Random, mid: str, payload_type: int, fps: int = 15, packets: tuple[int, int, int] = LIGHT
) -> list[Stream]:
    """Three simulcast layers."""
    return [
        Stream(
            ssrc=rng.randrange(1, 1 << 32),
            payload_type=payload_type,
            mid=mid,
            rid=rid,
            layer=layer,
            interval_ns=SECOND // fps,
            packets=count,
            size=1000,
            sequence=rng.randrange(1 << 16),
            timestamp=rng.randrange(1 << 32),
            picture_id=rng.randrange(1 << 15),
        )
        for layer, (rid, count) in enumerate(zip("qhf", packets, strict=True))
    ]


def microphone(rng: Random, mid: str, payload_type: int) -> list[Stream]:
    return [
        Stream(
            ssrc=rng.randrange(1, 1 << 32),
            payload_type=payload_type,
            mid=mid,
            rid="",
            layer=0,
            interval_ns=SECOND // 50,
            packets=1,
            size=80,
            sequence=rng.randrange(1 << 16),
            timestamp=rng.randrange(1 << 32),
            video=False,
        )
    ]
