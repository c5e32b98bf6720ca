"""The listening end: several addresses, one guarded uvicorn, a stop that lets sessions say goodbye."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence

import uvicorn

from tertulia.signal.backend import Backend
from tertulia.signal.counts import Counts
from tertulia.signal.door import Door
from tertulia.signal.doorman import Doorman
from tertulia.signal.guard import GuardedConfig, GuardedHttp
from tertulia.signal.http import App
from tertulia.signal.settings import DoorSettings

BACKLOG = 2048
UNLIMITED = 1 << 40


class BindError(Exception):
    """An address cannot be listened on; the message says which and why."""


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the node owns the signals


class FrontDoor:
    """The HTTP port of a node: `start`, then `stop`."""

    def __init__(
        self,
        backend: Backend,
        keys: Mapping[str, str],
        settings: DoorSettings | None = None,
        *,
        pages: App | None = None,
        counts: Counts | None = None,
    ) -> None:
        """`keys` (API key -> secret) is read at every request, so it may be changed in place."""
        self.settings = settings or DoorSettings()
        self.counts = Counts() if counts is None else counts
        self.doorman = Doorman(self.settings)
        self.door = Door(backend, keys, self.settings, self.doorman, self.counts, pages)
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, with the ports that were chosen for 0."""
        self._uvicorn: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(
        self, hosts: Sequence[str], port: int, *, certificate: str | None = None, private_key: str | None = None
    ) -> None:
        """Listen on `port` of every host (names or addresses). Raises BindError, then nothing is left open."""
        sockets = await _bind(hosts, port)
        self.addresses = [bound.getsockname()[:2] for bound in sockets]
        config = GuardedConfig(
            self.door,
            http=GuardedHttp,
            ws="websockets-sansio",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # at INFO it writes whole URLs, tokens included; at WARNING a line per bad request
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=self.settings.message_bytes or UNLIMITED,
            ws_per_message_deflate=False,
            ws_ping_interval=self.settings.ping_interval_s,
            ws_ping_timeout=self.settings.ping_timeout_s,
            timeout_keep_alive=self.settings.keep_alive_s,
            timeout_graceful_shutdown=2,
            ssl_certfile=certificate,
            ssl_keyfile=private_key,
            backlog=BACKLOG,
        )
        config.settings, config.doorman, config.counts = self.settings, self.doorman, self.counts
        self._uvicorn = _Uvicorn(config)
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=sockets), name="front door")
        while not self._uvicorn.started:
            if self._serving.done():
                await self._serving
                raise BindError("the HTTP server ended while starting")
            await asyncio.sleep(0.005)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse newcomers, give the sessions the house is ending time to flush, then close everything."""
        self.door.draining = True
        if self._uvicorn is None or self._serving is None:
            return
        for server in self._uvicorn.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.door.quiet(), grace_s)
        self._uvicorn.should_exit = True
        await self._serving


async def _bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    bound: list[socket.socket] = []
    try:
        for host in dict.fromkeys(hosts):
            try:
                found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except OSError as error:
                raise BindError(f"cannot listen on {host!r}: {error.strerror or error}") from None
            for family, kind, protocol, _, address in found:
                if any(one.getsockname()[0] == address[0] for one in bound):
                    continue
                if family == socket.AF_INET6 and not host and not socket.has_dualstack_ipv6():
                    continue  # "everywhere" on a machine without IPv6
                chosen = port or (bound[0].getsockname()[1] if bound else 0)
                bound.append(_listen(family, kind, protocol, (address[0], chosen, *address[2:])))
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BindError(f"cannot listen on {address[0]} port {address[1]}: {error.strerror or error}") from None
    return listener
