"""The beginning of an RPC from the server API to a member: one packet, and two clocks.

The caller has an identity nobody else has: the call's id (wire contract 4.7). How calls end is `rpc`.
"""

from livekit.protocol import models, room

from tertulia.protocol.errors import RequestError
from tertulia.protocol.machine import MILLISECOND
from tertulia.sfu import delivering, rpc
from tertulia.sfu.data import Call
from tertulia.sfu.events import PerformRpc, RpcAnswered
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.settings import MAX_CALLS
from tertulia.sfu.state import RoomState

MAX_PAYLOAD_BYTES = 15_360
ACK_MS = 2_000
RESPONSE_MS = 10_000
MAX_RESPONSE_MS = 300_000
VERSION = 1


def perform(state: RoomState, event: PerformRpc) -> None:
    """Begin a call; every end of it is one RpcAnswered."""
    request = event.request
    try:
        local = _callee(state, request)
    except RequestError as error:
        state.counters["rpc_refused"] += 1
        state.emit(RpcAnswered(event.ticket, error=error))
        return
    call_id = f"{state.rng.getrandbits(128):032x}"
    response_ms = min(request.response_timeout_ms or RESPONSE_MS, MAX_RESPONSE_MS)
    state.calls[call_id] = Call(
        ticket=event.ticket,
        callee_sid=local.sid,
        timeout=state.agenda.at(
            state.after(response_ms * MILLISECOND), lambda: rpc.fail(state, call_id, rpc.RESPONSE_TIMEOUT)
        ),
        ack_timeout=state.agenda.at(
            state.after(ACK_MS * MILLISECOND), lambda: rpc.fail(state, call_id, rpc.CONNECTION_TIMEOUT)
        ),
    )
    asked = models.RpcRequest(
        id=call_id,
        method=request.method,
        payload=request.payload,
        response_timeout_ms=response_ms,
        version=VERSION,
    )
    packet = models.DataPacket(kind=models.DataPacket.RELIABLE, participant_identity=call_id, rpc_request=asked)
    delivering.send_to(state, local, packet)


def _callee(state: RoomState, request: room.PerformRpcRequest) -> LocalParticipant:
    member = state.by_identity.get(request.destination_identity)
    if member is None:
        raise RequestError("not_found", "participant does not exist")
    if member.local is None:
        raise RequestError("unavailable", "participant is connected to another node")
    if len(request.payload.encode()) > MAX_PAYLOAD_BYTES:
        raise rpc.error_of(rpc.REQUEST_TOO_LARGE)
    if len(state.calls) >= MAX_CALLS:
        state.counters["limit_calls"] += 1
        raise RequestError("resource_exhausted", "too many calls are waiting in this room")
    return member.local
