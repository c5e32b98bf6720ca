"""Is a queue growing on the way? From the distances between packet groups, at our end and at the peer's.

The delay part of Google congestion control (draft-ietf-rmcat-gcc-02 5.1-5.4: trend of the one-way delay, adaptive
threshold), held against the standing queue as CoDel understands it (RFC 8289 3: the minimum over a window): nothing
here paces, so a key frame alone raises the trend, but it leaves no queue behind.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum

from tertulia.protocol.machine import MILLISECOND, SECOND

POINTS = 20
SMOOTHING = 0.9
GAIN = 4.0
MOST_DELTAS = 60
FIRST_THRESHOLD_MS = 12.5
THRESHOLD_UP, THRESHOLD_DOWN = 0.0087, 0.039
LEAST_THRESHOLD_MS, MOST_THRESHOLD_MS = 6.0, 600.0
OUTLIER_MS = 15.0
"""A trend this far above the threshold is a spike the threshold does not follow."""
OVERUSE_NS = 10 * MILLISECOND
STANDING_NS = 300 * MILLISECOND
"""What is still queued after this long is no burst."""
RECENT_NS = 80 * MILLISECOND
BASE_NS = 20 * SECOND
"""The emptiest moment of this long counts as no queue."""
GROWING_QUEUE_NS = 25 * MILLISECOND
"""With a rising trend this much of a standing queue is overuse."""
FULL_QUEUE_NS = 100 * MILLISECOND
"""This much is overuse even when it grows no more."""


class Usage(Enum):
    NORMAL = "normal"
    OVER = "over"
    UNDER = "under"
    """The queue drains."""


class DelayDetector:
    """One path."""

    def __init__(self) -> None:
        self.usage = Usage.NORMAL
        self._sent = 0
        self._arrived = 0
        self._smoothed_ms = 0.0
        self._deltas = 0
        self._points: deque[tuple[float, float]] = deque(maxlen=POINTS)
        self._threshold_ms = FIRST_THRESHOLD_MS
        self._trend_ms = 0.0
        self._over_ns = 0
        self._variation = WindowMinimum(BASE_NS)
        self._standing = WindowMinimum(STANDING_NS)
        self._recent = WindowMinimum(RECENT_NS)

    def add(self, groups: Sequence[tuple[int, int, int]]) -> None:
        """Groups of one report, in order: (send delta, arrival delta, bytes)."""
        for send_delta, arrival_delta, _ in groups:
            self._add(send_delta, arrival_delta)
        if groups:
            self.usage = self._judge()

    @property
    def standing_ns(self) -> int:
        """Delay above the emptiest moment that did not go away."""
        return self._standing.value - self._variation.value

    @property
    def recent_ns(self) -> int:
        """The same over a shorter time: what a probe looks at."""
        return self._recent.value - self._variation.value

    def _add(self, send_delta: int, arrival_delta: int) -> None:
        self._sent += send_delta
        self._arrived += arrival_delta
        variation = self._arrived - self._sent
        for window in (self._variation, self._standing, self._recent):
            window.add(self._sent, variation)
        self._deltas += 1
        self._smoothed_ms = SMOOTHING * self._smoothed_ms + (1 - SMOOTHING) * variation / MILLISECOND
        self._points.append((self._arrived / MILLISECOND, self._smoothed_ms))
        self._trend_ms = _slope(self._points) * min(self._deltas, MOST_DELTAS) * GAIN
        self._over_ns = self._over_ns + max(send_delta, 0) if self._trend_ms > self._threshold_ms else 0
        self._adapt(send_delta / MILLISECOND)

    def _adapt(self, elapsed_ms: float) -> None:
        distance = abs(self._trend_ms) - self._threshold_ms
        if distance > OUTLIER_MS:
            return
        speed = THRESHOLD_UP if distance > 0 else THRESHOLD_DOWN
        moved = self._threshold_ms + speed * distance * min(max(elapsed_ms, 0.0), 100.0)
        self._threshold_ms = min(max(moved, LEAST_THRESHOLD_MS), MOST_THRESHOLD_MS)

    def _judge(self) -> Usage:
        standing = self.standing_ns
        if standing > FULL_QUEUE_NS and self._trend_ms > -self._threshold_ms:
            return Usage.OVER
        if self._over_ns > OVERUSE_NS and standing > GROWING_QUEUE_NS:
            return Usage.OVER
        return Usage.UNDER if self._trend_ms < -self._threshold_ms else Usage.NORMAL


class WindowMinimum:
    """The least value of a window of time."""

    def __init__(self, width_ns: int) -> None:
        self._width_ns = width_ns
        self._rising: deque[tuple[int, int]] = deque()
        """Candidates, each greater than the one before."""

    def add(self, at: int, value: int) -> None:
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((at, value))
        while self._rising[0][0] < at - self._width_ns:
            self._rising.popleft()

    @property
    def value(self) -> int:
        return self._rising[0][1] if self._rising else 0


def _slope(points: deque[tuple[float, float]]) -> float:
    """Least squares; 0 until the window is full."""
    if len(points) < POINTS:
        return 0.0
    mean_x = sum(x for x, _ in points) / POINTS
    mean_y = sum(y for _, y in points) / POINTS
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    under = sum((x - mean_x) ** 2 for x, _ in points)
    return over / under if under > 0 else 0.0
