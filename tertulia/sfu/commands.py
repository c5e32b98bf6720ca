"""RoomService commands on one room: LiveKit's answers, error codes and texts (wire contract 7.1)."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu import data_tracks, delivering, joining, leaving, publishing, requests, subscribing
from tertulia.sfu.participant import LocalParticipant, Participant
from tertulia.sfu.settings import MAX_DATA_BYTES, MAX_DESTINATIONS
from tertulia.sfu.state import RoomState

Reason = models.DisconnectReason
NONCE_BYTES = 16


def run(state: RoomState, method: str, request: Message) -> Message:
    """The response to one RoomService method, or RequestError."""
    handler = HANDLERS.get(method)
    if handler is None:
        raise RequestError("unimplemented", f"{method} is not served by this room")
    return handler(state, request)


def _member(state: RoomState, identity: str) -> Participant:
    who = state.by_identity.get(identity)
    if who is None:
        raise RequestError("not_found", "participant does not exist")
    return who


def _local(who: Participant) -> LocalParticipant:
    """Only the member's own node can do this; the cluster sends the command there."""
    if who.local is None:
        raise RequestError("unavailable", "participant is connected to another node")
    return who.local


def _copy(who: Participant) -> models.ParticipantInfo:
    info = models.ParticipantInfo()
    info.CopyFrom(who.info)
    return info


def _list_participants(state: RoomState, request: room.ListParticipantsRequest) -> room.ListParticipantsResponse:
    return room.ListParticipantsResponse(participants=[member.info for member in state.members.values()])


def _participant(state: RoomState, request: room.RoomParticipantIdentity) -> models.ParticipantInfo:
    return _copy(_member(state, request.identity))


def _remove(state: RoomState, request: room.RoomParticipantIdentity) -> room.RemoveParticipantResponse:
    who = _member(state, request.identity)
    _local(who)
    leaving.remove(state, who, Reason.PARTICIPANT_REMOVED)
    return room.RemoveParticipantResponse()


def _mute(state: RoomState, request: room.MuteRoomTrackRequest) -> room.MuteRoomTrackResponse:
    who = _member(state, request.identity)
    track = who.tracks.get(request.track_sid)
    if track is None:
        raise RequestError("not_found", "track is not found")
    if not request.muted and track.info.muted and not state.config.enable_remote_unmute:
        raise RequestError("failed_precondition", "remote unmute not enabled")
    local = _local(who)
    if track.info.muted != request.muted:
        publishing.set_muted(state, track, request.muted)
        mute = rtc.MuteTrackRequest(sid=track.sid, muted=request.muted)
        state.send(local, rtc.SignalResponse(mute=mute))
    response = room.MuteRoomTrackResponse()
    response.track.CopyFrom(track.info)
    return response


def _update_participant(state: RoomState, request: room.UpdateParticipantRequest) -> models.ParticipantInfo:
    who = _member(state, request.identity)
    _local(who)
    requests.update_participant(state, who, request.metadata, request.name, request.attributes)
    if request.HasField("permission"):
        set_permission(state, who, request.permission)
    return _copy(who)


def set_permission(state: RoomState, who: Participant, permission: models.ParticipantPermission) -> None:
    """Applied to a live member: what it may not do any more ends now."""
    info = who.info
    if info.permission == permission:
        return
    was_hidden = info.permission.hidden
    info.permission.CopyFrom(permission)
    state.changed(who)
    if permission.hidden and not was_hidden:
        state.updates.vanish(who, state.now)
    if permission.hidden != was_hidden:
        subscribing.review_publisher(state, who.sid)
    if who.local is not None:
        publishing.review_permission(state, who.local)
        data_tracks.review_permission(state, who.local)
        subscribing.review_all(state, who.local)
        joining.refresh_token(state, who.local)


def _update_subscriptions(
    state: RoomState, request: room.UpdateSubscriptionsRequest
) -> room.UpdateSubscriptionsResponse:
    local = _local(_member(state, request.identity))
    named = [*request.track_sids, *(sid for entry in request.participant_tracks for sid in entry.track_sids)]
    subscribing.update_subscription(state, local, named, subscribe=request.subscribe)
    return room.UpdateSubscriptionsResponse()


def _send_data(state: RoomState, request: room.SendDataRequest) -> room.SendDataResponse:
    if len(request.nonce) not in (0, NONCE_BYTES):
        raise RequestError("invalid_argument", f"nonce should be {NONCE_BYTES} bytes or not present")
    if len(request.data) > MAX_DATA_BYTES:
        raise RequestError("invalid_argument", f"data exceeds {MAX_DATA_BYTES} bytes")
    if len(request.destination_identities) + len(request.destination_sids) > MAX_DESTINATIONS:
        raise RequestError("invalid_argument", f"more than {MAX_DESTINATIONS} destinations")
    if not state.data.is_repeated(request.nonce):
        user = models.UserPacket(
            payload=request.data,
            destination_sids=request.destination_sids,
            destination_identities=request.destination_identities,
            nonce=request.nonce,
        )
        if request.HasField("topic"):
            user.topic = request.topic
        packet = models.DataPacket(kind=request.kind, destination_identities=request.destination_identities, user=user)
        delivering.send(state, packet, sender=None)
    return room.SendDataResponse()


def _update_metadata(state: RoomState, request: room.UpdateRoomMetadataRequest) -> models.Room:
    if len(request.metadata.encode()) > state.config.max_metadata_bytes:
        raise RequestError("invalid_argument", f"metadata exceeds {state.config.max_metadata_bytes} bytes")
    changed = models.Room()
    changed.CopyFrom(state.room)
    changed.metadata = request.metadata
    renew(state, changed)
    return state.info()


def renew(state: RoomState, changed: models.Room) -> None:
    """What the room's record says now; members hear of a change."""
    if state.room != changed:
        state.room.CopyFrom(changed)
        state.broadcast(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=state.info())))


def _delete(state: RoomState, request: room.DeleteRoomRequest) -> room.DeleteRoomResponse:
    state.closing = Reason.ROOM_DELETED
    return room.DeleteRoomResponse()


Handler = Callable[[RoomState, Any], Message]
HANDLERS: Mapping[str, Handler] = {
    "ListParticipants": _list_participants,
    "GetParticipant": _participant,
    "RemoveParticipant": _remove,
    "MutePublishedTrack": _mute,
    "UpdateParticipant": _update_participant,
    "UpdateSubscriptions": _update_subscriptions,
    "SendData": _send_data,
    "UpdateRoomMetadata": _update_metadata,
    "DeleteRoom": _delete,
}
