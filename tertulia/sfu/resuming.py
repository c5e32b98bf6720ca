"""Coming back: a new WebSocket for a participant that is still here, or the order to start afresh (wire 5.6)."""

from livekit.protocol import models, rtc

from tertulia.sfu import data_tracks, delivering, joining, leaving, negotiating, publishing, subscribing
from tertulia.sfu.events import EndSession, Resume, Send
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.settings import DEPARTED_NS, server_info
from tertulia.sfu.state import RoomState
from tertulia.sfu.updates import full_update

Reason = models.DisconnectReason
Leave = rtc.LeaveRequest


def resume(state: RoomState, event: Resume) -> None:
    """Sid and identity must both be the participant's (G30)."""
    who = state.members.get(event.participant_sid)
    local = who.local if who is not None else None
    if local is None or local.who.identity != event.claims.identity:
        state.counters["resume_refused"] += 1
        state.emit(Send(event.session, leaving.leave_message(Reason.STATE_MISMATCH, Leave.RECONNECT)))
        state.emit(EndSession(event.session))
        return
    state.counters["resumed"] += 1
    leaving.end_session(state, local, None)
    local.session = event.session
    local.claims = event.claims
    state.sessions[event.session] = local
    leaving.returned(local)
    if state.now < local.drop_resume_until and local.drop_resume_silently:
        _drop(state, local)
        return
    _tell_everything(state, local)
    if state.now < local.drop_resume_until:
        _drop(state, local)
        return
    if local.primary.is_lost:
        leaving.await_return(state, local)
    negotiating.restart(state, local)
    joining.refresh_token(state, local)
    if event.sync_state is not None:
        synchronise(state, local, event.sync_state)


def _drop(state: RoomState, local: LocalParticipant) -> None:
    """A test asked for a resume that fails (simulate scenario)."""
    local.drop_resume_until = 0
    leaving.end_session(state, local, None)


def _tell_everything(state: RoomState, local: LocalParticipant) -> None:
    """`reconnect` first, then the room as it is now: what was missed is not known."""
    response = rtc.ReconnectResponse(
        ice_servers=state.config.ice_servers,
        client_configuration=models.ClientConfiguration(),
        server_info=server_info(state.node_id, state.region),
        last_message_seq=local.last_sequence,
    )
    state.send(local, rtc.SignalResponse(reconnect=response))
    present = [member.info for member in state.members.values() if member is local.who or not member.is_hidden]
    departed = state.updates.departed(since=state.now - DEPARTED_NS)
    for message in full_update([*departed, *present]):
        state.send(local, message)
    state.send(local, rtc.SignalResponse(room_update=rtc.RoomUpdate(room=state.info())))
    local.heard.clear()
    local.told_quality.clear()
    if any(local.sid in track.subscribers for track in state.data_tracks.values()):
        data_tracks.tell_handles(state, local)


def synchronise(state: RoomState, local: LocalParticipant, said: rtc.SyncState) -> None:
    """What the client thinks it has: unknown publications mean a full reconnect, its wishes are applied."""
    handles = {published.info.pub_handle for published in said.publish_data_tracks}
    unknown = [p.track.sid for p in said.publish_tracks if not publishing.is_known(local, p.track.sid)]
    if unknown or handles - set(local.who.data_tracks):
        state.counters["resume_mismatch"] += 1
        state.condemn(local.who, Reason.STATE_MISMATCH, Leave.RECONNECT)
        return
    if said.HasField("subscription"):
        named = subscribing.named_tracks(said.subscription)
        subscribing.update_subscription(state, local, named, subscribe=said.subscription.subscribe)
    if said.track_sids_disabled:
        disabled = rtc.UpdateTrackSettings(track_sids=said.track_sids_disabled, disabled=True)
        subscribing.on_track_setting(state, local, disabled)
    if said.HasField("data_subscription"):
        data_tracks.update_subscription(state, local, said.data_subscription)
    received = {one.publisher_sid: one.last_seq for one in said.datachannel_receive_states}
    delivering.replay(state, local, received)
