"""One RTMP(S) connection that publishes one stream. Sockets and asyncio live here.

Decides how to speak: handshake, connect, publish, acknowledgements, end. Which tags are sent, and what to do when the
connection is gone, is decided in `rtmp`. Adobe RTMP 1.0 sections 5.2 (handshake), 7.2 (commands).
"""

import asyncio
import os
import socket
import ssl
import struct
import time
from dataclasses import dataclass

from tertulia.egress.outputs import amf, chunks
from tertulia.egress.outputs.addresses import AddressRefused, AddressRules, RtmpAddress, resolve
from tertulia.egress.outputs.flv import Tag
from tertulia.protocol.errors import PeerError

CHUNK_BYTES = 65_536
WRITE_BUFFER_BYTES = 256 * 1024
"""What may wait in our socket before `send` waits: more would only hide a peer that reads nothing."""
COMMANDS_LIMIT = 64
ACK_WINDOW_BYTES = 64 * 1024
"""How often we ask to hear that our bytes were read."""

_CONTROL_CHUNKS, _COMMAND_CHUNKS, _MEDIA_CHUNKS = 2, 3, {8: 4, 9: 6, 18: 5}
_HANDSHAKE_BYTES = 1536
_PING_REQUEST, _PING_RESPONSE = 6, 7


class StreamRefused(Exception):
    """The other side does not want this stream, or cannot prove who it is. Trying again at once helps nobody."""


class StreamLost(Exception):
    """The connection did not come about or is gone. Trying again may help."""


def tls_context(rules: AddressRules) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=rules.ca_file or None)
    if not rules.verify_tls:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(slots=True)
class Progress:
    """What went out, and what we know of its being read."""

    sent: int = 0
    acknowledged: int = 0
    """As the peer counts, modulo 2^32; 0 from a peer that never says."""
    sent_at_acknowledgement: int = 0
    acknowledged_at_s: float = 0.0


