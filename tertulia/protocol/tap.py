"""Words between rooms and egress. Egress never imports `sfu`: the node hands it a `TapRoom`."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from livekit.protocol import models

from tertulia.protocol.machine import Nanos


class TapPacket(NamedTuple):
    """One media packet of a tapped track, in order; layer switches are already bridged."""

    arrival: Nanos
    sequence: int
    timestamp: int
    marker: bool
    key_frame: bool
    layer: int
    payload: bytes


class SenderClock(NamedTuple):
    """Last sender report in the tap's timestamps (RFC 3550 6.4.1)."""

    ntp: int
    timestamp: int
    arrival: Nanos


@dataclass(frozen=True, slots=True)
class TrackAvailable:
    """A track can be tapped (also sent again when TrackInfo changes, e.g. on mute)."""

    participant: models.ParticipantInfo
    track: models.TrackInfo
    mime_type: str
    """`video/VP8`, `audio/opus`, ..."""
    clock_hz: int


@dataclass(frozen=True, slots=True)
class TrackGone:
    participant_sid: str
    track_sid: str


@dataclass(frozen=True, slots=True)
class SpeakersChanged:
    """Active speakers now, loudest first (participant sids)."""

    sids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParticipantGone:
    identity: str
    sid: str


@dataclass(frozen=True, slots=True)
class RoomGone:
    reason: int


TapEvent = TrackAvailable | TrackGone | SpeakersChanged | ParticipantGone | RoomGone


class TapRoom(Protocol):
    """One room as egress sees it. Called on the control thread's event loop; nothing here waits."""

    @property
    def info(self) -> models.Room: ...

    def events(self) -> list[TapEvent]:
        """What changed since the last call; the first call tells every track there is."""

    def open(self, track_sid: str, *, max_height: int | None = None) -> int:
        """Tap a track; `max_height` in pixels chooses the simulcast layer (None: the best).
        Raises RequestError(not_found) when the track is gone."""

    def resize(self, tap: int, max_height: int | None) -> None: ...

    def request_key_frame(self, tap: int) -> None: ...

    def take(self, tap: int) -> tuple[list[TapPacket], int]:
        """Packets since the last call and how many were lost to the queue limit."""

    def clock(self, tap: int) -> SenderClock | None: ...

    def close(self, tap: int) -> None: ...

    def leave(self) -> None:
        """Close every tap and forget this view."""
