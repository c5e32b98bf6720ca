"""Audio levels of a room -> who speaks. LiveKit's arithmetic (audiolevel.go, E.1), fed with sums per window.

A window is 400 ms of observed audio; it is active when 40 % of it is at least as loud as the threshold. Its level is
the loudest frame, lowered by how much of the window was silent; levels are smoothed and quantised to eighths.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tertulia.protocol.machine import MILLISECOND
from tertulia.sfu.plane.api import AudioWindow
from tertulia.sfu.settings import RoomConfig

STEPS = 8
SILENCE = 127
FRAME_NS = (10 * MILLISECOND, 60 * MILLISECOND)
"""Shortest and longest audio frames in use; within them the frame length is guessed from the packet rate."""
STALE_ROUNDS = 2


@dataclass
class _Voice:
    """What was heard of one up stream since its last full window."""

    observed_ns: int = 0
    active_ns: int = 0
    loudest: int = SILENCE
    smoothed: float = 0.0
    rounds: int = 0
    """Since the last full window."""


class Speakers:
    """Levels by up stream; `hear` once per interval."""

    def __init__(self, config: RoomConfig) -> None:
        self._window_ns = config.audio_interval_ns
        self._least_active_ns = config.audio_interval_ns * config.audio_min_percentile // 100
        self._factor = 2 / (config.audio_smooth_intervals + 1)
        self._voices: dict[int, _Voice] = {}

    def forget(self, up: int) -> None:
        self._voices.pop(up, None)

    def hear(self, windows: Iterable[AudioWindow]) -> dict[int, float]:
        """Quantised level (0..1] of every up stream that speaks now."""
        for voice in self._voices.values():
            voice.rounds += 1
        for window in windows:
            if window.packets:
                self._observe(self._voices.setdefault(window.up, _Voice()), window)
        for voice in self._voices.values():
            if voice.rounds >= STALE_ROUNDS:
                voice.observed_ns = voice.active_ns = 0
                voice.loudest, voice.smoothed = SILENCE, 0.0
        return {up: quantised(voice.smoothed) for up, voice in self._voices.items() if voice.smoothed > 0}

    def _observe(self, voice: _Voice, window: AudioWindow) -> None:
        frame_ns = min(max(self._window_ns // window.packets, FRAME_NS[0]), FRAME_NS[1])
        voice.observed_ns += frame_ns * window.packets
        voice.active_ns += frame_ns * window.active_packets
        if window.active_packets:
            voice.loudest = min(voice.loudest, window.loudest)
        # A round of an ordinary 20 ms stream may be one packet short of a window.
        if voice.observed_ns < self._window_ns * 9 // 10:
            return
        if voice.active_ns >= self._least_active_ns:
            silence_db = 20 * math.log10(min(voice.active_ns / self._window_ns, 1.0))
            level = 10 ** (-(voice.loudest - silence_db) / 20)
            voice.smoothed += (level - voice.smoothed) * self._factor
        else:
            voice.smoothed = 0.0
        voice.observed_ns = voice.active_ns = voice.rounds = 0
        voice.loudest = SILENCE


def quantised(level: float) -> float:
    """Up to the next eighth: small changes are not told."""
    return min(math.ceil(level * STEPS) / STEPS, 1.0)
