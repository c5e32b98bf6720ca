"""Who hears that somebody speaks: the speaker and those subscribed to it, and only what changed for them.

While nothing starts or stops to flow, a round looks at those alone whose level changed.
"""

from collections.abc import Iterable

from livekit.protocol import models, rtc

from tertulia.protocol.tap import SpeakersChanged
from tertulia.sfu.participant import LocalParticipant, Participant
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Phase


class Hearing:
    """What was said of speakers, to whom."""

    def __init__(self, state: RoomState) -> None:
        self._state = state
        self._told: dict[str, float] = {}
        """Level by participant sid. What a member heard (`LocalParticipant.heard`) is always a part of it."""
        self._flows: tuple[object, ...] = ()
        self._messages: dict[tuple[tuple[str, float], ...], rtc.SignalResponse] = {}
        """Of one round: most members hear the same."""

    def tell(self, speaking: dict[str, float]) -> None:
        """`speaking`: level by participant sid; everybody else is silent now (wire contract 5.3)."""
        state = self._state
        loudest = tuple(sorted(speaking, key=lambda sid: speaking[sid], reverse=True))
        if loudest != state.loudest:
            state.loudest = loudest
            state.taps.tell(SpeakersChanged(loudest))
        sids: Iterable[str] = dict.fromkeys([*loudest, *self._told])
        if (flows := _flows(state)) == self._flows:
            sids = [sid for sid in sids if speaking.get(sid) != self._told.get(sid)]
        if sids:
            for local in state.local_members():
                self._tell(local, [(sid, speaking.get(sid, 0.0)) for sid in sids])
        self._told, self._flows = speaking, flows
        self._messages.clear()

    def _tell(self, local: LocalParticipant, levels: list[tuple[str, float]]) -> None:
        heard, own = local.heard, local.sid
        changes = []
        for sid, level in levels:
            if level and not (sid == own or _hears(self._state, local, sid)):
                level = 0.0
            if level != heard.get(sid, 0.0):
                changes.append((sid, level))
                if level:
                    heard[sid] = level
                else:
                    del heard[sid]
        if changes:
            self._state.send(local, self._message(tuple(changes)))

    def _message(self, changes: tuple[tuple[str, float], ...]) -> rtc.SignalResponse:
        if (message := self._messages.get(changes)) is None:
            speakers = [models.SpeakerInfo(sid=sid, level=level, active=level > 0) for sid, level in changes]
            message = rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=speakers))
            self._messages[changes] = message
        return message


def _flows(state: RoomState) -> tuple[object, ...]:
    """Differs whenever a row or a session came or went: rows have rising numbers, sessions are never the same."""
    downs, sessions = state.downs, state.sessions
    return len(downs), next(reversed(downs), None), len(sessions), next(reversed(sessions), None)


def _hears(state: RoomState, local: LocalParticipant, sid: str) -> bool:
    speaker = state.members.get(sid)
    if speaker is None or speaker.is_hidden:
        return False
    wishes = (local.subscriptions.get(track_sid) for track_sid in speaker.tracks)
    return any(wish is not None and wish.phase is Phase.FLOWING for wish in wishes)


def tell_speaker(state: RoomState, who: Participant, level: float) -> None:
    """One speaker by order of a test, to everybody."""
    if who.is_gone:
        return
    info = models.SpeakerInfo(sid=who.sid, level=level, active=level > 0)
    state.broadcast(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=[info])))
