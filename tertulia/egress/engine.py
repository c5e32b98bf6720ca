"""What the loop tells a job's worker thread, and what every engine there can do.

An engine is what makes encoded packets out of a job's tracks: `composite` (decode, compose, mix, encode), `passthrough`
(one track as it is, or as PCM). It has no clock of its own: each `Batch` carries the time, so that a recording can be
made in virtual time.
"""

from dataclasses import dataclass, field
from typing import Protocol

from tertulia.egress.plan import Channel
from tertulia.egress.stage import Scene
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import SenderClock, TapPacket, TrackAvailable

SHED_NS = 400 * MILLISECOND
"""A worker this far behind leaves out pictures; sound is always made."""
DROP_NS = 2000 * MILLISECOND
"""One this far behind does not even decode them: it goes on with the next key frames."""


@dataclass(frozen=True, slots=True)
class TrackOpened:
    track: TrackAvailable
    channel: Channel = "both"


@dataclass(frozen=True, slots=True)
class TrackClosed:
    track_sid: str


@dataclass(frozen=True, slots=True)
class TrackMuted:
    track_sid: str
    muted: bool


Order = TrackOpened | TrackClosed | TrackMuted | Scene


@dataclass(slots=True)
class Batch:
    """What has happened up to `now`. Tracks are named by sid."""

    now: Nanos
    orders: list[Order] = field(default_factory=list)
    packets: list[tuple[str, list[TapPacket]]] = field(default_factory=list)
    clocks: list[tuple[str, SenderClock]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    latency_ns: int
    wall_offset_ns: int
    """Unix time minus the node's monotonic time."""
    video_preset: str = "superfast"
    encoder_threads: int = 0


@dataclass(slots=True)
class Tally:
    """What was lost, by name; for logs and EgressInfo.details."""

    pictures_encoded: int = 0
    pictures_shed: int = 0
    pictures_unchanged: int = 0
    pictures_broken: int = 0
    sounds_broken: int = 0
    packets_lost: int = 0
    packets_late: int = 0
    frames_overflowed: int = 0

    def notes(self) -> list[str]:
        """What a caller should know."""
        told = []
        if self.pictures_shed:
            told.append(f"{self.pictures_shed} pictures left out: not enough CPU")
        return told


class Engine(Protocol):
    """Lives in the worker's thread, except `request_key_frame`."""

    tally: Tally

    @property
    def started(self) -> bool:
        """The first media has come; outputs are open."""

    def feed(self, batch: Batch, behind_ns: int) -> None:
        """Take what has happened and go on to its time. `behind_ns`: how long this batch has waited."""

    def finish(self, now: Nanos) -> None:
        """Everything up to `now` into the outputs, encoders flushed."""

    def key_frames_wanted(self) -> list[str]:
        """Tracks that show nothing before their next key frame."""

    def request_key_frame(self) -> None:
        """An output waits for one. Any thread."""
