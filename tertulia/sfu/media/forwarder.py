"""Layer policy of one down track: what its viewer asked for, what lives, what congestion allows -> the plane's target.

LiveKit's rule: the smallest layer whose height is at least 0.9 x the requested one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from livekit.protocol import models

ENOUGH = 0.9
ALL_TEMPORAL = 7
"""Plane: no temporal layer is left out."""
TEMPORAL_LAYERS = 3
"""Browsers encode at most three; each doubles the frame rate."""
OFF = models.VideoQuality.OFF
UNTOLD = -2
PAUSED = -1


@dataclass(frozen=True, slots=True)
class ViewerSettings:
    """What a client's track_setting says."""

    disabled: bool = False
    quality: int = models.VideoQuality.HIGH
    width: int = 0
    height: int = 0
    fps: int = 0
    priority: int = 0


class Forwarder:
    """Turns wishes into one target; knows nothing of the plane."""

    def __init__(self, settings: ViewerSettings) -> None:
        self.settings = settings
        self.ceiling = ALL_TEMPORAL
        """Highest layer the stream allocator allows; PAUSED stops the row until there is bandwidth."""
        self.target: tuple[int, int] = (UNTOLD, ALL_TEMPORAL)
        """What the plane was told last: spatial, temporal."""
        self.forwarded = PAUSED
        """What the plane says it forwards."""

    def wanted_layer(self, layers: int, heights: Sequence[int]) -> int:
        """The layer that fits the viewer, whether it lives or not; PAUSED for none."""
        settings = self.settings
        if settings.disabled or settings.quality == OFF:
            return PAUSED
        top = layers - 1
        if settings.height or settings.width:
            asked = ENOUGH * (settings.height or settings.width)
            return next((layer for layer, height in enumerate(heights[:top]) if height >= asked), top)
        return min(settings.quality, top)

    def choose(self, layers: int, heights: Sequence[int], live: set[int]) -> int:
        """The layer to forward now: the wanted one or the best living one below it, else the lowest above."""
        wanted = min(self.wanted_layer(layers, heights), self.ceiling)
        if wanted < 0 or not live or wanted in live:
            return wanted
        below = [layer for layer in live if layer < wanted]
        return max(below) if below else min(live)

    def temporal(self, frames_per_s: float) -> int:
        """Highest temporal layer that is needed for the requested frame rate."""
        fps = self.settings.fps
        if not fps or frames_per_s <= 0:
            return ALL_TEMPORAL
        for temporal in range(TEMPORAL_LAYERS - 1):
            if frames_per_s / 2 ** (TEMPORAL_LAYERS - 1 - temporal) >= ENOUGH * fps:
                return temporal
        return ALL_TEMPORAL
