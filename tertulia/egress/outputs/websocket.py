"""PCM to a WebSocket server, as LiveKit's track egress sends it. Runs on the event loop.

Decides what a listener hears: binary messages of interleaved little-endian 16-bit samples, text messages
`{"muted":true}` and `{"muted":false}`, a ping every 30 s. As LiveKit there is one connection and no second: whoever
closes it ends the stream. A listener too slow for its audio loses the oldest of it; one that stops reading is left.
"""

import asyncio
import contextlib
import json
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from livekit.protocol import egress
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from tertulia.egress.outputs.addresses import (
    AddressRefused,
    AddressRules,
    masked_websocket,
    parse_websocket,
    resolve,
)
from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult, StreamSpec
from tertulia.egress.outputs.rtmp_client import tls_context

log = logging.getLogger(__name__)

CONTENT_TYPE = "audio/x-raw"
MESSAGE_LIMIT_BYTES = 64 * 1024
"""Of what the listener says; nobody reads it."""

_FAILED, _FINISHED = egress.StreamInfo.Status.FAILED, egress.StreamInfo.Status.FINISHED


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    connect_s: float = 10.0
    stall_s: float = 10.0
    ping_s: float = 30.0
    queue_bytes: int = 2 << 20
    """Ten seconds of 48 kHz stereo."""
    close_s: float = 2.0


