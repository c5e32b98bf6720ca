"""The receiving end of transport-wide congestion control, as a client plays it: notes arrivals, builds feedback.

draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1, with two-bit status vectors only.
"""

import struct

from tertulia.protocol.machine import Nanos

TICK_NS = 250_000
REFERENCE_NS = 64_000_000
MOST = 1000


def number_of(packet: bytes, extension: int) -> int | None:
    """The transport-wide sequence number of an RTP packet with one-byte extensions."""
    if not packet[0] & 0x10:
        return None
    offset = 12 + 4 * (packet[0] & 15)
    profile, words = struct.unpack_from("!HH", packet, offset)
    at, end = offset + 4, offset + 4 + 4 * words
    while profile == 0xBEDE and at < end:
        kind, size = packet[at] >> 4, (packet[at] & 15) + 1
        if packet[at] == 0:
            at += 1
        elif kind == extension:
            return int(struct.unpack_from("!H", packet, at + 1)[0])
        else:
            at += 1 + size
    return None


class Arrivals:
    """What one client got and did not report yet."""

    def __init__(self) -> None:
        self._at: dict[int, Nanos] = {}
        """Unwrapped number -> time."""
        self._next: int | None = None
        self._newest = 0
        self._count = 0

    def note(self, now: Nanos, number: int) -> None:
        if self._next is None:
            self._next = self._newest = number + 65536
        full = self._newest + ((number - self._newest + 0x8000) & 0xFFFF) - 0x8000
        if full >= self._next:
            self._at.setdefault(full, now)
            self._newest = max(self._newest, full)

    def feedback(self, ssrc: int) -> bytes:
        """One RTCP packet about everything since the last; empty when nothing came."""
        if not self._at or self._next is None:
            return b""
        first = max(self._next, self._newest - MOST)
        count = self._newest + 1 - first
        reference = min(self._at.values()) // REFERENCE_NS
        clock, kinds, deltas = reference * REFERENCE_NS, [], b""
        for number in range(first, first + count):
            at = self._at.get(number)
            if at is None:
                kinds.append(0)
                continue
            delta = (at - clock) // TICK_NS
            clock += delta * TICK_NS
            kinds.append(1 if 0 <= delta <= 255 else 2)
            deltas += struct.pack("!B", delta) if 0 <= delta <= 255 else struct.pack("!h", delta)
        self._next, self._at = first + count, {}
        chunks = b"".join(
            struct.pack("!H", 0xC000 | sum(kind << (12 - 2 * bit) for bit, kind in enumerate(kinds[at : at + 7])))
            for at in range(0, count, 7)
        )
        body = struct.pack("!HHI", first & 0xFFFF, count, (reference & 0xFFFFFF) << 8 | self._count & 255)
        self._count += 1
        body += chunks + deltas
        body += bytes(-len(body) % 4)
        return struct.pack("!BBHII", 0x8F, 205, 2 + len(body) // 4, 7, ssrc) + body
