"""Every few seconds: how good is each member's connection, and who shall hear it (E.2, wire contract 5.3).

A member is as good as the worst of what it publishes and what it receives. LOST is never said: silence is the
transport's to judge, and clients answer LOST with a full reconnect.
"""

from collections.abc import Iterator

from livekit.protocol import rtc

from tertulia.sfu import replication
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.plane.api import Codec
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.quality import BEST, OPUS_WEIGHT, RED_WEIGHT, VIDEO_WEIGHT, mean_opinion, quality_of
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Subscription


def score(state: RoomState) -> None:
    """One window for everybody here."""
    scores = {local.sid: _member_score(state, local) for local in state.local_members() if local.is_active}
    state.ledger.forget_unseen()
    replication.scores(state, scores)
    scores = {**state.replicas.scores(), **scores}
    for local in state.local_members():
        _tell(state, local, scores)


def _member_score(state: RoomState, local: LocalParticipant) -> float:
    return min((*_published(state, local), *_received(state, local)), default=BEST)


def _published(state: RoomState, local: LocalParticipant) -> Iterator[float]:
    for track in local.who.tracks.values():
        for receiver in track.receivers:
            # the best layer that is sent tells of the way from the publisher to us
            layer = max(receiver.streams, default=None)
            if layer is None:
                continue
            stream = receiver.streams[layer]
            stats = state.plane.up_stats(stream.up)
            if stats is None:
                continue
            due = not track.info.muted and layer in receiver.tracker.live
            found = state.ledger.judge(
                stream.up, stats, _weight(receiver), missed_layers=0, is_due=due, may_pause=_may_pause(track)
            )
            if found is not None:
                yield found


def _may_pause(track: PublishedTrack) -> bool:
    """Silence that is right: DTX, a still screen, nobody watching."""
    return not track.is_video or track.is_screen or max(track.dynacast.told.values(), default=-1) < 0


def _received(state: RoomState, local: LocalParticipant) -> Iterator[float]:
    for wish in local.subscriptions.values():
        if wish.down is None or wish.receiver is None:
            continue
        stats = state.plane.down_stats(wish.down)
        if stats is None:
            continue
        found = state.ledger.judge(
            wish.down,
            stats,
            _weight(wish.receiver),
            missed_layers=_missed_layers(wish) if wish.track.is_video else 0,
            is_due=not wish.track.info.muted and wish.forwarder.target[0] >= 0,
            may_pause=_may_pause(wish.track),
        )
        if found is not None:
            yield found


def _missed_layers(wish: Subscription) -> int:
    """Layers the viewer asked for, the publisher sends, and congestion withholds."""
    receiver = wish.receiver
    assert receiver is not None
    wanted = wish.forwarder.wanted_layer(receiver.layers, wish.track.heights(receiver.layers))
    possible = max((layer for layer in receiver.tracker.live if layer <= wanted), default=wanted)
    return max(possible - wish.forwarder.ceiling, 0)


def _weight(receiver: Receiver) -> float:
    if receiver.codec is Codec.RED:
        return RED_WEIGHT
    return OPUS_WEIGHT if receiver.codec is Codec.OPUS else VIDEO_WEIGHT


def _tell(state: RoomState, local: LocalParticipant, scores: dict[str, float]) -> None:
    """Only changes, about itself and those it is subscribed to."""
    watched = {local.sid, *(wish.track.publisher_sid for wish in local.subscriptions.values())}
    update = rtc.ConnectionQualityUpdate()
    for sid in watched & scores.keys():
        quality = quality_of(scores[sid])
        if local.told_quality.get(sid) != quality:
            local.told_quality[sid] = quality
            update.updates.add(participant_sid=sid, quality=quality, score=mean_opinion(scores[sid]))
    for gone in local.told_quality.keys() - state.members.keys():
        del local.told_quality[gone]
    if update.updates:
        state.send(local, rtc.SignalResponse(connection_quality=update))
