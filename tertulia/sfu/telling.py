"""Small messages to one member: what it may have, what it cannot have, who has its track."""

from collections.abc import Iterable

from livekit.protocol import models, rtc

from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.state import RoomState


def permission(state: RoomState, local: LocalParticipant, track: PublishedTrack, *, allowed: bool) -> None:
    """The publisher allows (or not) this member to have its track."""
    update = rtc.SubscriptionPermissionUpdate(participant_sid=track.publisher_sid, track_sid=track.sid, allowed=allowed)
    state.send(local, rtc.SignalResponse(subscription_permission_update=update))


def subscription_error(
    state: RoomState, local: LocalParticipant, track_sid: str, error: models.SubscriptionError
) -> None:
    response = rtc.SubscriptionResponse(track_sid=track_sid, err=error)
    state.send(local, rtc.SignalResponse(subscription_response=response))


def stream_states(state: RoomState, local: LocalParticipant, states: Iterable[tuple[str, rtc.StreamState]]) -> None:
    """Tracks that are paused for want of bandwidth, or flow again."""
    update = rtc.StreamStateUpdate()
    for sid, one in states:
        if (track := state.tracks.get(sid)) is not None:
            update.stream_states.add(participant_sid=track.publisher_sid, track_sid=sid, state=one)
    if update.stream_states:
        state.send(local, rtc.SignalResponse(stream_state_update=update))


def first_subscriber(state: RoomState, track: PublishedTrack) -> None:
    """Once: agents wait for it before they speak (G33)."""
    if track.subscribed_told:
        return
    track.subscribed_told = True
    publisher = state.members[track.publisher_sid].local
    if publisher is not None:
        state.send(publisher, rtc.SignalResponse(track_subscribed=rtc.TrackSubscribed(track_sid=track.sid)))


def answer_request(
    state: RoomState,
    local: LocalParticipant,
    request_id: int,
    reason: rtc.RequestResponse.Reason,
    message: str = "",
) -> None:
    response = rtc.RequestResponse(request_id=request_id, reason=reason, message=message)
    state.send(local, rtc.SignalResponse(request_response=response))
