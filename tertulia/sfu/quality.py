"""Connection quality of one stream over a window, from loss, delay and missing layers (LiveKit's scorer, E.2).

A packet score falls with delay and loss, a layer score with every spatial layer missed; the worse counts. Scores rise
slowly and fall fast.
"""

import math
from dataclasses import dataclass

from livekit.protocol import models

from tertulia.sfu.plane.api import DownStats, UpStats

BEST, WORST = 100.0, 30.0
EXCELLENT_ABOVE, GOOD_ABOVE = 80.0, 40.0
RISE, FALL = 0.4, 0.8
LAYER_COST = 35.0
OPUS_WEIGHT, RED_WEIGHT, VIDEO_WEIGHT = 8.0, 4.0, 10.0
Quality = models.ConnectionQuality


@dataclass(frozen=True, slots=True)
class Window:
    """What happened to one stream in a window."""

    packets: int
    lost: int
    jitter_ns: int
    round_trip_ns: int
    weight: float
    """How much loss hurts this codec."""
    missed_layers: int = 0


def window_score(window: Window) -> float:
    """0..100. A window without packets though some were due is the worst that is not lost."""
    due = window.packets + window.lost
    if due <= 0:
        return WORST
    delay_ms = (window.round_trip_ns / 2 + 2 * window.jitter_ns) / 1e6
    delay_effect = delay_ms / 40 if delay_ms <= 160 else (delay_ms - 120) / 10
    loss_effect = 100 * window.lost / due * window.weight
    return max(min(BEST - delay_effect - loss_effect, BEST - LAYER_COST * window.missed_layers), WORST)


class Score:
    """Smoothed score of one stream."""

    __slots__ = ("most_packets", "value")

    def __init__(self) -> None:
        self.value = BEST
        self.most_packets = 1
        """Of a window."""

    def add(self, sample: float) -> float:
        factor = RISE if sample > self.value else FALL
        self.value += (sample - self.value) * factor
        return self.value


class Ledger:
    """Counters of the last window and smoothed scores, by plane handle."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, int]] = {}
        self._scores: dict[int, Score] = {}
        self._seen: set[int] = set()

    def judge(
        self,
        handle: int,
        stats: UpStats | DownStats,
        weight: float,
        *,
        missed_layers: int,
        is_due: bool,
        may_pause: bool,
    ) -> float | None:
        """The stream's smoothed score; None for its first window, and while nothing is expected of it.

        Of what `may_pause` nothing is ever expected, but what comes counts.
        """
        before = self._before.get(handle)
        self._before[handle] = (stats.packets, stats.lost)
        self._seen.add(handle)
        is_silent = before is not None and stats.packets <= before[0] and stats.lost <= before[1]
        if before is None or not is_due or (may_pause and is_silent):
            self._scores.pop(handle, None)
            return None
        score = self._scores.setdefault(handle, Score())
        packets = max(stats.packets - before[0], 0)
        score.most_packets = max(score.most_packets, packets)
        if may_pause:  # in near silence (DTX, a still screen) a packet matters less
            weight *= math.sqrt(packets / score.most_packets)
        window = Window(
            packets=packets,
            lost=max(stats.lost - before[1], 0),
            jitter_ns=stats.jitter_ns,
            round_trip_ns=stats.round_trip_ns,
            weight=weight,
            missed_layers=missed_layers,
        )
        return score.add(window_score(window))

    def forget_unseen(self) -> None:
        """Streams that ended since the last window."""
        for handle in set(self._before) - self._seen:
            self._before.pop(handle)
            self._scores.pop(handle, None)
        self._seen.clear()


def quality_of(score: float) -> Quality:
    if score > EXCELLENT_ABOVE:
        return Quality.EXCELLENT
    return Quality.GOOD if score > GOOD_ABOVE else Quality.POOR


def mean_opinion(score: float) -> float:
    """The figure clients are shown: 1 (worst) to 4.5."""
    return round(1 + 3.5 * max(score, 0.0) / BEST, 2)
