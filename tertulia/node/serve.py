"""One node from start to stop: binds what must be bound, starts its parts in order, waits for a signal, ends well."""

import asyncio
import contextlib
import gc
import itertools
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import TYPE_CHECKING

import structlog

from tertulia import __version__
from tertulia.node import settings
from tertulia.node.banner import show_banner
from tertulia.node.cluster.links import RelaySocket
from tertulia.node.config import Config
from tertulia.node.health import Health
from tertulia.node.house import House
from tertulia.node.logs import configure
from tertulia.node.metrics import Metrics, metrics_app
from tertulia.node.pages import pages_app
from tertulia.node.recording import Recording
from tertulia.node.regions import Regions
from tertulia.node.snapshot import Losses, snapshot
from tertulia.node.sockets import PortTaken, bind_ports, local_addresses
from tertulia.protocol.ids import NodeId, mint
from tertulia.sfu.plane.api import LivePlane
from tertulia.sfu.plane.open import PlaneUnavailable, open_plane
from tertulia.sfu.transport.hub import TransportHub
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint
from tertulia.signal.backend import Backend
from tertulia.signal.counts import Counts
from tertulia.signal.server import BindError, FrontDoor
from tertulia.signal.webhook import room_event
from tertulia.signal.webhook_io import WebhookSender

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster

log = structlog.get_logger()

POLL_S = 0.005
"""How often an interpreted plane is asked for reports; the compiled one wakes the loop itself."""
FAREWELL_S = 0.3
"""Last words to clients that move to another node get this long to leave."""
DRAIN_S = 3.0
"""From the first signal to the end: time for goodbyes, webhooks and files."""


