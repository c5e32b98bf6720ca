"""Going out: leave, removal, a lost session, a failed connection (wire contract 5.4-5.6, E.8)."""

from livekit.protocol import models, rtc

from tertulia.protocol.ids import SessionId
from tertulia.protocol.tap import ParticipantGone
from tertulia.sfu import data_tracks, publishing, rpc, subscribing
from tertulia.sfu.events import EndSession
from tertulia.sfu.participant import ACTIVE, DISCONNECTED, LocalParticipant, Participant
from tertulia.sfu.settings import FAREWELL_NS, RESUME_WINDOW_NS
from tertulia.sfu.state import RoomState
from tertulia.sfu.transport.api import PEER_CLOSED

Reason = models.DisconnectReason
Leave = rtc.LeaveRequest


def leave_message(reason: Reason, action: Leave.Action = Leave.DISCONNECT) -> rtc.SignalResponse:
    return rtc.SignalResponse(leave=Leave(reason=reason, action=action, can_reconnect=action != Leave.DISCONNECT))


def drain(state: RoomState) -> None:
    """This node stops: its members come back through another one."""
    for local in state.local_members():
        state.condemn(local.who, Reason.SERVER_SHUTDOWN, Leave.RECONNECT)


def session_closed(state: RoomState, session: SessionId) -> None:
    """The WebSocket is gone: a connected participant may come back, one that never connected is gone."""
    local = state.sessions.pop(session, None)
    if local is None:
        return
    local.session = None
    if not local.is_active:
        remove(state, local.who, Reason.SIGNAL_CLOSE)
    elif local.primary.is_lost:
        await_return(state, local)


def connection_failed(state: RoomState, local: LocalParticipant, reason: str) -> None:
    """Media is gone for good (ICE consent lost, DTLS refused): the client must come anew."""
    state.counters["transport_failed"] += 1
    if local.is_active and local.session is not None and reason == PEER_CLOSED:
        local.primary.is_lost = True
        state.agenda.at(state.after(FAREWELL_NS), lambda: _said_nothing(state, local))
    elif local.is_active:
        remove(state, local.who, Reason.CONNECTION_TIMEOUT, Leave.RECONNECT)
    else:
        remove(state, local.who, Reason.JOIN_FAILURE, Leave.RECONNECT)


def _said_nothing(state: RoomState, local: LocalParticipant) -> None:
    """The connection was closed, and no leave has followed."""
    remove(state, local.who, Reason.CONNECTION_TIMEOUT, Leave.RECONNECT)


def await_return(state: RoomState, local: LocalParticipant) -> None:
    """Neither signal nor media: removed unless one of them comes back in time."""
    if local.deadline is None:
        local.deadline = state.agenda.at(state.after(RESUME_WINDOW_NS), lambda: _not_returned(state, local))


def returned(local: LocalParticipant) -> None:
    if local.is_active and local.deadline is not None:
        local.deadline.cancel()
        local.deadline = None


def _not_returned(state: RoomState, local: LocalParticipant) -> None:
    local.deadline = None
    if not local.who.is_gone:
        state.counters["connection_timeout"] += 1
        remove(state, local.who, Reason.CONNECTION_TIMEOUT)


def remove(
    state: RoomState,
    who: Participant,
    reason: Reason,
    action: Leave.Action = Leave.DISCONNECT,
) -> None:
    """Take a member out: its tracks, wishes, connections and session; everybody hears it."""
    if who.is_gone:
        return
    was_active = who.info.state == ACTIVE
    if who.local is not None:
        who.local.forget_announced()
    for track in list(who.tracks.values()):
        if who.local is None:
            publishing.forget(state, track)
        else:
            publishing.unpublish(state, track)
    data_tracks.forget_publisher(state, who)
    rpc.forget_callee(state, who.sid)
    if who.local is not None:
        _release(state, who.local)
        end_session(state, who.local, None if reason == Reason.CLIENT_INITIATED else leave_message(reason, action))
        state.replicas.depart(who.sid, reason)
    who.become(DISCONNECTED)
    who.info.disconnect_reason = reason
    who.info.version += 1
    state.remove(who)
    state.updates.depart(who, state.now)
    state.taps.tell(ParticipantGone(who.identity, who.sid))
    state.happened("participant_left" if was_active else "participant_connection_aborted", who)
    who.local = None  # a cycle would keep both until it is collected


def _release(state: RoomState, local: LocalParticipant) -> None:
    """Give back everything the member held on this node."""
    for appointment in (local.deadline, local.offer_deadline):
        if appointment is not None:
            appointment.cancel()
    for wish in list(local.subscriptions.values()):
        subscribing.end(state, local, wish)
    data_tracks.forget_subscriber(state, local)
    state.renegotiations.pop(local.sid, None)
    local.answerer.forget()
    if local.offerer is not None:
        local.offerer.forget()
    for peer in local.peers:
        state.by_transport.pop(peer.transport, None)
        state.transports.close(peer.transport)


def end_session(state: RoomState, local: LocalParticipant, farewell: rtc.SignalResponse | None) -> None:
    """Close the WebSocket; a close without a leave makes clients resume."""
    if local.session is None:
        return
    if farewell is not None:
        state.send(local, farewell)
    state.sessions.pop(local.session, None)
    state.emit(EndSession(local.session))
    local.session = None