class RtmpConnection:
    """connect() -> send(tag)* -> close(). `lost` is set as soon as the peer ends it."""

    def __init__(self, address: RtmpAddress, rules: AddressRules) -> None:
        self._address = address
        self._rules = rules
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._commands: asyncio.Queue[list[object] | StreamLost] = asyncio.Queue(COMMANDS_LIMIT)
        self._stream_id = 0
        self._received = self._received_told = 0
        self._window_bytes = 0
        self.progress = Progress()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self, timeout_s: float) -> None:
        """Raises StreamRefused or StreamLost; nothing is left open then."""
        step = ["connecting"]
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(step)
        except TimeoutError:
            self._drop()
            raise StreamLost(f"no answer within {timeout_s:g} s while {step[0]}") from None
        except (OSError, EOFError, PeerError) as error:
            self._drop()
            raise _translated(error, step[0]) from None
        except BaseException:
            self._drop()
            raise

    async def _connect(self, step: list[str]) -> None:
        await self._dial()
        step[0] = "shaking hands"
        await self._handshake()
        assert self._writer is not None
        self._reading = asyncio.create_task(self._read(), name="rtmp reader")
        self._control(chunks.SET_CHUNK_SIZE, struct.pack(">I", CHUNK_BYTES))
        self._control(chunks.WINDOW_ACK_SIZE, struct.pack(">I", ACK_WINDOW_BYTES))
        step[0] = "opening the application"
        app: dict[str, object] = {"app": self._address.app, "type": "nonprivate", "flashVer": "FMLE/3.0 (Tertulia)"}
        await self._ask("connect", 1, app | {"tcUrl": self._address.tc_url})
        step[0] = "creating the stream"
        self._command("releaseStream", 2, None, self._address.key)
        self._command("FCPublish", 3, None, self._address.key)
        answer = await self._ask("createStream", 4, None)
        if len(answer) < 4 or not isinstance(answer[3], float):
            raise PeerError("no stream number in its answer")
        self._stream_id = int(answer[3])
        step[0] = "publishing"
        self._command("publish", 5, None, self._address.key, "live", stream_id=self._stream_id)
        while True:
            answer = await self._next_command()
            if answer[0] == "onStatus" and (code := _status_code(answer)):
                if code == "NetStream.Publish.Start":
                    return
                if _is_error(answer):
                    raise StreamRefused(f"publishing was refused ({code})")

    async def _dial(self) -> None:
        address, problem = self._address, OSError("no address")
        try:
            ends = await resolve(address.host, address.port, self._rules)
        except AddressRefused as refused:
            raise StreamRefused(str(refused)) from None
        context = tls_context(self._rules) if address.tls else None
        for host, port in ends:
            try:
                self._reader, self._writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=address.host if address.tls else None
                )
                self._writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
                link: socket.socket = self._writer.get_extra_info("socket")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER_BYTES)
                return
            except OSError as error:  # ssl.SSLError among them
                problem = error
        raise problem

    async def _handshake(self) -> None:
        """C0 C1 -> S0 S1 S2, C2 (5.2); the random bytes that come back are not compared, as no server cares."""
        assert self._writer is not None
        self._writer.write(b"\x03" + struct.pack(">II", 0, 0) + os.urandom(_HANDSHAKE_BYTES - 8))
        answer = await self._reader.readexactly(1 + _HANDSHAKE_BYTES)
        if answer[0] != 3:
            raise PeerError("it does not speak RTMP")
        self._writer.write(answer[1:])
        await self._reader.readexactly(_HANDSHAKE_BYTES)

    def unread_s(self) -> float:
        """How long a peer that used to acknowledge has not, with several windows on their way; else 0. Its kernel
        takes megabytes for a process that has stopped reading, so a full socket alone tells too late."""
        progress = self.progress
        if not progress.acknowledged or progress.sent - progress.sent_at_acknowledgement < 3 * ACK_WINDOW_BYTES:
            return 0.0
        return time.monotonic() - progress.acknowledged_at_s

    async def send(self, tag: Tag, time_ms: int) -> None:
        """Waits while the socket is full. Raises StreamLost."""
        if self._writer is None or self.lost.done():
            raise StreamLost(self.lost.result() if self.lost.done() else "not connected")
        self._message(_MEDIA_CHUNKS[tag.kind], chunks.Message(tag.kind, self._stream_id, time_ms, tag.body))
        try:
            await self._writer.drain()
        except OSError as error:
            raise _translated(error, "sending") from None

    async def close(self, timeout_s: float = 1.0) -> None:
        """Say goodbye if the peer listens; never longer than `timeout_s`."""
        writer = self._writer
        if writer is not None and not self.lost.done() and self._stream_id:
            try:
                self._command("FCUnpublish", 6, None, self._address.key)
                self._command("deleteStream", 7, None, self._stream_id)
                writer.transport.set_write_buffer_limits(high=0)
                async with asyncio.timeout(timeout_s):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            except (OSError, TimeoutError):
                pass  # it is over either way
        self._drop()

    def _drop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None
        if not self.lost.done():
            self.lost.set_result("closed")

    def _message(self, chunk_stream: int, message: chunks.Message) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        data = chunks.encode(message, chunk_stream, 128 if message.kind == chunks.SET_CHUNK_SIZE else CHUNK_BYTES)
        self._writer.write(data)
        self.progress.sent += len(data)

    def _control(self, kind: int, body: bytes) -> None:
        self._message(_CONTROL_CHUNKS, chunks.Message(kind, 0, 0, body))

    def _command(self, name: str, transaction: int, *arguments: object, stream_id: int = 0) -> None:
        body = b"".join(amf.encode(value) for value in (name, transaction, *arguments))
        self._message(_COMMAND_CHUNKS, chunks.Message(chunks.COMMAND, stream_id, 0, body))

    async def _ask(self, name: str, transaction: int, *arguments: object) -> list[object]:
        self._command(name, transaction, *arguments)
        while True:
            answer = await self._next_command()
            if len(answer) > 1 and answer[1] == transaction:
                if answer[0] == "_result":
                    return answer
                if answer[0] == "_error":
                    raise StreamRefused(f"{name} was refused ({_status_code(answer) or 'no reason given'})")

    async def _next_command(self) -> list[object]:
        answer = await self._commands.get()
        if isinstance(answer, StreamLost):
            raise answer
        return answer

    async def _read(self) -> None:
        reader = chunks.ChunkReader()
        why = "the other side closed the connection"
        try:
            while data := await self._reader.read(65_536):
                self._received += len(data)
                for message in reader.feed(data):
                    self._take(message)
                if self._window_bytes and self._received - self._received_told >= self._window_bytes:
                    self._received_told = self._received
                    self._control(chunks.ACKNOWLEDGEMENT, struct.pack(">I", self._received & 0xFFFFFFFF))
        except PeerError as error:
            why = f"the other side broke the protocol: {error}"
        except OSError as error:
            why = str(_translated(error, "reading"))
        self._end(why)

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        self._post(StreamLost(why))

    def _post(self, command: list[object] | StreamLost) -> None:
        if self._commands.full():
            self._commands.get_nowait()  # after the publish nobody reads them but for the last
        self._commands.put_nowait(command)

    def _take(self, message: chunks.Message) -> None:
        body = message.body
        if message.kind == chunks.COMMAND:
            self._take_command(amf.decode_all(body))
        elif len(body) < 4:
            return
        elif message.kind == chunks.ACKNOWLEDGEMENT:
            progress = self.progress
            progress.acknowledged = int.from_bytes(body[:4], "big")
            progress.sent_at_acknowledgement, progress.acknowledged_at_s = progress.sent, time.monotonic()
        elif message.kind == chunks.WINDOW_ACK_SIZE:
            self._window_bytes = int.from_bytes(body[:4], "big")
        elif message.kind == chunks.SET_PEER_BANDWIDTH:
            self._control(chunks.WINDOW_ACK_SIZE, body[:4])
        elif message.kind == chunks.USER_CONTROL and int.from_bytes(body[:2], "big") == _PING_REQUEST:
            self._control(chunks.USER_CONTROL, struct.pack(">H", _PING_RESPONSE) + body[2:6])

    def _take_command(self, command: list[object]) -> None:
        if not command or not isinstance(command[0], str):
            raise PeerError("a command without a name")
        self._post(command)
        # After the start an error status (the stream was ended over there) is the end, though the socket may stay open.
        if command[0] == "onStatus" and self._stream_id and _is_error(command):
            self._end(f"the other side ended the stream ({_status_code(command) or 'no reason given'})")


