"""The end of a tap: packets put in order, gaps waited for until repair is hopeless.

Decides when a gap is given up: 500 ms after the first packet behind it came. Not what to do about it: the caller asks
for a key frame.
"""

from collections import deque

from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import TapPacket
from tertulia.sfu.plane.core import RawTapPacket

PATIENCE_NS = 500 * MILLISECOND


class TapQueue:
    """Packets of one tap by their unwrapped sequence number."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._waiting: dict[int, TapPacket] = {}
        self._ready: deque[TapPacket] = deque()
        self.skipped = 0
        """Packets given up since the tap began."""

    def put(self, packets: list[RawTapPacket]) -> None:
        for arrival, sequence, timestamp, marker, key_frame, layer, payload in packets:
            packet = TapPacket(Nanos(arrival), sequence, timestamp, bool(marker), bool(key_frame), layer, payload)
            if self._next is None:
                self._next = sequence + 65536
            number = self._next + ((sequence - self._next + 32768) & 0xFFFF) - 32768
            if number >= self._next:
                self._waiting[number] = packet
            self._advance()

    def take(self, now: Nanos, limit: int) -> tuple[list[TapPacket], bool]:
        """At most `limit` packets in order, and whether a gap was given up."""
        gave_up = False
        while self._waiting and self._next is not None:
            first = min(self._waiting)
            if now - self._waiting[first].arrival < PATIENCE_NS:
                break
            gave_up = True
            self.skipped += first - self._next
            self._next = first
            self._advance()
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))], gave_up

    def _advance(self) -> None:
        while self._next is not None and (packet := self._waiting.pop(self._next, None)) is not None:
            self._ready.append(packet)  # padding too: its number is not missing
            self._next += 1