class _NoRedirects(connect):
    """An answer that sends us elsewhere would lead around the address rules."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketOutput:
    """One listener. Satisfies `api.Output`."""

    key_frame_interval_s: float | None = None

    def __init__(
        self,
        url: str,
        rules: AddressRules = AddressRules(),  # noqa: B008 (frozen)
        hooks: Hooks = Hooks(),  # noqa: B008 (frozen)
        policy: ListenerPolicy = ListenerPolicy(),
    ) -> None:
        """On the loop. Raises RequestError for an address that cannot be taken."""
        self._parts = parse_websocket(url)
        self._url, self._rules, self._hooks, self._policy = url, rules, hooks, policy
        self._loop = asyncio.get_running_loop()
        self._info = egress.StreamInfo(url=masked_websocket(url))
        self._queue: deque[bytes | str] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._failed: str | None = None
        self.dropped_bytes = 0

    @property
    def failed(self) -> str | None:
        return self._failed

    def open(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        del epoch_ns
        wrong = [spec.codec for spec in streams if spec.codec != "pcm_s16le"]
        if wrong:
            self._on_loop(self._end, _FAILED, f"WebSocket outputs carry PCM, not {wrong[0]}")
        else:
            self._on_loop(self._start)

    def write(self, packet: EncodedPacket) -> None:
        self._on_loop(self._push, packet.data)

    def muted(self, muted: bool) -> None:
        """Any thread: the track was muted or unmuted."""
        self._on_loop(self._push, json.dumps({"muted": muted}, separators=(",", ":")))

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *arguments)

    def _start(self) -> None:
        if not self._closed and self._task is None:
            self._info.started_at = time.time_ns()
            self._task = asyncio.create_task(self._guarded(), name="websocket output")

    def _push(self, message: bytes | str) -> None:
        if self._closed or self._failed is not None:
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        while self._queued_bytes > self._policy.queue_bytes and self._drop_oldest_audio():
            pass
        self._wake.set()

    def _drop_oldest_audio(self) -> bool:
        for index, message in enumerate(self._queue):
            if isinstance(message, bytes):  # mute messages are few and matter
                del self._queue[index]
                self._queued_bytes -= len(message)
                self.dropped_bytes += len(message)
                return True
        return False

    async def _guarded(self) -> None:
        try:
            await self._run()
        except Exception:  # a mistake of ours ends this stream, and is seen
            log.exception("stream to %s failed", self._info.url)
            self._end(_FAILED, "internal error")

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._policy.connect_s):
                connection = await self._connect()
        except TimeoutError:
            self._end(_FAILED, f"no answer within {self._policy.connect_s:g} s")
            return
        except (AddressRefused, OSError, WebSocketException, EOFError) as error:
            self._end(_FAILED, _words(error))
            return
        listening = asyncio.create_task(self._listen(connection), name="websocket listener")
        try:
            await self._send_all(connection)
        except TimeoutError:
            connection.transport.abort()
            self._end(_FAILED, f"the other side has read nothing for {self._policy.stall_s:g} s")
        except (ConnectionClosed, OSError) as error:
            self._end(_FAILED, _words(error))
        finally:
            with contextlib.suppress(TimeoutError, OSError, WebSocketException):
                async with asyncio.timeout(self._policy.close_s):
                    await connection.close()
            listening.cancel()

    async def _connect(self) -> ClientConnection:
        tls = self._parts.scheme == "wss"
        host, port = self._parts.hostname or "", self._parts.port or (443 if tls else 80)
        ends = await resolve(host, port, self._rules)
        secure: dict[str, Any] = {"ssl": tls_context(self._rules), "server_hostname": host} if tls else {}
        return await _NoRedirects(
            self._url,
            host=ends[0][0],
            port=ends[0][1],
            additional_headers={"Content-Type": CONTENT_TYPE},
            compression=None,
            proxy=None,
            open_timeout=None,
            ping_interval=self._policy.ping_s,
            ping_timeout=self._policy.ping_s,
            close_timeout=self._policy.close_s,
            max_size=MESSAGE_LIMIT_BYTES,
            user_agent_header="Tertulia",
            **secure,
        )

    async def _listen(self, connection: ClientConnection) -> None:
        """Throw away what the listener says, so that its pings and its close are heard."""
        with contextlib.suppress(ConnectionClosed):
            async for _ in connection:
                pass
        self._wake.set()

    async def _send_all(self, connection: ClientConnection) -> None:
        """Raises ConnectionClosed, OSError or TimeoutError."""
        while self._queue or not self._closed:
            if not self._queue:
                self._wake.clear()
                if connection.close_code is not None:
                    await connection.send(b"")  # raises, with the reason
                await self._wake.wait()
                continue
            message = self._queue.popleft()
            self._queued_bytes -= len(message)
            async with asyncio.timeout(self._policy.close_s if self._closed else self._policy.stall_s):
                await connection.send(message)

    def _end(self, status: int, error: str = "") -> None:
        if self._info.ended_at:
            return
        self._info.status = status  # type: ignore[assignment]  # protobuf types its enums as classes of their own
        self._info.error, self._info.ended_at = error, time.time_ns()
        if self._info.started_at:
            self._info.duration = self._info.ended_at - self._info.started_at
        if error:
            self._failed = error
            self._queue.clear()
        self._hooks.changed()

    async def close(self) -> None:
        await asyncio.sleep(0)  # what the worker said before is heard first
        await self._stop()
        self._end(_FINISHED)

    async def abort(self, why: str) -> None:
        self._end(_FAILED, why)
        await self._stop()

    async def _stop(self) -> None:
        self._closed = True
        self._wake.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=2 * self._policy.close_s)
            for task in late:
                task.cancel()
            await asyncio.wait([self._task])

    def result(self) -> OutputResult:
        info = egress.StreamInfo()
        info.CopyFrom(self._info)
        return OutputResult(streams=[info])


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionClosed):
        code = error.rcvd.code if error.rcvd is not None else None
        return f"the other side closed the connection ({code})" if code else "the connection was lost"
    if isinstance(error, InvalidStatus):
        return f"the other side answered {error.response.status_code} instead of a WebSocket"
    if isinstance(error, InvalidHandshake | EOFError):
        return "the other side does not speak WebSocket"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, AddressRefused):
        return str(error)
    return (error.strerror or "network error").lower() if isinstance(error, OSError) else "the connection failed"
