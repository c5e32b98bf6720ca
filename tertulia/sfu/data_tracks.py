"""Data tracks: published under a handle of the publisher's choice, sent on under handles of each subscriber's.

Binary packets on the `_data_track` channel; only their handle is rewritten (wire contract 4.8).
"""

import struct

from livekit.protocol import models, rtc

from tertulia.protocol.ids import mint
from tertulia.sfu import replication
from tertulia.sfu.data import DATA_TRACK, DataTrack
from tertulia.sfu.participant import LocalParticipant, Participant
from tertulia.sfu.settings import DATA_TRACK_BUFFER_BYTES
from tertulia.sfu.state import RoomState

Reason = rtc.RequestResponse.Reason
HEADER_BYTES = 12
MAX_HANDLE = 0xFFFF
MAX_NAME_CHARS = 256


# ------------------------------------------------------------------------------------------ publish


def publish(state: RoomState, local: LocalParticipant, request: rtc.PublishDataTrackRequest) -> None:
    reason = _problem(state, local, request)
    if reason is not None:
        state.counters[f"data_track_{Reason.Name(reason).lower()}"] += 1
        response = rtc.RequestResponse(reason=reason, publish_data_track=request)
        state.send(local, rtc.SignalResponse(request_response=response))
        return
    info = models.DataTrackInfo(pub_handle=request.pub_handle, sid=mint("DTR_", state.rng), name=request.name)
    for name in ("encryption", "frame_encoding", "schema"):
        _copy_field(request, info, name)
    local.who.data_tracks[info.pub_handle] = info
    state.data_tracks[info.sid] = DataTrack(info, local.sid)
    answer = rtc.PublishDataTrackResponse(info=info)
    state.send(local, rtc.SignalResponse(publish_data_track_response=answer))
    state.changed(local.who)
    appeared(state, state.data_tracks[info.sid])


def appeared(state: RoomState, track: DataTrack) -> None:
    """Members that want every data track get this one."""
    for local in state.local_members():
        if local.auto_subscribe_data and local.sid != track.publisher_sid:
            _subscribe(state, local, track)


def _problem(state: RoomState, local: LocalParticipant, request: rtc.PublishDataTrackRequest) -> "Reason | None":
    own = local.who.data_tracks
    if not local.who.info.permission.can_publish_data:
        return Reason.NOT_ALLOWED
    if not 1 <= request.pub_handle <= MAX_HANDLE:
        return Reason.INVALID_HANDLE
    if not 1 <= len(request.name) <= MAX_NAME_CHARS:
        return Reason.INVALID_NAME
    if request.pub_handle in own:
        return Reason.DUPLICATE_HANDLE
    if any(info.name == request.name for info in own.values()):
        return Reason.DUPLICATE_NAME
    if len(own) >= state.config.max_data_tracks:
        return Reason.LIMIT_EXCEEDED
    return None


def _copy_field(request: rtc.PublishDataTrackRequest, info: models.DataTrackInfo, name: str) -> None:
    """Enums are set, messages and optional values are copied only when they were said."""
    about = request.DESCRIPTOR.fields_by_name[name]
    if about.has_presence and not request.HasField(name):
        return
    if about.message_type is not None:
        getattr(info, name).CopyFrom(getattr(request, name))
    else:
        setattr(info, name, getattr(request, name))


def unpublish(state: RoomState, local: LocalParticipant, request: rtc.UnpublishDataTrackRequest) -> None:
    info = local.who.data_tracks.get(request.pub_handle)
    if info is None:
        state.counters["data_track_not_found"] += 1
        response = rtc.RequestResponse(reason=Reason.NOT_FOUND, unpublish_data_track=request)
        state.send(local, rtc.SignalResponse(request_response=response))
        return
    end(state, local.who, info)


def end(state: RoomState, who: Participant, info: models.DataTrackInfo) -> None:
    """By request, or because the permission is gone."""
    del who.data_tracks[info.pub_handle]
    track = state.data_tracks.pop(info.sid)
    if who.local is not None:
        answer = rtc.UnpublishDataTrackResponse(info=info)
        state.send(who.local, rtc.SignalResponse(unpublish_data_track_response=answer))
    state.changed(who)
    for sid in track.subscribers:
        if (member := state.members.get(sid)) is not None and member.local is not None:
            tell_handles(state, member.local)