def _status(command: list[object]) -> dict[str, object]:
    return next((value for value in command[2:] if isinstance(value, dict)), {})


def _status_code(command: list[object]) -> str:
    """The peer's code word, shortened: never its free text, which may repeat the stream key."""
    for value in command[2:]:
        if isinstance(value, dict) and isinstance(code := value.get("code"), str):
            return "".join(c for c in code if c.isalnum() or c == ".")[:64]
    return ""


def _is_error(command: list[object]) -> bool:
    return any(isinstance(value, dict) and value.get("level") == "error" for value in command[2:])


def _translated(error: Exception, doing: str) -> StreamRefused | StreamLost:
    """An exception of the socket in words for a person who reads EgressInfo."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return StreamRefused(f"the certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return StreamLost(f"TLS failed while {doing}: {error.reason or 'unknown'}")
    if isinstance(error, ConnectionRefusedError):
        return StreamLost("connection refused")
    if isinstance(error, EOFError | ConnectionError):
        return StreamLost(f"the other side closed the connection while {doing}")
    if isinstance(error, PeerError):
        return StreamLost(f"the other side broke the protocol while {doing}: {error}")
    if isinstance(error, OSError):
        return StreamLost(f"{(error.strerror or 'network error').lower()} while {doing}")
    return StreamLost(f"failed while {doing}")
