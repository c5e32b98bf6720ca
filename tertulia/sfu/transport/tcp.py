"""ICE-TCP, passive side (RFC 6544): RFC 4571 frames on asyncio connections that must begin with an authentic check.

Decides how long an unproven connection may live, how many there may be, and what is dropped when a peer does not read.
Which check is authentic is the hub's business.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from typing import Protocol, cast

from tertulia.protocol.ids import TransportId
from tertulia.sfu.transport.ice import TcpPath
from tertulia.sfu.transport.listen import TcpEndpoint

MAX_FRAME_BYTES = 4096
"""RFC 4571 allows 65535; media, DTLS and STUN need less than 1500."""
MAX_CONNECTIONS = 4096
MAX_UNPROVEN = 512
MAX_PER_HOST = 256
PROOF_DEADLINE_S = 10.0
"""From accept to the first authentic check."""
MAX_WRITE_BUFFER_BYTES = 256 * 1024
"""Beyond this packets to a peer are dropped: media must not be late, and SCTP repeats."""


class TcpOwner(Protocol):
    """The hub, as a connection sees it."""

    def tcp_frame(self, connection: "TcpConnection", frame: bytes) -> None:
        """A frame came. The hub sets `transport` after the first authentic check, or closes the connection."""

    def tcp_closed(self, connection: "TcpConnection") -> None: ...


class TcpConnection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, listener: "TcpListener") -> None:
        self.path = TcpPath(0, "", 0)
        self.transport: TransportId | None = None
        self._listener = listener
        self._stream: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        peer = stream.get_extra_info("peername")
        host = peer[0].removeprefix("::ffff:") if "." in peer[0] else peer[0].partition("%")[0]
        self._stream = stream
        self.path = TcpPath(self._listener.next_number(), host, peer[1])
        if not self._listener.admit(self):
            self._stream = None
            stream.abort()
            return
        stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = asyncio.get_running_loop().call_later(PROOF_DEADLINE_S, self._expired)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        position = 0
        while self._stream is not None and len(buffer) - position >= 2:
            size = buffer[position] << 8 | buffer[position + 1]
            if size > MAX_FRAME_BYTES:
                self._listener.count("tcp_oversize")
                self.close()
                break
            if len(buffer) - position < 2 + size:
                break
            frame = bytes(buffer[position + 2 : position + 2 + size])
            position += 2 + size
            if frame:
                self._listener.owner.tcp_frame(self, frame)
        del buffer[:position]

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._stream = None
        self._buffer.clear()
        if self._listener.discard(self):
            self._listener.owner.tcp_closed(self)

    def bind(self, transport: TransportId) -> None:
        """The first check was authentic."""
        self._cancel_deadline()
        self.transport = transport
        self._listener.proven(self)

    def write(self, packet: bytes) -> None:
        stream = self._stream
        if stream is None or stream.is_closing():
            return
        if stream.get_write_buffer_size() > MAX_WRITE_BUFFER_BYTES:
            self._listener.count("tcp_write_dropped")
            return
        stream.write(len(packet).to_bytes(2, "big") + packet)

    def close(self) -> None:
        """At once: what the peer has not read by now, it will not get."""
        self._cancel_deadline()
        stream, self._stream = self._stream, None
        if stream is not None:
            if stream.get_write_buffer_size():
                stream.abort()
            else:
                stream.close()

    def _expired(self) -> None:
        self._deadline = None
        self._listener.count("tcp_unproven_expired")
        if self._stream is not None:
            self._stream.abort()
            self._stream = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TcpListener:
    """The listening socket and every connection on it."""

    def __init__(self, endpoint: TcpEndpoint, owner: TcpOwner, count: Callable[[str], None]) -> None:
        self.owner = owner
        self.count = count
        self.port = endpoint.port
        self._endpoint = endpoint
        self._server: asyncio.Server | None = None
        self._connections: dict[int, TcpConnection] = {}
        self._unproven: set[int] = set()
        self._hosts: Counter[str] = Counter()
        self._numbers = 0
        self._idle = asyncio.Event()
        """Set whenever the last connection is gone."""

    async def start(self) -> None:
        """Bind and accept; with port 0 in the endpoint, `port` is the one the system chose."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: TcpConnection(self), self._endpoint.bind_host, self._endpoint.port, backlog=256
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the socket and every connection, and wait until they are gone."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections.values()):
            connection.close()
        await self._server.wait_closed()
        self._server = None
        if self._connections:
            await self._idle.wait()

    def connection(self, path: TcpPath) -> TcpConnection | None:
        return self._connections.get(path.connection)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def admit(self, connection: TcpConnection) -> bool:
        """Room for one more? Counts by host are of all its connections, proven or not."""
        host = connection.path.host
        if (
            len(self._connections) >= MAX_CONNECTIONS
            or len(self._unproven) >= MAX_UNPROVEN
            or self._hosts[host] >= MAX_PER_HOST
        ):
            self.count("tcp_refused")
            return False
        self._connections[connection.path.connection] = connection
        self._idle.clear()
        self._unproven.add(connection.path.connection)
        self._hosts[host] += 1
        self.count("tcp_accepted")
        return True

    def proven(self, connection: TcpConnection) -> None:
        self._unproven.discard(connection.path.connection)

    def discard(self, connection: TcpConnection) -> bool:
        """Forget a closed connection. False: it was never admitted."""
        if self._connections.pop(connection.path.connection, None) is None:
            return False
        self._unproven.discard(connection.path.connection)
        host = connection.path.host
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        if not self._connections:
            self._idle.set()
        return True