def forget_publisher(state: RoomState, who: Participant) -> None:
    for info in list(who.data_tracks.values()):
        end(state, who, info)


def review_permission(state: RoomState, local: LocalParticipant) -> None:
    if not local.who.info.permission.can_publish_data:
        forget_publisher(state, local.who)


# ------------------------------------------------------------------------------------------ subscribe


def update_subscription(state: RoomState, local: LocalParticipant, request: rtc.UpdateDataSubscription) -> None:
    for update in request.updates[: state.config.max_subscriptions]:
        track = state.data_tracks.get(update.track_sid)
        if track is None:
            state.counters["data_track_not_found"] += 1
        elif not update.subscribe:
            track.subscribers.pop(local.sid, None)
        elif track.publisher_sid != local.sid:
            _subscribe(state, local, track, tell=False)
    tell_handles(state, local)


def subscribe_all(state: RoomState, local: LocalParticipant) -> None:
    """A member that wants every data track joined."""
    if local.auto_subscribe_data and state.data_tracks:
        for track in state.data_tracks.values():
            if track.publisher_sid != local.sid:
                _subscribe(state, local, track, tell=False)
        tell_handles(state, local)


def _subscribe(state: RoomState, local: LocalParticipant, track: DataTrack, *, tell: bool = True) -> None:
    if not local.who.info.permission.can_subscribe:
        state.counters["data_track_not_allowed"] += 1
        return
    if local.sid not in track.subscribers:
        used = {other.subscribers.get(local.sid) for other in state.data_tracks.values()}
        free = next((handle for handle in range(1, MAX_HANDLE + 1) if handle not in used), None)
        if free is None:
            state.counters["limit_data_track_handles"] += 1
            return
        track.subscribers[local.sid] = free
    if tell:
        tell_handles(state, local)


def tell_handles(state: RoomState, local: LocalParticipant) -> None:
    """Always the full map."""
    state.relay.data_tracks_changed()
    message = rtc.DataTrackSubscriberHandles()
    for track in state.data_tracks.values():
        handle = track.subscribers.get(local.sid)
        publisher = state.members.get(track.publisher_sid)
        if handle is not None and publisher is not None:
            message.sub_handles[handle].publisher_identity = publisher.identity
            message.sub_handles[handle].publisher_sid = publisher.sid
            message.sub_handles[handle].track_sid = track.info.sid
    state.send(local, rtc.SignalResponse(data_track_subscriber_handles=message))


def forget_subscriber(state: RoomState, local: LocalParticipant) -> None:
    for track in state.data_tracks.values():
        track.subscribers.pop(local.sid, None)
    state.relay.data_tracks_changed()


# ------------------------------------------------------------------------------------------ packets


def on_packet(state: RoomState, local: LocalParticipant, data: bytes) -> None:
    """A copy for each subscriber, with its own handle in bytes 2-3."""
    if len(data) < HEADER_BYTES or data[0] >> 5:
        state.counters["data_track_malformed"] += 1
        return
    info = local.who.data_tracks.get(struct.unpack_from("!H", data, 2)[0])
    if info is None:
        state.counters["data_track_unknown_handle"] += 1
        return
    distribute(state, info.sid, data)
    replication.data_track_packet(state, info.sid, data)


def distribute(state: RoomState, track_sid: str, data: bytes) -> None:
    """To the subscribers on this node."""
    if len(data) < HEADER_BYTES or (track := state.data_tracks.get(track_sid)) is None:
        state.counters["data_track_late"] += 1
        return
    head, tail = data[:2], data[4:]
    for sid, handle in track.subscribers.items():
        subscriber = state.members[sid].local
        if subscriber is not None:
            _send(state, subscriber, head + struct.pack("!H", handle) + tail)


def _send(state: RoomState, local: LocalParticipant, data: bytes) -> None:
    transport = local.data_peer.transport
    if DATA_TRACK not in local.data_peer.channels:
        state.counters["data_track_not_open"] += 1
        return
    has_room = state.transports.buffered_bytes(transport, DATA_TRACK) <= DATA_TRACK_BUFFER_BYTES
    if not (has_room and state.transports.send(transport, DATA_TRACK, data)):
        state.counters["data_track_dropped"] += 1
