"""One WebSocket of one client: carries bytes between ASGI and the session machine. Decides nothing."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog
from livekit.protocol import rtc

from tertulia.protocol.ids import SessionId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.signal.backend import Backend
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.guard import ABORT, WRITE
from tertulia.signal.http import Message, Receive, Scope, Send
from tertulia.signal.session import (
    Close,
    Down,
    Encoder,
    End,
    Forward,
    Gone,
    Lost,
    SessionEvent,
    SignalSession,
    State,
    Tell,
    Up,
    Write,
    Written,
)

log = structlog.get_logger(__name__)


def _nothing() -> None:
    """The connection was gone before its application began."""


def _not_now(data: bytes | str) -> bool:
    """A server without the extension: every message goes through `send`."""
    return False


def monotonic() -> Nanos:
    return Nanos(time.monotonic_ns())


class SessionSocket:
    """The Outlet of a session, and the task that runs it."""

    def __init__(
        self,
        session: SessionId,
        backend: Backend,
        counts: Counts,
        scope: Scope,
        send: Send,
        encoder: Encoder | None = None,
    ) -> None:
        self._session = session
        self._backend = backend
        self._counts = counts
        self._send = send
        extensions = scope["extensions"]
        self._abort: Callable[[], None] = extensions.get(ABORT, {}).get("abort", _nothing)
        writing = extensions.get(WRITE, {})
        self._write_now: Callable[[bytes | str], bool] = writing.get("write", _not_now)
        self._together: Callable[[], AbstractContextManager[None]] = writing.get("together", contextlib.nullcontext)
        now = monotonic()
        self.machine = SignalSession(now, time.time_ns() // MILLISECOND - now // MILLISECOND, counts, encoder)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due: Nanos | None = None
        self._unsent: deque[Write | Close] = deque()
        """What waits for the upgrade or for a client that reads slowly."""
        self._writer: asyncio.Task[None] | None = None
        """Only while something has to wait."""
        self._is_open = False
        self._is_closed = False
        self._draining = False
        self._running = False

    # ------------------------------------------------------------------------------------------ Outlet

    @property
    def session(self) -> SessionId:
        return self._session

    def send(self, message: rtc.SignalResponse) -> None:
        if self._is_open and not self._unsent and self._writer is None and not self._draining:
            data = self.machine.at_once(message)
            if data is not None and self._write_now(data):
                return
        self._handle(Down(message))

    def end(self, code: int = 1000) -> None:
        self._handle(End(code))

    # --------------------------------------------------------------------------------------------- run

    async def run(self, receive: Receive) -> None:
        """Upgrade, then read until the WebSocket is gone."""
        self._running = True
        self._arm()
        try:
            with contextlib.suppress(OSError), self._together():  # a peer that is gone already: the reader learns it
                await self._send({"type": "websocket.accept"})
                self._is_open = True
                self._flush()
                self._drain()
            while not self._is_closed:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    self._handle(Lost(message.get("code", 1006)))
                    break
                if message["type"] == "websocket.receive":
                    await self._up(message)
        finally:
            if self._writer is not None:
                self._writer.cancel()
            self._handle(Lost(1006))
            self._writer = None  # its last exception holds us
            self._running = False
            self._disarm()

    async def _up(self, message: Message) -> None:
        data = message.get("bytes")
        self._handle(Up(message["text"] if data is None else data))
        pause_ns = self.machine.read_pause_ns(monotonic())
        if pause_ns > 0 and self.machine.state is not State.ENDED:
            self._counts[Drop.THROTTLED] += 1
            await asyncio.sleep(pause_ns / SECOND)

    def _flush(self) -> None:
        """Write what can be written now; a task does the waiting, when there is any."""
        while self._unsent and self._is_open and self._writer is None:
            output = self._unsent[0]
            if isinstance(output, Close) or not self._write_now(output.data):
                self._writer = self._loop.create_task(self._write())
                return
            self._unsent.popleft()
            self.machine.handle(monotonic(), Written())

    async def _write(self) -> None:
        try:
            while self._unsent:
                output = self._unsent.popleft()
                if isinstance(output, Close):
                    self._is_closed = True
                    await self._close(output)
                    return
                kind = "bytes" if isinstance(output.data, bytes) else "text"
                await self._send({"type": "websocket.send", kind: output.data})
                self._handle(Written())
            self._writer = None
        except OSError:  # the peer is gone (uvicorn's ClientDisconnected); the reader learns it too
            return

    async def _close(self, output: Close) -> None:
        if not output.abort:
            await self._send({"type": "websocket.close", "code": output.code, "reason": output.text})

    # --------------------------------------------------------------------------------------- the driver

    def _handle(self, event: SessionEvent) -> None:
        self.machine.handle(monotonic(), event)
        self._drain()

    def _expired(self) -> None:
        self._timer = self._due = None
        self.machine.wake(monotonic())
        self._drain()

    def _drain(self) -> None:
        """Hand out every output; what the house sends meanwhile is its own turn after the present one."""
        if self._draining:
            return
        self._draining = True
        try:
            while (output := self.machine.poll()) is not None:
                match output:
                    case Forward(message):
                        self._forward(message)
                    case Tell(reason):
                        self._tell(reason)
                    case Close(abort=True):
                        self._abort()
                    case Write() | Close():
                        self._unsent.append(output)
                        self._flush()
        finally:
            self._draining = False
        self._arm()

    def _forward(self, message: rtc.SignalRequest) -> None:
        try:
            self._backend.request(self._session, message)
        except Exception:
            log.exception("request_failed", session=self._session, kind=message.WhichOneof("message"))
            self._tell(Gone.FAILED)
            self.machine.handle(monotonic(), End(1011))

    def _tell(self, reason: Gone) -> None:
        try:
            self._backend.session_closed(self._session, reason.value)
        except Exception:
            log.exception("session_close_failed", session=self._session, reason=reason.value)

    def _arm(self) -> None:
        if not self._running:  # a refused attempt leaves no timer behind
            return
        due = self.machine.next_wake()
        if due == self._due and self._timer is not None:
            return
        self._disarm()
        if due is not None:
            self._due = due
            self._timer = self._loop.call_later(max(0, due - monotonic()) / SECOND, self._expired)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due = None
