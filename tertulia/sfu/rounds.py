"""What the room does at regular times while there is something to do: speakers, living layers, tokens, counts."""

from collections.abc import Callable

from livekit.protocol import rtc

from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.sfu import downlink, joining, scoring, subscribing
from tertulia.sfu.hearing import Hearing
from tertulia.sfu.media.layers import CYCLE_NS
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.settings import QUALITY_NS, ROOM_UPDATE_NS, TOKEN_REFRESH_NS
from tertulia.sfu.state import RoomState

BEAT_NS = 20 * MILLISECOND
"""Rounds fall on a common beat: a node with hundreds of rooms wakes up fifty times a second, not a thousand times."""

AUDIO_CYCLES = 4
"""Rates of audio hardly change: they are measured every so many cycles."""


class Rounds:
    """Keeps the regular appointments; each goes on only while the room has members here."""

    def __init__(self, state: RoomState) -> None:
        self._state = state
        self._hearing = Hearing(state)
        self._running: set[str] = set()
        self._told_counts = (0, 0)
        self._cycles = 0

    def ensure(self) -> None:
        """At the end of a turn: whatever is needed runs."""
        state = self._state
        if not state.sessions and not state.members:
            return
        if state.tracks or state.loudest:
            self._start("speakers", state.config.audio_interval_ns, self._speakers)
            self._start("cycle", CYCLE_NS, self._cycle)
        self._start("quality", QUALITY_NS, self._quality)
        self._start("tokens", TOKEN_REFRESH_NS, self._tokens)
        self._start("counts", ROOM_UPDATE_NS, self._counts)

    def _start(self, name: str, period_ns: int, work: Callable[[], None]) -> None:
        if name in self._running:
            return
        self._running.add(name)
        due = self._state.after(period_ns)
        self._state.agenda.at(Nanos(due - due % min(BEAT_NS, period_ns)), lambda: self._run(name, work))

    def _run(self, name: str, work: Callable[[], None]) -> None:
        """`ensure` starts it again at the end of this turn if it is still needed."""
        self._running.discard(name)
        if not self._state.is_closed:
            work()

    # ------------------------------------------------------------------------------------------ speakers

    def _speakers(self) -> None:
        state = self._state
        levels = state.speakers.hear(state.plane.take_levels())
        speaking: dict[str, float] = {}
        for up, level in levels.items():
            track = state.tracks_by_up.get(up)
            if track is None:
                state.speakers.forget(up)
            elif not track.info.muted:
                speaking[track.publisher_sid] = max(level, speaking.get(track.publisher_sid, 0.0))
        self._hearing.tell(speaking)

    # ------------------------------------------------------------------------------------------ layers

    def _cycle(self) -> None:
        if self._state.config.congestion_control:
            self._cycles += 1
            downlink.tick(self._state, with_audio=self._cycles % AUDIO_CYCLES == 1)
        for track in self._state.tracks.values():
            if track.is_video and not track.info.muted:
                for receiver in track.receivers:
                    self._measure(track, receiver)

    def _measure(self, track: PublishedTrack, receiver: Receiver) -> None:
        state = self._state
        packets: dict[int, int] = {}
        for layer, stream in receiver.streams.items():
            if (stats := state.plane.up_stats(stream.up)) is not None:
                packets[layer] = stats.packets
                stream.frames_per_s = (stats.frames - stream.frames) * 1e9 / CYCLE_NS
                stream.frames = stats.frames
        if receiver.tracker.measure(packets):
            subscribing.retarget_all(state, track)

    # ------------------------------------------------------------------------------------------ the rest

    def _quality(self) -> None:
        scoring.score(self._state)

    def _tokens(self) -> None:
        for local in self._state.local_members():
            joining.refresh_token(self._state, local)

    def _counts(self) -> None:
        info = self._state.info()
        counts = (info.num_participants, info.num_publishers)
        if counts != self._told_counts:
            self._told_counts = counts
            self._state.broadcast(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=info)))
