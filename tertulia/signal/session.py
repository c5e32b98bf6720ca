"""One client's signal session: order, answers to pings, bounds. A machine: no clock, no socket.

Decides what reaches the client first (`join`, `reconnect` or `leave`; clients lose or misread anything before it), when
a client is too slow, too fast or talks nonsense, and that `leave` is flushed before the WebSocket closes (LiveKit wire
contract 1.4, 1.7, 5.4, G4, G34). Does not decide what a request means: that is the room's.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, StrEnum

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.signal.counts import Counts, Drop

MAX_QUEUED_MESSAGES = 4_096
MAX_QUEUED_BYTES = 4 << 20
MAX_JSON_CHARS = 256 << 10
"""A JSON message costs a hundred times a binary one; no honest one comes near."""
MAX_GARBAGE = 10
"""So many undecodable messages and the session is closed: this is no client of ours."""
SLOW_NS = Nanos(5 * SECOND)
"""One write may wait so long for the client's window to open."""
FIRST_MESSAGE_NS = Nanos(5 * SECOND)
"""Clients give up waiting for `join` after 5 s."""
FLUSH_NS = Nanos(1 * SECOND)
END_AFTER_LEAVE_NS = Nanos(2 * SECOND)
"""After a `leave` either way the room ends the session; if it does not, the session ends itself."""
REQUEST_COST_NS = 5 * MILLISECOND
"""200 requests/s sustained ..."""
BYTE_COST_NS = 1_000
"""... and 1 MB/s ..."""
JSON_FACTOR = 8
"""A JSON byte costs us more."""
BURST_NS = 5 * SECOND
"""... after a burst of 1000 requests or 5 MB; beyond it the socket is read more slowly, nothing is lost."""

FIRST = frozenset({"join", "reconnect", "leave"})


class State(Enum):
    OPENING = "upgraded or about to be; nothing sent yet"
    OPEN = "first message sent"
    ENDING = "flushing, then closing"
    ENDED = "closed"


class Gone(StrEnum):
    """Why a session ended without the house's doing (`Backend.session_closed`)."""

    CLIENT_CLOSED = "client_closed"
    CONNECTION_LOST = "connection_lost"
    LEFT = "left"
    TOO_SLOW = "too_slow"
    OUTBOUND_FULL = "outbound_full"
    GARBAGE = "garbage"
    NO_FIRST_MESSAGE = "no_first_message"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Up:
    """One WebSocket message of the client."""

    data: bytes | str


@dataclass(frozen=True, slots=True)
class Down:
    """One message of the house for the client."""

    message: rtc.SignalResponse


@dataclass(frozen=True, slots=True)
class End:
    """The house is done with this session: flush, then close."""

    code: int = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """The last `Write` has left for the transport."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The WebSocket is gone (RFC 6455 7.1.5 close code)."""

    code: int


@dataclass(frozen=True, slots=True)
class Write:
    data: bytes | str


@dataclass(frozen=True, slots=True)
class Forward:
    message: rtc.SignalRequest


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket; `abort`: do not wait for what is still unwritten."""

    code: int
    text: str = ""
    abort: bool = False


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the house that the session is gone."""

    reason: Gone


SessionEvent = Up | Down | End | Written | Lost
SessionOutput = Write | Forward | Close | Tell


class Encoder:
    """Messages to bytes; what many sessions are told one after the other is encoded once."""

    def __init__(self) -> None:
        self._last: rtc.SignalResponse | None = None
        self._bytes = b""

    def encode(self, message: rtc.SignalResponse) -> bytes:
        """A message that was given to one session is never changed afterwards."""
        if message is not self._last:
            self._last, self._bytes = message, message.SerializeToString()
        return self._bytes


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.OPEN, State.ENDING, State.ENDED}),
    State.OPEN: frozenset({State.ENDING, State.ENDED}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}


