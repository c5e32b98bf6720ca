"""Who hears that somebody speaks: the speaker and those subscribed to it, and only what changed for them."""

from livekit.protocol import models, rtc

from tertulia.protocol.tap import SpeakersChanged
from tertulia.sfu.participant import LocalParticipant, Participant
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Phase


def tell_speakers(state: RoomState, speaking: dict[str, float]) -> None:
    """`speaking`: level by participant sid; everybody else is silent now (wire contract 5.3)."""
    loudest = sorted(speaking, key=lambda sid: speaking[sid], reverse=True)
    if tuple(loudest) != state.loudest:
        state.loudest = tuple(loudest)
        state.taps.tell(SpeakersChanged(state.loudest))
    for local in state.local_members():
        if speaking or local.heard:
            _tell(state, local, {sid: speaking[sid] for sid in loudest if _hears(state, local, sid)})


def _hears(state: RoomState, local: LocalParticipant, sid: str) -> bool:
    if sid == local.sid:
        return True
    speaker = state.members.get(sid)
    if speaker is None or speaker.is_hidden:
        return False
    wishes = (local.subscriptions.get(track_sid) for track_sid in speaker.tracks)
    return any(wish is not None and wish.phase is Phase.FLOWING for wish in wishes)


def _tell(state: RoomState, local: LocalParticipant, levels: dict[str, float]) -> None:
    changes = [
        models.SpeakerInfo(sid=sid, level=level, active=True)
        for sid, level in levels.items()
        if local.heard.get(sid) != level
    ]
    changes += [models.SpeakerInfo(sid=sid, level=0, active=False) for sid in local.heard if sid not in levels]
    local.heard = levels
    if changes:
        state.send(local, rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=changes)))


def tell_speaker(state: RoomState, who: Participant, level: float) -> None:
    """One speaker by order of a test, to everybody."""
    if who.is_gone:
        return
    info = models.SpeakerInfo(sid=who.sid, level=level, active=level > 0)
    state.broadcast(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=[info])))
