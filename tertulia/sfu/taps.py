"""Hidden down tracks that end in a queue for egress: which there are, and which layer each forwards."""

from collections.abc import Iterator
from dataclasses import dataclass

from livekit.protocol import models

from tertulia.protocol.tap import TapEvent, TrackAvailable, TrackGone
from tertulia.sfu.media.forwarder import Forwarder, ViewerSettings
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.plane.api import Plane
from tertulia.sfu.publication import PublishedTrack

MAX_EVENTS = 10_000
"""Events nobody fetches; a view that far behind is dead, and starts anew from the present state."""


@dataclass
class Tap:
    """One tapped track."""

    number: int
    """The plane's handle, and the egress job's name for it."""
    track: PublishedTrack
    receiver: Receiver
    forwarder: Forwarder


class View:
    """One egress job's picture of the room."""

    def __init__(self) -> None:
        self.taps: dict[int, Tap] = {}
        self.events: list[TapEvent] = []
        self.must_begin = True
        """The next fetch tells everything there is."""

    def tell(self, event: TapEvent) -> None:
        if self.must_begin:
            return
        if len(self.events) >= MAX_EVENTS:
            self.events.clear()
            self.must_begin = True
            return
        self.events.append(event)


class Taps:
    """All views of one room."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.views: list[View] = []

    def open(self, view: View, track: PublishedTrack, max_height: int | None) -> Tap:
        receiver = track.receivers[0]
        number = self._plane.add_tap(receiver.plane_track)
        tap = Tap(number, track, receiver, Forwarder(settings_for(max_height)))
        view.taps[number] = tap
        self._retarget(tap)
        return tap

    def close(self, view: View, number: int) -> None:
        tap = view.taps.pop(number, None)
        if tap is not None:
            self._plane.remove_down(tap.number)

    def resize(self, tap: Tap, max_height: int | None) -> None:
        tap.forwarder.settings = settings_for(max_height)
        self._retarget(tap)

    def retarget(self, track: PublishedTrack) -> None:
        for tap in self._of(track):
            self._retarget(tap)

    def _retarget(self, tap: Tap) -> None:
        receiver = tap.receiver
        layer = tap.forwarder.choose(receiver.layers, tap.track.heights(receiver.layers), receiver.tracker.live)
        if (layer, 7) != tap.forwarder.target:
            tap.forwarder.target = (layer, 7)
            self._plane.set_target(tap.number, layer)

    def wanted(self, track: PublishedTrack) -> Iterator[tuple[Receiver, int]]:
        """Layers egress needs of a track, for dynacast."""
        for tap in self._of(track):
            receiver = tap.receiver
            yield receiver, tap.forwarder.wanted_layer(receiver.layers, track.heights(receiver.layers))

    def has(self, track: PublishedTrack) -> bool:
        return next(self._of(track), None) is not None

    def tell(self, event: TapEvent) -> None:
        for view in self.views:
            view.tell(event)

    def changed(self, who: models.ParticipantInfo, track: PublishedTrack) -> None:
        """The track appeared, or what is known of it changed."""
        if self.views and can_be_had(track):
            self.tell(available(who, track))

    def gone(self, track: PublishedTrack) -> None:
        for view in self.views:
            for number in [number for number, tap in view.taps.items() if tap.track is track]:
                self.close(view, number)
            view.tell(TrackGone(track.publisher_sid, track.sid))

    def _of(self, track: PublishedTrack) -> Iterator[Tap]:
        for view in self.views:
            yield from (tap for tap in view.taps.values() if tap.track is track)


def settings_for(max_height: int | None) -> ViewerSettings:
    return ViewerSettings(height=max_height or 0)


def can_be_had(track: PublishedTrack) -> bool:
    """There is media of it, here or to be fetched."""
    return bool(track.receivers or track.offers)


def available(who: models.ParticipantInfo, track: PublishedTrack) -> TrackAvailable:
    """A copy of everything egress must know of a track."""
    participant, info = models.ParticipantInfo(), models.TrackInfo()
    participant.CopyFrom(who)
    info.CopyFrom(track.info)
    media = track.receivers[0].payload if track.receivers else track.offers[0]
    return TrackAvailable(participant, info, media.mime_type, media.clock_hz)
