"""The session machine in virtual time: order, bounds, endings; and a random walk over everything it can meet."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc
from websockets.frames import Frame, Opcode

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.frames import frame_of
from tertulia.signal.session import (
    BURST_NS,
    END_AFTER_LEAVE_NS,
    FIRST,
    FIRST_MESSAGE_NS,
    FLUSH_NS,
    MAX_JSON_CHARS,
    MAX_QUEUED_MESSAGES,
    SLOW_NS,
    TRANSITIONS,
    Close,
    Down,
    Encoder,
    End,
    Forward,
    Gone,
    Lost,
    SessionEvent,
    SessionOutput,
    SignalSession,
    State,
    Tell,
    Up,
    Write,
    Written,
)

T0 = Nanos(0)
UNIX_MS = 1_700_000_000_000
JOIN = rtc.SignalResponse(join=rtc.JoinResponse(participant=models.ParticipantInfo(sid="PA_1")))
TOKEN = rtc.SignalResponse(refresh_token="t")
LEAVE = rtc.SignalResponse(leave=rtc.LeaveRequest())
PING = rtc.SignalRequest(ping=1).SerializeToString()
OFFER = rtc.SignalRequest(offer=rtc.SessionDescription(sdp="v=0")).SerializeToString()


def session() -> tuple[SignalSession, Counts]:
    counts = Counts()
    return SignalSession(T0, UNIX_MS, counts), counts


def out(machine: SignalSession) -> list[SessionOutput]:
    outputs: list[SessionOutput] = []
    while (output := machine.poll()) is not None:
        outputs.append(output)
    return outputs


def written(machine: SignalSession, now: Nanos = T0) -> list[str]:
    """Write everything there is; the kinds of the messages in order."""
    kinds = []
    outputs = out(machine)
    while outputs:
        output = outputs.pop(0)
        if isinstance(output, Write):
            assert isinstance(output.data, bytes)
            kinds.append(rtc.SignalResponse.FromString(output.data).WhichOneof("message") or "")
            machine.handle(now, Written())
        else:
            kinds.append(type(output).__name__)
        outputs += out(machine)
    return kinds


def opened() -> tuple[SignalSession, Counts]:
    machine, counts = session()
    machine.handle(T0, Down(JOIN))
    assert written(machine) == ["join"]
    return machine, counts


def test_join_goes_first_whatever_the_order() -> None:
    machine, _ = session()
    machine.handle(T0, Down(TOKEN))
    machine.handle(T0, Up(PING))
    assert not out(machine)
    machine.handle(T0, Down(JOIN))
    machine.handle(T0, Down(TOKEN))
    assert written(machine) == ["join", "refresh_token", "pong", "refresh_token"]


def test_leave_first_drops_what_was_held() -> None:
    machine, _ = session()
    machine.handle(T0, Down(TOKEN))
    machine.handle(T0, Down(LEAVE))
    machine.handle(T0, End())
    assert written(machine) == ["leave", "Close"]
    assert machine.state is State.ENDED


def test_no_first_message() -> None:
    machine, _ = session()
    assert machine.next_wake() == FIRST_MESSAGE_NS
    machine.wake(FIRST_MESSAGE_NS)
    assert out(machine) == [Tell(Gone.NO_FIRST_MESSAGE), Close(1011, "no answer")]
    assert machine.next_wake() is None


def test_pongs_carry_server_time() -> None:
    machine, _ = opened()
    now = Nanos(5 * SECOND)
    machine.handle(now, Up(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=42)).SerializeToString()))
    (pong,) = out(machine)
    assert isinstance(pong, Write)
    assert isinstance(pong.data, bytes)
    answer = rtc.SignalResponse.FromString(pong.data).pong_resp
    assert (answer.last_ping_timestamp, answer.timestamp) == (42, UNIX_MS + 5_000)


def test_text_turns_json_on() -> None:
    machine, _ = opened()
    machine.handle(T0, Up('{"pingReq": {"timestamp": "5"}}'))
    (pong,) = out(machine)
    assert isinstance(pong, Write)
    assert isinstance(pong.data, str)
    assert json.loads(pong.data)["pongResp"]["lastPingTimestamp"] == "5"


def test_huge_json_is_not_parsed() -> None:
    machine, counts = opened()
    machine.handle(T0, Up("[" * (MAX_JSON_CHARS + 1)))
    assert out(machine) == [Tell(Gone.GARBAGE), Close(1009, "message too big")]
    assert counts[Drop.JSON_BYTES] == 1


def test_slow_reader_is_cut_off() -> None:
    machine, counts = opened()
    machine.handle(T0, Down(TOKEN))
    assert isinstance(out(machine)[0], Write)
    assert machine.next_wake() == SLOW_NS
    machine.wake(SLOW_NS)
    assert out(machine) == [Tell(Gone.TOO_SLOW), Close(1008, "too slow to read", abort=True)]
    assert counts[Drop.TOO_SLOW] == 1


def test_outbound_queue_is_bounded() -> None:
    machine, counts = opened()
    for _ in range(MAX_QUEUED_MESSAGES + 2):
        machine.handle(T0, Down(TOKEN))
    outputs = out(machine)
    assert outputs[-2:] == [Tell(Gone.OUTBOUND_FULL), Close(1008, "too slow to read", abort=True)]
    assert counts[Drop.OUTBOUND_FULL] == 1
    assert machine.snapshot()["queued"] == 0


def test_held_messages_are_bounded() -> None:
    machine, counts = session()
    for _ in range(MAX_QUEUED_MESSAGES + 5):
        machine.handle(T0, Down(TOKEN))
    assert counts[Drop.OUTBOUND_FULL] == 5


def test_a_leave_nobody_follows_up_ends_the_session() -> None:
    for event in (Down(LEAVE), Up(rtc.SignalRequest(leave=rtc.LeaveRequest()).SerializeToString())):
        machine, _ = opened()
        machine.handle(T0, event)
        written(machine)
        assert machine.next_wake() == END_AFTER_LEAVE_NS
        machine.wake(END_AFTER_LEAVE_NS)
        assert out(machine) == [Tell(Gone.LEFT), Close(1000)]


def test_end_flushes_but_not_for_ever() -> None:
    machine, counts = opened()
    machine.handle(T0, Down(TOKEN))
    machine.handle(T0, Down(LEAVE))
    machine.handle(T0, End(1000))
    machine.handle(T0, Down(TOKEN))
    machine.handle(T0, Up(OFFER))
    assert counts[Drop.AFTER_END] == 2
    assert len(out(machine)) == 1
    assert machine.next_wake() == FLUSH_NS
    machine.wake(FLUSH_NS)
    assert out(machine) == [Close(1000, abort=True)], "the house knows already"


def test_lost_connections_are_told_once() -> None:
    for code, reason in ((1000, Gone.CLIENT_CLOSED), (1001, Gone.CLIENT_CLOSED), (1006, Gone.CONNECTION_LOST)):
        machine, _ = opened()
        machine.handle(T0, Lost(code))
        machine.handle(T0, Lost(1006))
        assert out(machine) == [Tell(reason)]


def test_requests_are_forwarded_in_order_and_throttled_not_lost() -> None:
    machine, _ = opened()
    for _ in range(900):
        machine.handle(T0, Up(OFFER))
    assert machine.read_pause_ns(T0) == 0, "a burst is fine"
    for _ in range(600):
        machine.handle(T0, Up(OFFER))
    assert sum(isinstance(output, Forward) for output in out(machine)) == 1500
    pause_ns = machine.read_pause_ns(T0)
    assert 2 * SECOND < pause_ns < 3 * SECOND
    assert machine.read_pause_ns(Nanos(pause_ns)) == 0
    machine.handle(Nanos(60 * SECOND), Up(bytes(2 << 20)))
    assert machine.read_pause_ns(Nanos(60 * SECOND)) < BURST_NS


KINDS = [JOIN, TOKEN, LEAVE, rtc.SignalResponse(reconnect=rtc.ReconnectResponse()), rtc.SignalResponse()]
EVENTS: st.SearchStrategy[SessionEvent] = st.one_of(
    st.sampled_from(KINDS).map(Down),
    st.one_of(st.binary(max_size=40), st.text(max_size=20), st.sampled_from([PING, OFFER])).map(Up),
    st.sampled_from([End(), End(1011), Lost(1000), Lost(1006)]),
)


@given(st.lists(st.tuples(st.integers(0, 3_000), st.one_of(EVENTS, st.none(), st.just("written")))))
def test_any_history(steps: list[tuple[int, SessionEvent | str | None]]) -> None:
    machine, _ = session()
    now, state, writes, tells, closes, under_way = 0, machine.state, [], 0, 0, False
    ended_by_house = False
    for step_ms, event in steps:
        now += step_ms * MILLISECOND
        if event is None:
            machine.wake(Nanos(now))
        elif isinstance(event, str):
            if under_way:
                under_way = False
                machine.handle(Nanos(now), Written())
        else:
            ended_by_house |= isinstance(event, End) and machine.state in (State.OPENING, State.OPEN)
            machine.handle(Nanos(now), event)
        for output in out(machine):
            match output:
                case Write(data):
                    assert not under_way, "one write at a time"
                    under_way = True
                    writes.append(data)
                case Tell():
                    tells += 1
                case Close():
                    closes += 1
        assert machine.state is state or machine.state in TRANSITIONS[state] or machine.state is State.ENDED
        state = machine.state
    if writes and isinstance(writes[0], bytes):
        assert rtc.SignalResponse.FromString(writes[0]).WhichOneof("message") in FIRST
    assert closes <= 1
    assert tells <= (0 if ended_by_house else 1)
    if state is State.ENDED:
        assert machine.next_wake() is None
    else:
        assert tells + closes <= 1


def test_what_many_are_told_is_encoded_once() -> None:
    encoder = Encoder()
    message = rtc.SignalResponse(refresh_token="a")
    first = encoder.encode(message)
    assert encoder.encode(message) is first
    assert (
        encoder.encode(rtc.SignalResponse(refresh_token="b"))
        == rtc.SignalResponse(refresh_token="b").SerializeToString()
    )
    assert encoder.encode(message) == first


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("text", [False, True])
def test_our_frames_are_those_of_the_library(size: int, text: bool) -> None:
    data = "é" * size if text else bytes(size)
    payload = data.encode() if isinstance(data, str) else data
    opcode = Opcode.TEXT if text else Opcode.BINARY
    assert frame_of(data) == Frame(opcode, payload).serialize(mask=False)