def run(config: Config) -> int:
    """Serve until SIGINT or SIGTERM. The exit status: 0, or 1 when something could not be bound (said on stderr)."""
    configure(config.logging, development=config.development)
    try:
        if sys.platform == "win32":
            asyncio.run(serve(config))
        else:
            import uvloop

            uvloop.run(serve(config))
    except (PortTaken, BindError, PlaneUnavailable) as error:
        print(f"tertulia: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(config: Config) -> None:
    """One node's life."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Node(config).running() as node:
        reason = getattr(node.plane, "reason", "")
        show_banner(config, node.door.addresses, node.plane.life, reason, media=node.media, tcp=node.tcp)
        await stop.wait()
        log.info("node.stopping")


class Node:
    """The parts of one node and the order they live in."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rng = Random(secrets.randbits(256))
        self.id = NodeId(mint("ND_", self.rng))
        self.health = Health()
        self.counts = Counts()
        self.plane: LivePlane
        self.media: list[tuple[str, int]] = []
        self.tcp: list[tuple[str, int]] = []
        self.house: House
        self.cluster: Cluster | None = None
        self.relay: RelaySocket
        self.door: FrontDoor
        self.webhooks: WebhookSender
        self.recording: Recording | None = None
        self.losses = Losses()

    @contextlib.asynccontextmanager
    async def running(self) -> "AsyncIterator[Node]":
        """Everything started; everything stopped again, whatever happens in between."""
        async with contextlib.AsyncExitStack() as stack:
            await self._start_media(stack)
            await self._start_webhooks(stack)
            await self._start_cluster(stack)
            await self._start_egress(stack)
            await self._start_door(stack)
            probe = asyncio.create_task(self.health.probe())
            stack.callback(probe.cancel)
            gc.collect()
            gc.freeze()  # what start-up made stays: later collections look at calls only, and so run often and short
            log.info("node.ready", node=self.id, version=__version__, plane=self.plane.life)
            yield self
            await self._drain()
            self.house.stop()

    async def _drain(self) -> None:
        """Where there are other nodes our members move to them; they get a while for it."""
        if self.cluster is None or not self.cluster.others:
            return
        self.house.drain()
        await self.cluster.directory.refresh()
        await asyncio.sleep(FAREWELL_S)

    async def _start_media(self, stack: contextlib.AsyncExitStack) -> None:
        rtc = self.config.rtc
        hosts = local_addresses(settings.interfaces(self.config))
        ports = bind_ports(hosts, list(rtc.udp_port))
        relay = self._bind_relay(hosts)
        self.plane = open_plane([*ports, *relay])
        numbers = itertools.count()  # the plane counts sockets through all rows
        endpoints = [[UdpEndpoint(next(numbers), *sock.getsockname()[:2]) for sock in row] for row in ports]
        self.media = [(end.host, end.port) for row in endpoints for end in row]
        self.tcp = [(host, rtc.tcp_port) for host in hosts] if rtc.tcp_port else []
        self.plane.start()
        stack.callback(self.plane.stop)
        tcp = TcpEndpoint("0.0.0.0", rtc.tcp_port, tuple(hosts)) if rtc.tcp_port else None
        self.house = House(
            settings.house(self.config, self.id),
            self.plane,
            lambda deliver: TransportHub(self.plane, endpoints, deliver, tcp=tcp, node_ip=rtc.node_ip or None),
            self.rng,
        )
        self.house.reasons = self.health.reasons
        if relay:
            sock = relay[0][0]
            self.relay = RelaySocket(len(ports), next(numbers), *sock.getsockname()[:2])
            self.house.relay_socket = self.relay.socket
        await self.house.hub.start()
        stack.push_async_callback(self.house.hub.stop)
        loop = asyncio.get_running_loop()
        if self.plane.fileno() >= 0:
            loop.add_reader(self.plane.fileno(), self.house.on_plane)
            stack.callback(loop.remove_reader, self.plane.fileno())
        else:
            polling = asyncio.create_task(self._poll())
            stack.callback(polling.cancel)

    def _bind_relay(self, hosts: list[str]) -> list[list[socket.socket]]:
        """The Port of media links; none on a node that is alone."""
        if not self.config.redis.configured:
            return []
        about = self.config.cluster
        return bind_ports([about.relay_ip or hosts[0]], [about.relay_port])

    async def _start_cluster(self, stack: contextlib.AsyncExitStack) -> None:
        if not self.config.redis.configured:
            return
        from tertulia.node.cluster.cluster import Cluster, NodeTraits
        from tertulia.node.cluster.redis import RedisBus, RedisStore
        from tertulia.node.cluster.seal import mark_of

        where = settings.redis(self.config)
        secret = settings.cluster_secret(self.config)
        space = mark_of(secret)
        bus = RedisBus(where, space)
        roles = tuple(self.config.node.roles)
        self.cluster = cluster = Cluster(
            self.house,
            bus,
            RedisStore(where, space),
            secret,
            self.relay,
            NodeTraits(region=self.config.region, url=self.config.node.url, host=self.relay.host, roles=roles),
            settings.selector(self.config),
        )
        bus.on_return = cluster.on_return
        self.house.cluster = cluster
        self.health.watch("cluster", cluster.trouble)
        await cluster.start()
        stack.push_async_callback(cluster.stop)

    async def _poll(self) -> None:
        while True:
            self.house.on_plane()
            await asyncio.sleep(POLL_S)

    async def _start_webhooks(self, stack: contextlib.AsyncExitStack) -> None:
        targets = settings.webhook_targets(self.config)
        self.webhooks = WebhookSender(
            targets,
            self.house.config.keys,
            self.rng,
            self.counts,
            f"Tertulia/{__version__}",
        )
        stack.push_async_callback(self.webhooks.close, DRAIN_S)
        if targets:
            self.house.happened.append(
                lambda seat, event: self.webhooks.notify(
                    room_event(event.name, event.room, event.participant, event.track)
                )
            )

    async def _start_egress(self, stack: contextlib.AsyncExitStack) -> None:
        if "egress" not in self.config.node.roles:
            return
        self.recording = Recording(self.house, self.config, self.rng, self.webhooks.notify)
        if self.cluster is not None:
            self.cluster.placement.jobs = self.recording.service
        stack.push_async_callback(self.recording.close)

    async def _start_door(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        metrics = Metrics(lambda: snapshot(self), self.id)
        self.house.render_metrics = metrics.render
        regions = Regions(self.house, self.cluster, config, settings.selector(config))
        self.house.region_settings = regions.answer
        backend: Backend = self.house
        self.door = FrontDoor(
            backend,
            self.house.config.keys,
            settings.door(config),
            pages=pages_app(config),
            counts=self.counts,
        )
        await self.door.start(config.bind_addresses or ("",), config.port)
        stack.push_async_callback(self.door.stop, DRAIN_S)
        if config.prometheus_port or config.prometheus.port:
            await self._serve_metrics(stack, metrics)

    async def _serve_metrics(self, stack: contextlib.AsyncExitStack, metrics: Metrics) -> None:
        import uvicorn

        class Quiet(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # the node owns the signals

        about = self.config.prometheus
        app = metrics_app(metrics.render, about.username, about.password)
        port = about.port or self.config.prometheus_port
        server = Quiet(uvicorn.Config(app, host="", port=port, log_config=None, lifespan="off", ws="none"))
        serving = asyncio.create_task(server.serve())

        async def end() -> None:
            server.should_exit = True
            await serving

        stack.push_async_callback(end)
