"""A simulated receiver of one down track: judges numbers, timestamps and layer switches, asks for what is missing."""

import struct
from dataclasses import dataclass, field

from tertulia.protocol.machine import MILLISECOND, Nanos
from tests.sim.encoder import MAGIC

NACK_AFTER_NS = 30 * MILLISECOND
NACK_TRIES = 6


class Broken(AssertionError):
    """The server broke a promise of the wire."""


def payload_of(packet: bytes) -> tuple[int, int, int, bytes]:
    """(sequence, timestamp, marker, payload) of an RTP packet."""
    flags, second, sequence, timestamp, _ = struct.unpack_from("!BBHII", packet)
    offset = 12 + 4 * (flags & 15)
    if flags & 0x10:
        offset += 4 + 4 * struct.unpack_from("!H", packet, offset + 2)[0]
    end = len(packet) - (packet[-1] if flags & 0x20 else 0)
    return sequence, timestamp, second >> 7, packet[offset:end]


@dataclass
class Received:
    """What one SSRC brought."""

    name: str
    video: bool
    packets: int = 0
    frames: set[tuple[int, int]] = field(default_factory=set)
    layer: int = -1
    layers: list[int] = field(default_factory=list)
    newest: int | None = None
    """Unwrapped sequence number."""
    stamps: dict[int, tuple[int, int, bool, int]] = field(default_factory=dict)
    """Unwrapped sequence -> (unwrapped timestamp, layer, key, frame)."""
    missing: dict[int, tuple[Nanos, int]] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    """Numbers a NACK was sent for: they may come again on the same SSRC when no repair stream was agreed."""
    repaired: int = 0
    key_frame_wanted: bool = True

    def _unwrap(self, sequence: int) -> int:
        if self.newest is None:
            return sequence + (1 << 20)
        delta = (sequence - self.newest) & 0xFFFF
        return self.newest + (delta - 0x10000 if delta >= 0x8000 else delta)

    def take(self, now: Nanos, packet: bytes, repair: bool = False) -> None:
        """One packet; `repair` when it came as a retransmission (RTX already unpacked)."""
        sequence, timestamp, _, payload = payload_of(packet)
        at = payload.find(MAGIC)
        if at < 0:
            return  # padding or silence made by the server
        layer, key, frame, _, _ = struct.unpack_from("!BBIHB", payload, at + 4)
        number = self._unwrap(sequence)
        if number in self.stamps:
            if self.stamps[number][1:] != (layer, bool(key), frame):
                raise Broken(f"{self.name}: number {sequence} came twice with different contents")
            if not repair and number not in self.asked:
                raise Broken(f"{self.name}: number {sequence} came twice")
            return
        if number in self.missing:
            del self.missing[number]
            self.repaired += 1
        self.stamps[number] = (timestamp, layer, bool(key), frame)
        self.packets += 1
        self.frames.add((layer, frame))
        if self.newest is None or number > self.newest:
            if self.newest is not None:
                for lost in range(self.newest + 1, min(number, self.newest + 200)):
                    self.missing[lost] = (now, 0)
            self.newest = number
        for old in [old for old in self.stamps if old < self.newest - 3000]:
            del self.stamps[old]

    def finish(self) -> None:
        """Judge the order of numbers once everything arrived."""
        previous: tuple[int, int, bool, int] | None = None
        before = -1
        for number in sorted(self.stamps):
            now = self.stamps[number]
            if previous is not None:
                if (now[0] - previous[0]) & 0xFFFFFFFF >= 0x80000000:
                    raise Broken(f"{self.name}: timestamp went back at {number & 0xFFFF}: {previous} then {now}")
                if self.video and now[1] != previous[1] and number == before + 1 and not now[2]:
                    raise Broken(
                        f"{self.name}: layer {previous[1]} to {now[1]} without a key frame at {number & 0xFFFF}"
                    )
            if previous is None or previous[1] != now[1]:
                self.layers.append(now[1])
            previous, before = now, number
        self.layer = previous[1] if previous is not None else -1

    def due_nacks(self, now: Nanos) -> list[int]:
        """Sequence numbers to ask for again."""
        due = []
        for number, (since, tries) in list(self.missing.items()):
            if tries >= NACK_TRIES:
                del self.missing[number]
                self.key_frame_wanted = self.video
            elif now - since >= NACK_AFTER_NS * (tries + 1):
                self.missing[number] = (since, tries + 1)
                self.asked.add(number)
                due.append(number & 0xFFFF)
        return due[:60]
