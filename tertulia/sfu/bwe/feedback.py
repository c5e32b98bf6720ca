"""What a peer's transport-cc feedback says of the last moments: how much arrived per second, and what share was lost.

Reports come from the plane, which matches feedback packets with what was sent (`plane.twcc`). Nothing is judged here.
"""

from collections import deque

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import Feedback

RATE_WINDOW_NS = 500 * MILLISECOND
LOSS_WINDOW_NS = SECOND
FEWEST_PACKETS = 20
"""Loss of fewer packets than this is chance."""


class Arrivals:
    """Acknowledged rate and loss over short windows."""

    def __init__(self) -> None:
        self._reports: deque[tuple[Nanos, int, int, int]] = deque()
        """(when, bytes, packets, lost), oldest first."""
        self._before: Nanos | None = None
        """When the report before the last one came."""

    def add(self, report: Feedback) -> None:
        if self._reports:
            self._before = self._reports[-1][0]
        self._reports.append((report.now, report.acknowledged_bytes, report.acknowledged_packets, report.lost_packets))
        while self._reports[0][0] < report.now - LOSS_WINDOW_NS:
            self._reports.popleft()

    def bps(self) -> int:
        """What arrived; 0 while too little is known. The oldest report only marks where the window begins."""
        if not self._reports:
            return 0
        newest = self._reports[-1][0]
        inside = [entry for entry in self._reports if entry[0] >= newest - RATE_WINDOW_NS]
        elapsed = newest - inside[0][0]
        if elapsed < RATE_WINDOW_NS // 4:
            return 0
        return sum(entry[1] for entry in inside[1:]) * 8 * SECOND // elapsed

    def last_bps(self) -> int:
        """What the last report alone tells, for those that come seldom; too coarse to decide anything."""
        if not self._reports or self._before is None or self._reports[-1][0] <= self._before:
            return 0
        return self._reports[-1][1] * 8 * SECOND // (self._reports[-1][0] - self._before)

    def loss(self) -> float:
        """Share of packets that did not arrive, 0..1."""
        lost = max(sum(entry[3] for entry in self._reports), 0)
        total = lost + sum(entry[2] for entry in self._reports)
        return lost / total if total >= FEWEST_PACKETS else 0.0

    def clear(self) -> None:
        self._reports.clear()
        self._before = None
