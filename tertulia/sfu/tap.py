"""The room as egress sees it (`protocol.tap.TapRoom`), made of plane taps."""

from livekit.protocol import models

from tertulia.protocol.errors import RequestError
from tertulia.protocol.tap import SenderClock, TapEvent, TapPacket
from tertulia.sfu import dynacast
from tertulia.sfu.state import RoomState
from tertulia.sfu.taps import View, available, can_be_had


class RoomTap:
    """One egress job's view. Calls come between the room's turns, on the same thread."""

    def __init__(self, state: RoomState) -> None:
        self._state = state
        self._view = View()
        state.taps.views.append(self._view)

    @property
    def info(self) -> models.Room:
        return self._state.info()

    def events(self) -> list[TapEvent]:
        view = self._view
        if view.must_begin:
            view.must_begin = False
            return [
                available(self._state.members[track.publisher_sid].info, track)
                for track in self._state.tracks.values()
                if can_be_had(track)
            ]
        events, view.events = view.events, []
        return events

    def open(self, track_sid: str, *, max_height: int | None = None) -> int:
        track = self._state.tracks.get(track_sid)
        if track is not None and not track.receivers:
            self._state.relay.want(track)
        if track is None or not track.receivers:
            raise RequestError("not_found", "track is not found")
        tap = self._state.taps.open(self._view, track, max_height)
        dynacast.review(self._state, track)
        return tap.number

    def resize(self, tap: int, max_height: int | None) -> None:
        if (found := self._view.taps.get(tap)) is not None:
            self._state.taps.resize(found, max_height)
            dynacast.review(self._state, found.track)

    def request_key_frame(self, tap: int) -> None:
        if (found := self._view.taps.get(tap)) is not None:
            layer = max(found.forwarder.target[0], 0)
            self._state.plane.request_key_frame(found.receiver.plane_track, layer)

    def take(self, tap: int) -> tuple[list[TapPacket], int]:
        return self._state.plane.take_tap(tap) if tap in self._view.taps else ([], 0)

    def clock(self, tap: int) -> SenderClock | None:
        return self._state.plane.tap_clock(tap) if tap in self._view.taps else None

    def close(self, tap: int) -> None:
        if (found := self._view.taps.get(tap)) is not None:
            self._state.taps.close(self._view, tap)
            dynacast.review(self._state, found.track)

    def leave(self) -> None:
        for tap in list(self._view.taps):
            self.close(tap)
        if self._view in self._state.taps.views:
            self._state.taps.views.remove(self._view)
