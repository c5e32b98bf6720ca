"""RPC from the server API to a member: every call ends exactly once."""

import pytest
from livekit.protocol import models, room, rtc

from tertulia.sfu.events import PerformRpc, RpcAnswered
from tertulia.sfu.settings import MAX_CALLS
from tests.unit.room.stage import Guest, Stage


def call(stage: Stage, ticket: int = 1, payload: str = "hi", to: str = "ann", timeout_ms: int = 0) -> None:
    request = room.PerformRpcRequest(
        room="stage", destination_identity=to, method="greet", payload=payload, response_timeout_ms=timeout_ms
    )
    stage.feed(PerformRpc(ticket, request))


def answers(stage: Stage) -> list[tuple[int, str, str]]:
    """(ticket, payload or text, error code) of every ended call."""
    found = [output for output in stage.outputs if isinstance(output, RpcAnswered)]
    return [(a.ticket, a.error.message if a.error else a.payload, a.error.code if a.error else "") for a in found]


def asked(guest: Guest) -> models.RpcRequest:
    return guest.packets[-1].rpc_request


def ack(guest: Guest, call_id: str) -> None:
    guest.send_data(models.DataPacket(rpc_ack=models.RpcAck(request_id=call_id)))


def respond(guest: Guest, call_id: str, **more: object) -> None:
    response = models.RpcResponse(request_id=call_id, **more)  # type: ignore[arg-type]
    guest.send_data(models.DataPacket(rpc_response=response, destination_identities=[call_id]))


def test_a_call_and_its_answer() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    call(stage, 7)
    (packet,) = ann.packets
    assert packet.participant_identity == packet.rpc_request.id
    assert (asked(ann).method, asked(ann).payload, asked(ann).response_timeout_ms) == ("greet", "hi", 10_000)
    assert asked(ann).version == 1
    ack(ann, asked(ann).id)
    stage.pass_time(5)
    respond(ann, asked(ann).id, payload="hello")
    assert answers(stage) == [(7, "hello", "")]
    assert not ben.packets  # nobody else's business
    stage.pass_time(20)
    assert len(answers(stage)) == 1


def test_errors_of_the_member() -> None:
    stage = Stage()
    ann = stage.join("ann")
    call(stage)
    error = models.RpcError(code=1500, message="Application error in method handler", data="details")
    respond(ann, asked(ann).id, error=error)
    assert answers(stage) == [(1, "RpcError 1500: Application error in method handler: details", "internal")]
    call(stage, 2)
    respond(ann, asked(ann).id, error=models.RpcError(code=1400, message="Method not supported at destination"))
    assert answers(stage)[1] == (2, "RpcError 1400: Method not supported at destination", "invalid_argument")


def test_time_runs_out() -> None:
    stage = Stage()
    ann = stage.join("ann")
    call(stage, 1)
    stage.pass_time(2.1)
    assert answers(stage) == [(1, "RpcError 1501: Connection timeout", "canceled")]
    call(stage, 2, timeout_ms=4_000)
    ack(ann, asked(ann).id)
    stage.pass_time(3.9)
    assert len(answers(stage)) == 1
    stage.pass_time(0.2)
    assert answers(stage)[1] == (2, "RpcError 1502: Response timeout", "canceled")
    respond(ann, asked(ann).id, payload="too late")
    assert len(answers(stage)) == 2


def test_the_member_leaves() -> None:
    stage = Stage()
    ann = stage.join("ann")
    call(stage)
    ann.say(leave=rtc.LeaveRequest())
    assert answers(stage) == [(1, "RpcError 1503: Recipient disconnected", "unavailable")]


@pytest.mark.parametrize(("to", "payload", "code"), [("nobody", "", "not_found"), ("ann", "x" * 15_361, "malformed")])
def test_refusals(to: str, payload: str, code: str) -> None:
    stage = Stage()
    stage.join("ann")
    call(stage, to=to, payload=payload)
    assert answers(stage)[0][2] == code


def test_only_the_callee_answers() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    call(stage)
    respond(ben, asked(ann).id, payload="forged")
    assert answers(stage) == []


def test_calls_are_limited() -> None:
    stage = Stage()
    stage.join("ann")
    for ticket in range(MAX_CALLS + 1):
        call(stage, ticket)
    assert [code for _, _, code in answers(stage)] == ["resource_exhausted"]
