"""Voices into one stereo signal (imports numpy: import this module lazily).

Decides how sums that are too loud are brought down: quickly, and back up slowly, so that nothing is clipped hard. Which
sample a voice belongs to is the timeline's business.
"""

import numpy as np
import numpy.typing as npt

from tertulia.egress.decode import Samples
from tertulia.egress.plan import Channel
from tertulia.egress.timeline import SAMPLE_RATE, Placement

AHEAD_LIMIT = 8 * SAMPLE_RATE
"""Samples a voice may be ahead of what has been taken; more is a broken clock."""
FADE = SAMPLE_RATE // 400
"""2.5 ms: speech after a gap begins without a click."""
RELEASE_PER_BLOCK = 1.02
PEAK = 32_000.0


class Mixer:
    """A window of samples that voices are added to and blocks are taken from."""

    def __init__(self) -> None:
        self._base = 0
        self._sums: npt.NDArray[np.int32] = np.zeros((SAMPLE_RATE, 2), np.int32)
        self._gain = 1.0
        self.late = 0
        self.ahead = 0

    @property
    def position(self) -> int:
        """The next sample that `take` gives."""
        return self._base

    def add(self, samples: Samples, place: Placement, *, channel: Channel = "both", fade: bool = False) -> None:
        """Add a voice where it belongs; what is too late for that is left out and counted."""
        samples = samples[place.skip :]
        if len(samples) != place.length:
            samples = _stretch(samples, place.length)
        if fade and len(samples) > FADE:
            samples = samples.copy()
            samples[:FADE] = samples[:FADE] * np.linspace(0, 1, FADE)[:, None]
        start = place.at - self._base
        if start < 0:
            self.late += 1
            samples, start = samples[-start:], 0
        if start + len(samples) > AHEAD_LIMIT:
            self.ahead += 1
            return
        if not len(samples):
            return
        self._reserve(start + len(samples))
        window = self._sums[start : start + len(samples)]
        if channel == "both":
            window += samples
        else:
            one = samples.sum(axis=1, dtype=np.int32) // 2
            window[:, 0 if channel == "left" else 1] += one

    def take(self, count: int) -> Samples:
        """The next `count` samples, shape (count, 2)."""
        self._reserve(count)
        block = self._sums[:count].copy()
        self._sums[:-count] = self._sums[count:].copy()
        self._sums[-count:] = 0
        self._base += count
        return self._limit(block)

    def _reserve(self, count: int) -> None:
        while count > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])

    def _limit(self, block: npt.NDArray[np.int32]) -> Samples:
        peak = int(np.abs(block).max()) if len(block) else 0
        allowed = PEAK / peak if peak > PEAK else 1.0
        if allowed >= 1.0 and self._gain >= 1.0:
            return block.astype(np.int16)
        after = min(allowed, self._gain * RELEASE_PER_BLOCK, 1.0)
        before = min(self._gain, max(allowed, after))
        ramp = np.linspace(before, after, len(block))[:, None]
        self._gain = after
        return np.clip(block * ramp, -32_768, 32_767).astype(np.int16)


def _stretch(samples: Samples, length: int) -> Samples:
    """A few samples more or less, by straight lines between neighbours."""
    if not len(samples):
        return np.zeros((length, 2), np.int16)
    at = np.linspace(0, len(samples) - 1, length)
    left = np.interp(at, np.arange(len(samples)), samples[:, 0])
    right = np.interp(at, np.arange(len(samples)), samples[:, 1])
    return np.column_stack([left, right]).astype(np.int16)
