"""uvicorn's protocols with the bounds they lack: header bytes, count and deadline, fragments, control frames.

Measured without it: a 16 MB header was served, an idle connection was kept for ever, 200 000 empty continuation frames
grew a list without end. Written against uvicorn 0.54's classes (pinned), whose attributes are not a public interface.
RFC 9112 (HTTP/1.1), RFC 6455 (WebSocket).
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request

from tertulia.protocol.machine import Nanos
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.doorman import Doorman
from tertulia.signal.frames import frame_of
from tertulia.signal.http import CORS, TEXT
from tertulia.signal.settings import DoorSettings

SLICE_BYTES = 8 << 10
"""Frames are parsed so many bytes at a time: a chunk of tiny frames must not hold up the event loop."""
MAX_UNREAD_PONG_BYTES = 256 << 10
"""A peer that pings but does not read gets no more pongs than this."""
ABORT = "tertulia.abort"
"""Name of the ASGI extension by which an application drops a WebSocket without waiting for the peer to read."""
WRITE = "tertulia.write"
"""Name of the ASGI extension that sends messages without a task, also several at once, when the client has room."""
MAX_GATHERED_BYTES = 64 << 10
"""So much at most waits to be sent together."""
MAX_UNWANTED_BYTES = 4 << 20
"""So much of a body is discarded after its request was answered; more ends the connection."""
CLOSE_S = 5.0
"""After a refusal the peer has so long to read it."""
MAX_HANDSHAKE_BYTES = 8 << 10
"""One header of the WebSocket handshake."""


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration plus what the guarded protocols need (uvicorn makes them with this object only)."""

    settings: DoorSettings
    doorman: Doorman
    counts: Counts