class SignalSession:
    """States: OPENING -> OPEN -> ENDING -> ENDED (TRANSITIONS); what does not fit is dropped and counted."""

    def __init__(self, now: Nanos, unix_ms_at_zero: int, counts: Counts, encoder: Encoder | None = None) -> None:
        """`unix_ms_at_zero`: what a wall clock showed at monotonic zero; only for the times in pongs. `encoder` may be
        shared with other sessions."""
        self.state = State.OPENING
        self.json = False
        self._unix_ms_at_zero = unix_ms_at_zero
        self._counts = counts
        self._encode = (encoder or Encoder()).encode
        self._out: deque[SessionOutput] = deque()
        self._queue: deque[bytes | str] = deque()
        self._held: deque[rtc.SignalResponse] = deque()
        self._queued_bytes = 0
        self._writing = False
        self._write_due: Nanos | None = None
        self._end_due: Nanos | None = Nanos(now + FIRST_MESSAGE_NS)
        self._end_code = 1000
        self._garbage = 0
        self._paid_until = now

    # ---------------------------------------------------------------------------------- the four verbs

    def handle(self, now: Nanos, event: SessionEvent) -> None:
        match event:
            case Up(data):
                self._up(now, data)
            case Down(message):
                self._down(now, message)
            case End(code):
                self._end(now, code)
            case Written():
                self._written(now)
            case Lost(code):
                self._lost(code)

    def wake(self, now: Nanos) -> None:
        if self._write_due is not None and now >= self._write_due:
            self._cut(Gone.TOO_SLOW, 1008, "too slow to read")
            self._counts[Drop.TOO_SLOW] += 1
        elif self._end_due is not None and now >= self._end_due:
            self._end_overdue(now)

    def next_wake(self) -> Nanos | None:
        if self._write_due is None:
            return self._end_due
        return self._write_due if self._end_due is None else min(self._write_due, self._end_due)

    def poll(self) -> SessionOutput | None:
        return self._out.popleft() if self._out else None

    def at_once(self, message: rtc.SignalResponse) -> bytes | None:
        """The bytes of a message that nothing stands in the way of: most of them. Whoever takes them writes them now;
        None, or a client that has no room for them: the message goes through `handle`."""
        if self.state is not State.OPEN or self._writing or self._queue or self.json:
            return None
        return None if message.HasField("leave") else self._encode(message)

    # ---------------------------------------------------------------------------------------- reading

    def read_pause_ns(self, now: Nanos) -> int:
        """How long to leave the socket unread because the client sends faster than is good for others."""
        return max(0, self._paid_until - now - BURST_NS)

    def _up(self, now: Nanos, data: bytes | str) -> None:
        cost_ns = REQUEST_COST_NS + BYTE_COST_NS * len(data) * (JSON_FACTOR if isinstance(data, str) else 1)
        self._paid_until = Nanos(max(self._paid_until, now) + cost_ns)
        if self.state not in (State.OPENING, State.OPEN):
            self._counts[Drop.AFTER_END] += 1
            return
        message = self._parse(data)
        if message is None:
            return
        match message.WhichOneof("message"):
            case "ping":
                # The old form carries the client's clock and is answered with ours.
                self._down(now, rtc.SignalResponse(pong=self._unix_ms(now)))
            case "ping_req":
                pong = rtc.Pong(last_ping_timestamp=message.ping_req.timestamp, timestamp=self._unix_ms(now))
                self._down(now, rtc.SignalResponse(pong_resp=pong))
            case None:
                self._counts[Drop.UNKNOWN_REQUEST] += 1
            case kind:
                if kind == "leave":
                    self._end_due = Nanos(now + END_AFTER_LEAVE_NS)
                self._out.append(Forward(message))

    def _parse(self, data: bytes | str) -> rtc.SignalRequest | None:
        try:
            if isinstance(data, bytes):
                return rtc.SignalRequest.FromString(data)
            self.json = True  # a client that writes text reads text from now on
            if len(data) > MAX_JSON_CHARS:
                self._counts[Drop.JSON_BYTES] += 1
                self._cut(Gone.GARBAGE, 1009, "message too big")
                return None
            return json_format.Parse(data, rtc.SignalRequest(), ignore_unknown_fields=True)
        except (DecodeError, json_format.Error, ValueError, TypeError, AttributeError, RecursionError):
            # json_format raises all of these for documents of the wrong shape.
            self._counts[Drop.GARBAGE] += 1
            self._garbage += 1
            if self._garbage > MAX_GARBAGE:
                self._cut(Gone.GARBAGE, 1007, "not a signal message")
            return None

    def _unix_ms(self, now: Nanos) -> int:
        return self._unix_ms_at_zero + now // MILLISECOND

    # ---------------------------------------------------------------------------------------- writing

    def _down(self, now: Nanos, message: rtc.SignalResponse) -> None:
        if self.state in (State.ENDING, State.ENDED):
            self._counts[Drop.AFTER_END] += 1
            return
        kind = message.WhichOneof("message")
        if self.state is State.OPENING:
            if kind not in FIRST:
                if len(self._held) < MAX_QUEUED_MESSAGES:
                    self._held.append(message)
                else:
                    self._counts[Drop.OUTBOUND_FULL] += 1
                return
            self._become(State.OPEN)
            self._end_due = None
        self._enqueue(message)
        if kind == "leave":
            self._held.clear()
            self._end_due = Nanos(now + END_AFTER_LEAVE_NS)
        while self._held and self.state is State.OPEN:
            self._enqueue(self._held.popleft())
        self._pump(now)

    def _enqueue(self, message: rtc.SignalResponse) -> None:
        data = json_format.MessageToJson(message, indent=None) if self.json else self._encode(message)
        if len(self._queue) >= MAX_QUEUED_MESSAGES or self._queued_bytes + len(data) > MAX_QUEUED_BYTES:
            self._counts[Drop.OUTBOUND_FULL] += 1
            self._cut(Gone.OUTBOUND_FULL, 1008, "too slow to read")
            return
        self._queue.append(data)
        self._queued_bytes += len(data)

    def _pump(self, now: Nanos) -> None:
        """One write at a time, so that a slow client is noticed by its first unfinished one."""
        if self._writing or self.state is State.ENDED:
            return
        if self._queue:
            data = self._queue.popleft()
            self._queued_bytes -= len(data)
            self._writing = True
            self._write_due = Nanos(now + SLOW_NS)
            self._out.append(Write(data))
        elif self.state is State.ENDING:
            self._become(State.ENDED)
            self._out.append(Close(self._end_code))

    def _written(self, now: Nanos) -> None:
        self._writing = False
        self._write_due = None
        self._pump(now)

    # ----------------------------------------------------------------------------------------- ending

    def _end(self, now: Nanos, code: int) -> None:
        if self.state in (State.ENDING, State.ENDED):
            return
        self._held.clear()
        self._become(State.ENDING)
        self._end_code = code
        self._end_due = Nanos(now + FLUSH_NS)
        self._pump(now)

    def _end_overdue(self, now: Nanos) -> None:
        match self.state:
            case State.OPENING:
                self._cut(Gone.NO_FIRST_MESSAGE, 1011, "no answer")
            case State.OPEN:
                self._out.append(Tell(Gone.LEFT))
                self._end(now, 1000)
            case State.ENDING:
                self._become(State.ENDED)
                self._out.append(Close(self._end_code, abort=True))

    def _lost(self, code: int) -> None:
        if self.state in (State.OPENING, State.OPEN):
            self._out.append(Tell(Gone.CLIENT_CLOSED if code in (1000, 1001) else Gone.CONNECTION_LOST))
        if self.state is not State.ENDED:
            self._become(State.ENDED)

    def _cut(self, reason: Gone, code: int, text: str) -> None:
        """End without flushing; the house is told unless it already knows."""
        if self.state is State.ENDED:
            return
        if self.state is not State.ENDING:
            self._out.append(Tell(reason))
        self._become(State.ENDED)
        self._out.append(Close(code, text, abort=reason in (Gone.TOO_SLOW, Gone.OUTBOUND_FULL)))

    def _become(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state
        if state is State.ENDED:
            self._queue.clear()
            self._held.clear()
            self._queued_bytes = 0
            self._write_due = self._end_due = None

    def snapshot(self) -> dict[str, object]:
        """For debugging pages."""
        return {
            "state": self.state.name,
            "json": self.json,
            "queued": len(self._queue),
            "queued_bytes": self._queued_bytes,
            "held": len(self._held),
            "garbage": self._garbage,
        }
