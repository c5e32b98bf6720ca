"""Signal requests of joined members, one small function each (wire contract 5.1)."""

from collections.abc import Callable, Mapping

from livekit.protocol import models, rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu import (
    data_tracks,
    joining,
    leaving,
    negotiating,
    publishing,
    resuming,
    simulate,
    subscribing,
    telling,
)
from tertulia.sfu.events import Request
from tertulia.sfu.participant import LocalParticipant, Participant, changed_attributes
from tertulia.sfu.settings import MAX_PERMISSION_ENTRIES
from tertulia.sfu.state import RoomState

Reason = rtc.RequestResponse.Reason
Handler = Callable[[RoomState, LocalParticipant, rtc.SignalRequest], None]


def on_request(state: RoomState, event: Request) -> None:
    """One message; what is too fast, empty or unknown is counted and dropped."""
    local = state.sessions.get(event.session)
    if local is None:
        state.counters["request_without_member"] += 1
        return
    if not local.requests.allow(state.now):
        state.counters["limit_requests"] += 1
        return
    handler = HANDLERS.get(event.message.WhichOneof("message") or "")
    if handler is None:
        state.counters["request_unknown"] += 1
        return
    handler(state, local, event.message)


# ------------------------------------------------------------------------------------------ up


def _mute(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    publishing.on_mute(state, local, message.mute)


def _trickle(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    """An ICE-lite server learns the client's addresses from its checks; candidates are not needed (3.8)."""
    state.counters["trickle"] += 1


def _update_audio_track(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    request = message.update_audio_track
    track = local.who.tracks.get(request.track_sid)
    if track is None:
        state.counters["request_track_not_found"] += 1
        return
    del track.info.audio_features[:]
    track.info.audio_features.extend(request.features[: len(models.AudioTrackFeature.keys())])
    state.changed(local.who)
    state.taps.changed(local.who.info, track)


def _update_video_track(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    request = message.update_video_track
    track = local.who.tracks.get(request.track_sid)
    if track is None:
        state.counters["request_track_not_found"] += 1
        return
    track.info.width, track.info.height = request.width, request.height
    state.changed(local.who)
    state.taps.changed(local.who.info, track)
    subscribing.retarget_all(state, track)


# ------------------------------------------------------------------------------------------ down


def _subscription(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    request = message.subscription
    subscribing.update_subscription(state, local, subscribing.named_tracks(request), subscribe=request.subscribe)


def _subscription_permission(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    rule = message.subscription_permission
    if sum(1 + len(entry.track_sids) for entry in rule.track_permissions) > MAX_PERMISSION_ENTRIES:
        state.counters["limit_permission_entries"] += 1
        return
    local.who.rule = rule
    state.replicas.touch(local.sid)
    subscribing.review_publisher(state, local.sid)


# ------------------------------------------------------------------------------------------ oneself


def _leave(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    """Removed at once; others hear that it was the client's own wish, whatever it says."""
    leaving.remove(state, local.who, models.DisconnectReason.CLIENT_INITIATED)


def _update_metadata(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    request = message.update_metadata
    if not local.who.info.permission.can_update_metadata:
        reason, text = Reason.NOT_ALLOWED, "does not have permission to update own metadata"
    elif not local.metadata_updates.allow(state.now):
        state.counters["limit_metadata_updates"] += 1
        reason, text = Reason.LIMIT_EXCEEDED, "too many updates"
    else:
        try:
            update_participant(state, local.who, request.metadata, request.name, dict(request.attributes))
            reason, text = Reason.OK, ""
        except RequestError as error:
            reason, text = Reason.LIMIT_EXCEEDED, error.message
    telling.answer_request(state, local, request.request_id, reason, text)


def update_participant(
    state: RoomState, who: Participant, metadata: str, name: str, attributes: Mapping[str, str]
) -> None:
    """Empty values are left as they are, an empty attribute is deleted. RequestError before anything has changed."""
    config = state.config
    if len(metadata.encode()) > config.max_metadata_bytes:
        raise RequestError("invalid_argument", f"metadata exceeds {config.max_metadata_bytes} bytes")
    if len(name) > config.max_name_length:
        raise RequestError("invalid_argument", f"name exceeds {config.max_name_length} characters")
    merged = changed_attributes(who.info.attributes, attributes, config.max_attributes_bytes)
    who.info.metadata = metadata or who.info.metadata
    who.info.name = name or who.info.name
    who.info.attributes.clear()
    who.info.attributes.update(merged)
    state.changed(who)
    if who.local is not None:
        joining.refresh_token(state, who.local)


# ------------------------------------------------------------------------------------------ data


def _not_offered(state: RoomState, local: LocalParticipant, message: rtc.SignalRequest) -> None:
    """Data blobs: LiveKit has them off by default, and says so like this."""
    state.counters["request_not_offered"] += 1
    telling.answer_request(state, local, 0, Reason.NOT_ALLOWED, "participant data blobs are not enabled")


HANDLERS: Mapping[str, Handler] = {
    "offer": lambda state, local, m: negotiating.on_offer(state, local, m.offer),
    "answer": lambda state, local, m: negotiating.on_answer(state, local, m.answer),
    "trickle": _trickle,
    "add_track": lambda state, local, m: publishing.add_track(state, local, m.add_track),
    "mute": _mute,
    "subscription": _subscription,
    "track_setting": lambda state, local, m: subscribing.on_track_setting(state, local, m.track_setting),
    "leave": _leave,
    "subscription_permission": _subscription_permission,
    "sync_state": lambda state, local, m: resuming.synchronise(state, local, m.sync_state),
    "simulate": lambda state, local, m: simulate.on_scenario(state, local, m.simulate),
    "update_metadata": _update_metadata,
    "update_audio_track": _update_audio_track,
    "update_video_track": _update_video_track,
    "publish_data_track_request": lambda state, local, m: data_tracks.publish(
        state, local, m.publish_data_track_request
    ),
    "unpublish_data_track_request": lambda state, local, m: data_tracks.unpublish(
        state, local, m.unpublish_data_track_request
    ),
    "update_data_subscription": lambda state, local, m: data_tracks.update_subscription(
        state, local, m.update_data_subscription
    ),
    "store_data_blob_request": _not_offered,
    "get_data_blob_request": _not_offered,
}