class GuardedHttp(HttpToolsProtocol):
    """One connection until it is closed or becomes a WebSocket."""

    config: GuardedConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = self.config.settings
        self.counts = self.config.counts
        self._deadline: asyncio.TimerHandle | None = None
        self._unparsed_bytes = self._header_bytes = self._unwanted_bytes = 0
        self._in_body = self._refused = False

    @property
    def peer(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not self.config.doorman.connection(Nanos(time.monotonic_ns()), self.peer):
            self._refuse(Drop.CONNECTION_RATE, 429, "too many connections from this address; try again later")
        else:
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_done()
        super().connection_lost(exc)

    # ----------------------------------------------------------------------------------------- headers

    def _await_header(self) -> None:
        if self._deadline is not None or self._refused:
            return
        if not self.config.doorman.wait_begins(self.peer):
            self._refuse(Drop.CONNECTIONS_WAITING, 429, "too many unfinished requests from this address")
            return
        self._unparsed_bytes = 0
        self._deadline = self.loop.call_later(self.settings.header_timeout_s, self._header_late)

    def _header_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.config.doorman.wait_ends(self.peer)

    def _header_late(self) -> None:
        self._header_done()
        self._refuse(Drop.HEADER_TIMEOUT, 408, "the request header did not arrive in time")

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            # uvicorn's keep-alive timer stops at any byte, even if no request begins. The same deadline holds for the
            # rest of a body that was answered unread.
            self._await_header()
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and not self._in_body and self._unparsed_bytes > self.settings.header_bytes:
            self._refuse(Drop.HEADER_BYTES, 431, "the request header is too long")

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()
        self._await_header()

    def on_url(self, url: bytes) -> None:
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value) + 4)
        super().on_header(name, value)
        if len(self.headers) > self.settings.header_count:
            self._refuse(Drop.HEADER_BYTES, 431, "the request has too many headers")

    def _measure(self, header_bytes: int) -> None:
        self._header_bytes += header_bytes
        if self._header_bytes > self.settings.header_bytes:
            self._refuse(Drop.HEADER_BYTES, 431, "the request header is too long")

    def on_headers_complete(self) -> None:
        self._header_done()
        self._in_body = True
        self._unwanted_bytes = 0
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > MAX_UNWANTED_BYTES:
                self._refuse(Drop.BODY_BYTES, 413, "the request body is too long")
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._header_done()
        if not self._refused:
            super().on_message_complete()

    def _refuse(self, drop: Drop, status: int, text: str) -> None:
        """Answer without the application and close; what else arrives is not looked at."""
        if self._refused:
            return
        self._refused = True
        self.counts[drop] += 1
        body = text.encode()
        headers = [(b"content-type", TEXT), (b"content-length", b"%d" % len(body)), (b"connection", b"close"), *CORS]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and not self._in_body):
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()
        self.loop.call_later(CLOSE_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Drop.BAD_HTTP, 400, msg)

    # ----------------------------------------------------------------------------------------- upgrade

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over. The WebSocket parser sees none of the header, which has been parsed: its limits on
        lines and header count are narrower than a join request and its token."""
        if self._refused:
            return
        try:
            path = self.url.decode("ascii")
        except UnicodeDecodeError:
            path = ""
        if not path or self.scope["method"] != "GET":
            return self._refuse(Drop.BAD_UPGRADE, 400, "not a WebSocket handshake")
        headers = Headers()
        for name, value in self.scope["headers"]:
            if len(value) > MAX_HANDSHAKE_BYTES and name.startswith(b"sec-websocket-"):
                return self._refuse(Drop.BAD_UPGRADE, 431, "a header of the WebSocket handshake is too long")
            headers[name.decode("latin-1")] = value.decode("latin-1")
        self._header_done()
        self.connections.discard(self)
        protocol = GuardedWebSocket(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.handshake = Request(path, headers)
        protocol.connection_made(self.transport)
        protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
        self.transport.set_protocol(protocol)
        self.parser = None  # type: ignore[assignment]  # it holds us


_NO_HANDSHAKE = Request("/", Headers())


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    config: GuardedConfig
    handshake: Request

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = self.config.settings
        self.counts = self.config.counts
        self._unparsed = bytearray()
        self._lingering = False
        self.close_timeout = self.settings.linger_s
        self._fragments = 0
        self._message_due: asyncio.TimerHandle | None = None
        self._control_second = self._control_frames = 0
        self._gathered: bytearray | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._message_complete()
        self._unparsed.clear()
        if self.handshake_initiated:
            self.scope["extensions"].clear()  # they hold us: a cycle would wait for the collector
        super().connection_lost(exc)

    # ----------------------------------------------------------------------------------------- reading

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        """Slice by slice, and no further than the application has read."""
        while self._unparsed and not self.read_paused and not self._lingering and not self.transport.is_closing():
            piece = bytes(self._unparsed[:SLICE_BYTES])
            del self._unparsed[:SLICE_BYTES]
            super().data_received(piece)

    async def receive(self) -> Any:
        message = await super().receive()
        if self._unparsed:
            self._parse()
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.accept" and not self.disconnected and not self.handshake_complete:
            self._accept()
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # uvicorn forgets, and reports every refused upgrade as an error

    def _accept(self) -> None:
        """As uvicorn does, which quotes the request for a log nobody writes, keeps the answer, and sends it alone."""
        self._forget_handshake()
        if self.transport.is_closing():
            return
        self.handshake_complete = True
        self.conn.send_response(self.response)
        del self.response
        self._put(b"".join(self.conn.data_to_send()))
        self.start_keepalive()

    def _forget_handshake(self) -> None:
        """A session lives for hours; its join request (20 kB, several times over) and its token need not."""
        self.handshake = self.request = _NO_HANDSHAKE
        self.scope["headers"], self.scope["query_string"] = [], b""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(self.handshake)
        if not self.transport.is_closing():
            # ASGI knows no way to drop a peer that does not read; the application's task has not run yet.
            self.scope["extensions"][ABORT] = {"abort": self.transport.abort}
            self.scope["extensions"][WRITE] = {"write": self.write, "together": self.together}

    def write(self, data: bytes | str) -> bool:
        """One whole message, now. False when it cannot be: the client is slow, or the connection not open; then
        `send` waits, or says why not."""
        if (
            not self.handshake_complete
            or not self.writable.is_set()
            or self.close_sent
            or self.disconnected
            or self.initial_response is not None
            or self.transport.is_closing()
        ):
            return False
        self._put(frame_of(data))
        return True

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is sent meanwhile leaves in one piece, the answer to the handshake too; await nothing that waits."""
        self._gathered = bytearray()
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
            if gathered and not self.transport.is_closing():
                self.transport.write(gathered)

    def _put(self, data: bytes) -> None:
        if self._gathered is None:
            self.transport.write(data)
            return
        self._gathered += data
        if len(self._gathered) > MAX_GATHERED_BYTES:  # the transport says when the client has no room for more
            self.transport.write(self._gathered)
            self._gathered = bytearray()

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._message_begun(event)

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._message_begun(event)

    def handle_cont(self, event: Frame) -> None:
        self._fragments += 1
        if self._fragments > self.settings.message_fragments:
            self._fail(Drop.FRAGMENTS, 1008, "too many fragments")
            return
        super().handle_cont(event)
        if event.fin:
            self._message_complete()

    def _message_begun(self, event: Frame) -> None:
        if not event.fin:
            self._fragments = 1
            self._message_due = self.loop.call_later(
                self.settings.message_timeout_s, self._fail, Drop.MESSAGE_TIMEOUT, 1008, "unfinished message"
            )

    def _message_complete(self) -> None:
        if self._message_due is not None:
            self._message_due.cancel()
            self._message_due = None

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            data = b"".join(self.frames)
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(Drop.BAD_FRAME, 1007, "text is not UTF-8")
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self._lingering or self.transport.is_closing():
            return
        second = int(self.loop.time())
        if second != self._control_second:
            self._control_second, self._control_frames = second, 0
        self._control_frames += 1
        unread = self.transport.get_write_buffer_size() > MAX_UNREAD_PONG_BYTES
        if unread or self._control_frames > self.settings.control_frames_per_s:
            self._fail(Drop.CONTROL_FRAMES, 1008, "too many pings")
            return
        super().handle_ping()

    # ------------------------------------------------------------------------------------------ ending

    def handle_parser_exception(self) -> None:
        """The peer broke the protocol; the parser has already queued the close frame when there is a connection."""
        if self._lingering:
            return
        self.counts[Drop.BAD_FRAME] += 1
        close = self.conn.close_sent
        self._leave(close.code if close else 1002, close.reason if close else "")

    def _fail(self, drop: Drop, code: int, text: str) -> None:
        if self._lingering or self.transport.is_closing():
            return
        self.counts[drop] += 1
        if self.handshake_complete and not self.close_sent:
            self.conn.fail(code, text)
        self._leave(code, text)

    def _leave(self, code: int, text: str) -> None:
        """Say goodbye and discard what still comes: closing with unread bytes would reset the close frame away."""
        self._message_complete()
        self._unparsed.clear()
        self.frames = []
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": text})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._lingering = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # uvicorn leaves the transport to this timer; it cancels it when the connection is lost.
        self.close_timer = self.loop.call_later(self.settings.linger_s, self.transport.abort)
