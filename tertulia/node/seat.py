"""A room's own view of the shared data plane: the same orders, with a note of which room each handle belongs to."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from tertulia.node.driver import monotonic
from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.sfu.plane.api import AudioWindow, Codec, KeyFrame, Plane, Report, Switched

OwnerT = TypeVar("OwnerT")
LEVELS_NS = 50 * MILLISECOND
"""The plane is asked for the levels of all rooms at most this often, however many rooms there are."""


class Handles(Generic[OwnerT]):
    """Who owns which up stream, down track and tap of the plane, so that reports and levels find their room."""

    def __init__(self, plane: Plane, clock: Callable[[], Nanos] = monotonic) -> None:
        self.plane = plane
        self.ups: dict[int, OwnerT] = {}
        self.downs: dict[int, OwnerT] = {}
        self._clock = clock
        self._levels: dict[int, dict[int, AudioWindow]] = {}
        """Not yet taken: by room, then by up stream."""
        self._levels_due = clock()

    def owner(self, report: Report) -> OwnerT | None:
        """The room a report without a transport belongs to."""
        if isinstance(report, Switched):
            return self.downs.get(report.down)
        if isinstance(report, KeyFrame):
            return self.ups.get(report.up)
        return None

    def take_levels(self, owner: OwnerT) -> list[AudioWindow]:
        """Levels of one room since it last asked; what the plane hands out for the others is kept for them."""
        now = self._clock()
        if now >= self._levels_due:
            self._levels_due = Nanos(now + LEVELS_NS)
            for window in self.plane.take_levels():
                self._add(window)
        return list(self._levels.pop(id(owner), {}).values())

    def _add(self, window: AudioWindow) -> None:
        if (whose := self.ups.get(window.up)) is not None:
            kept = self._levels.setdefault(id(whose), {})
            if (before := kept.get(window.up)) is not None:
                window = AudioWindow(
                    window.up,
                    before.packets + window.packets,
                    before.active_packets + window.active_packets,
                    min(before.loudest, window.loudest),
                )
            kept[window.up] = window

    def forget(self, owner: OwnerT) -> None:
        """The room is gone."""
        for table in (self.ups, self.downs):
            for handle in [handle for handle, whose in table.items() if whose is owner]:
                del table[handle]
        self._levels.pop(id(owner), None)


class PlaneOfRoom(Generic[OwnerT]):
    """`Plane` for one room: notes what it adds, forgets what it removes, passes everything else through."""

    def __init__(self, handles: Handles[OwnerT], owner: OwnerT) -> None:
        self._handles = handles
        self._owner = owner
        self._plane = plane = handles.plane
        self._of_track: dict[int, tuple[set[int], set[int]]] = {}
        self._track_of: dict[int, int] = {}
        self.add_transport = plane.add_transport
        self.remove_transport = plane.remove_transport
        self.set_keys = plane.set_keys
        self.allow = plane.allow
        self.select = plane.select
        self.set_extensions = plane.set_extensions
        self.set_feedback = plane.set_feedback
        self.attend = plane.attend
        self.send = plane.send
        self.send_rtcp = plane.send_rtcp
        self.answer_checks = plane.answer_checks
        self.last_check = plane.last_check
        self.has_answered = plane.has_answered
        self.feed = plane.feed
        self.bind_rtx = plane.bind_rtx
        self.request_key_frame = plane.request_key_frame
        self.set_track_enabled = plane.set_track_enabled
        self.set_target = plane.set_target
        self.take_tap = plane.take_tap
        self.tap_clock = plane.tap_clock
        self.reports = plane.reports
        self.up_stats = plane.up_stats
        self.down_stats = plane.down_stats
        self.set_audio_threshold = plane.set_audio_threshold

    @property
    def life(self) -> str:
        return self._plane.life

    def add_track(self, codec: Codec, clock_hz: int) -> int:
        track = self._plane.add_track(codec, clock_hz)
        self._of_track[track] = (set(), set())
        return track

    def remove_track(self, track: int) -> None:
        ups, downs = self._of_track.pop(track, (set(), set()))
        for up in ups:
            self._handles.ups.pop(up, None)
        for down in downs:
            self._handles.downs.pop(down, None)
        self._plane.remove_track(track)

    def add_up(
        self, track: int, transport: TransportId, ssrc: int, layer: int, *, payload_type: int, nack: bool, twcc: bool
    ) -> int:
        up = self._plane.add_up(track, transport, ssrc, layer, payload_type=payload_type, nack=nack, twcc=twcc)
        self._handles.ups[up] = self._owner
        self._of_track.setdefault(track, (set(), set()))[0].add(up)
        self._track_of[up] = track
        return up

    def remove_up(self, up: int) -> None:
        self._handles.ups.pop(up, None)
        if (track := self._track_of.pop(up, None)) is not None and track in self._of_track:
            self._of_track[track][0].discard(up)
        self._plane.remove_up(up)

    def add_down(
        self,
        track: int,
        transport: TransportId,
        ssrc: int,
        *,
        payload_type: int,
        rtx_ssrc: int = 0,
        rtx_payload_type: int = 0,
        mid: str = "",
        raw: bool = False,
        first_sequence: int = 1,
        first_timestamp: int = 0,
    ) -> int:
        down = self._plane.add_down(
            track,
            transport,
            ssrc,
            payload_type=payload_type,
            rtx_ssrc=rtx_ssrc,
            rtx_payload_type=rtx_payload_type,
            mid=mid,
            raw=raw,
            first_sequence=first_sequence,
            first_timestamp=first_timestamp,
        )
        return self._note_down(track, down)

    def add_tap(self, track: int, *, limit_packets: int = 2048) -> int:
        return self._note_down(track, self._plane.add_tap(track, limit_packets=limit_packets))

    def remove_down(self, down: int) -> None:
        self._handles.downs.pop(down, None)
        if (track := self._track_of.pop(down, None)) is not None and track in self._of_track:
            self._of_track[track][1].discard(down)
        self._plane.remove_down(down)

    def take_levels(self) -> list[AudioWindow]:
        return self._handles.take_levels(self._owner)

    def totals(self) -> Mapping[str, int]:
        return self._plane.totals()

    def _note_down(self, track: int, down: int) -> int:
        self._handles.downs[down] = self._owner
        self._of_track.setdefault(track, (set(), set()))[1].add(down)
        self._track_of[down] = track
        return down
