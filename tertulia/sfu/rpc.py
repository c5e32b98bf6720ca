"""The ends of RPCs from the server API (RoomService.PerformRpc): ack, response, time, or the member leaves.

Codes and texts are those clients use among themselves (wire contract 4.7). RPC between members is only forwarded and
never comes here.
"""

from livekit.protocol import models

from tertulia.protocol.errors import RequestError
from tertulia.sfu.events import RpcAnswered
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.state import RoomState

CONNECTION_TIMEOUT, RESPONSE_TIMEOUT, RECIPIENT_DISCONNECTED = 1501, 1502, 1503
REQUEST_TOO_LARGE = 1402
UNSUPPORTED_METHOD = 1400
TEXTS = {
    CONNECTION_TIMEOUT: "Connection timeout",
    RESPONSE_TIMEOUT: "Response timeout",
    RECIPIENT_DISCONNECTED: "Recipient disconnected",
    REQUEST_TOO_LARGE: "Request payload too large",
}
TWIRP_CODES = {
    CONNECTION_TIMEOUT: "canceled",
    RESPONSE_TIMEOUT: "canceled",
    RECIPIENT_DISCONNECTED: "unavailable",
    REQUEST_TOO_LARGE: "malformed",
    UNSUPPORTED_METHOD: "invalid_argument",
}
"""LiveKit's choice; whatever else a member answers is `internal`."""


def error_of(code: int, message: str = "", data: str = "") -> RequestError:
    text = f"RpcError {code}: {message or TEXTS.get(code, '')}" + (f": {data}" if data else "")
    return RequestError(TWIRP_CODES.get(code, "internal"), text)


def consume(state: RoomState, local: LocalParticipant, packet: models.DataPacket) -> bool:
    """True when this packet answers one of our calls, and is nobody else's business."""
    value = packet.WhichOneof("value")
    if value == "rpc_ack":
        call = state.calls.get(packet.rpc_ack.request_id)
        if call is None or call.callee_sid != local.sid:
            return False
        call.ack_timeout.cancel()
        return True
    if value != "rpc_response":
        return False
    response = packet.rpc_response
    call = state.calls.get(response.request_id)
    if call is None or call.callee_sid != local.sid:
        return False
    if response.WhichOneof("value") == "error":
        error = response.error
        _end(state, response.request_id, error=error_of(error.code, error.message, error.data))
    else:
        _end(state, response.request_id, payload=response.payload)
    return True


def forget_callee(state: RoomState, sid: str) -> None:
    """The member left."""
    for call_id in [call_id for call_id, call in state.calls.items() if call.callee_sid == sid]:
        fail(state, call_id, RECIPIENT_DISCONNECTED)


def fail(state: RoomState, call_id: str, code: int) -> None:
    if call_id in state.calls:
        state.counters["rpc_failed"] += 1
        _end(state, call_id, error=error_of(code))


def _end(state: RoomState, call_id: str, *, payload: str = "", error: RequestError | None = None) -> None:
    call = state.calls.pop(call_id)
    call.timeout.cancel()
    call.ack_timeout.cancel()
    state.emit(RpcAnswered(call.ticket, payload, error))
