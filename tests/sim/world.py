"""A whole call in virtual time: a real Room and the interpreted plane, simulated clients and links, one seed.

Nothing here touches a socket, a thread or the clock; the same seed gives the same trace, byte for byte.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

from livekit.protocol import models, room, rtc

from tertulia.node.cluster.links import EXTENSIONS
from tertulia.protocol.ids import NodeId, TransportId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.events import (
    Closed,
    EndSession,
    FromNode,
    Happened,
    Join,
    NodeGone,
    NodesHere,
    OfPlane,
    OfTransport,
    Request,
    RoomInput,
    Send,
    ToNodes,
)
from tertulia.sfu.linkload import LinkLoad
from tertulia.sfu.plane import simulated_plane
from tertulia.sfu.plane.api import Address, Datagram, Feedback, SimulatedPlane, SrtpProfile
from tertulia.sfu.relay import Shares
from tertulia.sfu.room import Room, RoomConfig
from tertulia.sfu.transport.api import (
    ChannelMessage,
    ChannelOpened,
    LocalParameters,
    RemoteParameters,
    TransportConnected,
)
from tests.sim.client import Client
from tests.sim.link import Link

SIGNAL_NS = 15 * MILLISECOND
PORT = 5000


class SimulatedTransports:
    """`Transports` without ICE, DTLS and SCTP: a connection is up two round trips after the answer; channels follow."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self.world = node.world
        self.client_of: dict[TransportId, Client] = {}
        self.opened: set[TransportId] = set()

    def _parameters(self, transport: TransportId) -> LocalParameters:
        return LocalParameters(f"s{transport}", "p" * 22, "sha-256", ":".join(["CD"] * 32), ())

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]:
        transport = self.node.plane.add_transport()
        self.opened.add(transport)
        return transport, self._parameters(transport)

    def connect(self, transport: TransportId, remote: RemoteParameters) -> LocalParameters:
        if transport not in self.client_of:
            client = self.client_of[transport] = self.world.clients[remote.ufrag.removesuffix("+sim")]
            client.transport = transport
            self.world.at(Nanos(self.world.now + 4 * client.down.delay_ns), lambda: self._up(transport, client))
        return self._parameters(transport)

    def _up(self, transport: TransportId, client: Client) -> None:
        if transport not in self.opened:
            return
        address = Address(0, client.host, PORT)
        self.node.plane.set_keys(transport, SrtpProfile.NULL, b"", b"")
        self.node.plane.allow(transport, address)
        self.node.plane.select(transport, address)
        client.on_connected()
        self.node.feed(OfTransport(transport, TransportConnected()))
        for label in ("_reliable", "_lossy"):
            self.node.feed(OfTransport(transport, ChannelOpened(label)))

    def restart(self, transport: TransportId) -> LocalParameters:
        return self._parameters(transport)

    def open_channel(self, transport: TransportId, label: str, *, ordered: bool, max_retransmits: int | None) -> None:
        return

    def send(self, transport: TransportId, label: str, data: bytes) -> bool:
        client = self.client_of.get(transport)
        if client is None or transport not in self.opened:
            return False
        if label == "_lossy" and client.down.arrival(self.world.now, len(data)) is None:
            return True
        self.world.at(
            Nanos(self.world.now + client.down.delay_ns),
            lambda: client.messages.append(models.DataPacket.FromString(data)),
        )
        return True

    def buffered_bytes(self, transport: TransportId, label: str) -> int:
        return 0

    def round_trip_ns(self, transport: TransportId) -> int:
        client = self.client_of.get(transport)
        return 0 if client is None else 2 * client.down.delay_ns

    def close(self, transport: TransportId) -> None:
        self.opened.discard(transport)
        self.client_of.pop(transport, None)
        self.node.plane.remove_transport(transport)


class Node:
    """One server of the world: its plane, its peer connections and its replica of the room."""

    def __init__(self, world: "World", name: str, shared: models.Room | None) -> None:
        self.world = world
        self.name = NodeId(name)
        self.host = f"node-{name}"
        self.closed = False
        self.dead = False
        self.plane = simulated_plane(Random(world.rng.random()))
        self.transports = SimulatedTransports(self)
        self.links = SimulatedLinks(self)
        self.room = Room(
            room.CreateRoomRequest(name="sim", departure_timeout=5),
            node_id=self.name,
            region="",
            plane=self.plane,
            transports=self.transports,
            now=world.now,
            wall_offset_ns=1_700_000_000 * SECOND,
            rng=Random(world.rng.random()),
            config=RoomConfig(),
            shared=shared,
            is_new=shared is None,
            links=self.links,
        )

    def feed(self, event: RoomInput) -> None:
        if not (self.closed or self.dead):
            self.room.handle(self.world.now, event)


class OnLinks:
    """The room's use of links; a limit is a turn of the room."""

    def __init__(self, node: Node) -> None:
        self._room = node.room
        self.demands = node.room.among.relay.demands
        self.audio_bps = node.room.among.relay.audio_bps

    def limit(self, now: Nanos, node: NodeId, shares: Shares | None) -> None:
        self._room.limit_relay(now, node, shares)


class SimulatedLinks:
    """Media links without keys: one transport for each other node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.of: dict[NodeId, TransportId] = {}
        self.loads: dict[TransportId, LinkLoad] = {}

    def open(self, node: NodeId) -> TransportId:
        if node not in self.of:
            plane = self.node.plane
            transport = self.of[node] = plane.add_transport()
            plane.set_extensions(transport, EXTENSIONS)
            plane.set_feedback(transport, 1 + len(self.of))
            plane.set_keys(transport, SrtpProfile.NULL, b"", b"")
            address = Address(0, f"node-{node}", PORT)
            plane.allow(transport, address)
            plane.select(transport, address)
            self.loads[transport] = LinkLoad(node, transport, plane, lambda: [OnLinks(self.node)])
        return self.of[node]

    def close(self, node: NodeId) -> None:
        if (transport := self.of.pop(node, None)) is not None:
            self.node.plane.remove_transport(transport)


class World:
    """Owns the time. Events at the same instant run in the order they were made."""

    def __init__(
        self,
        seed: int,
        nodes: int = 1,
        bus: dict[str, int | float] | None = None,
        link: dict[str, int | float] | None = None,
    ) -> None:
        """`bus` and `link`: the paths of words and of media between two nodes."""
        self.rng = Random(seed)
        self.now = Nanos(10 * SECOND)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.clients: dict[str, Client] = {}
        self.by_host: dict[str, Client] = {}
        self.trace = hashlib.sha256()
        self.happened: list[Happened] = []
        self.tickets = 0
        self.nodes: list[Node] = []
        self._bus, self._link = bus or {"delay_ns": MILLISECOND}, link or {"delay_ns": 5 * MILLISECOND}
        self._paths: dict[tuple[str, str, str], Link] = {}
        self.crossed: Counter[tuple[str, str, int]] = Counter()
        """Media packets from node to node, by SSRC."""
        for number in range(nodes):
            shared = self.nodes[0].room.among.record() if self.nodes else None
            self.nodes.append(Node(self, "sim" if nodes == 1 else f"sim{number}", shared))
        everybody = frozenset(node.name for node in self.nodes)
        if nodes > 1:
            for node in self.nodes:
                node.feed(NodesHere(everybody - {node.name}))

    @property
    def plane(self) -> SimulatedPlane:
        return self.nodes[0].plane

    @property
    def room(self) -> Room:
        return self.nodes[0].room

    @property
    def closed(self) -> bool:
        return all(node.closed for node in self.nodes if not node.dead)

    def path(self, kind: str, sender: str, receiver: str) -> Link:
        """The way from one node to another: `bus` or `link`."""
        key = (kind, sender, receiver)
        if key not in self._paths:
            about = self._bus if kind == "bus" else self._link
            self._paths[key] = Link(Random(self.rng.random()), **about)  # type: ignore[arg-type]
        return self._paths[key]

    def kill(self, number: int, *, noticed_after_ns: int = 5 * SECOND) -> None:
        """A node dies without a word; the others miss it after a while."""
        dead = self.nodes[number]
        dead.dead = True
        for client in self.clients.values():
            if client.node is dead:
                client.left = True
                client.streams.clear()
        for node in self.nodes:
            if not node.dead:
                self.at(Nanos(self.now + noticed_after_ns), lambda node=node: self._missed(node, dead.name))

    def _missed(self, node: Node, gone: NodeId) -> None:
        node.feed(NodeGone(gone))
        node.links.close(gone)

    # ------------------------------------------------------------------------------------------ people

    def client(
        self,
        name: str,
        up: dict[str, int | float] | None = None,
        down: dict[str, int | float] | None = None,
        node: int = 0,
    ) -> Client:
        """A new member behind links of its own."""
        client = Client(self, name, len(self.clients) + 1)
        client.node = self.nodes[node]
        client.host = f"10.0.0.{len(self.clients) + 1}"
        client.up = Link(Random(self.rng.random()), **(up or {}))  # type: ignore[arg-type]
        client.down = Link(Random(self.rng.random()), **(down or {}))  # type: ignore[arg-type]
        self.clients[name] = self.by_host[client.host] = client
        return client

    # ------------------------------------------------------------------------------------------ time

    def at(self, when: Nanos, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + int(seconds * SECOND)
        while True:
            due = [time for node in self.nodes for time in self._due(node) if time is not None]
            if self._heap:
                due.append(Nanos(self._heap[0][0]))
            if not due or min(due) > end:
                self.now = Nanos(end)
                return
            self.now = Nanos(max(self.now, min(due)))
            self._step()

    def _due(self, node: Node) -> tuple[Nanos | None, Nanos | None]:
        if node.dead:
            return None, None
        return (node.room.next_wake() if not node.closed else None), node.plane.next_wake()

    def _step(self) -> None:
        if self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()
        for node in self.nodes:
            room_due, plane_due = self._due(node)
            if plane_due is not None and plane_due <= self.now:
                node.plane.wake(self.now)
            if room_due is not None and room_due <= self.now and not node.closed:
                node.room.wake(self.now)
        for node in self.nodes:
            self._drain(node)

    def _drain(self, node: Node) -> None:
        while not node.dead:
            busy = False
            for report in node.plane.reports():
                if isinstance(report, Feedback) and report.transport in node.links.loads:
                    node.links.loads[report.transport].feed(report)
                elif not isinstance(report, Datagram) and not node.closed:
                    node.room.handle(self.now, OfPlane([report]))
                    busy = True
            while not node.closed and (output := node.room.poll()) is not None:
                busy = True
                self._output(node, output)
            while (datagram := node.plane.poll_datagram()) is not None:
                busy = True
                self._datagram(node, *datagram)
            if not busy:
                return

    def _output(self, node: Node, output: object) -> None:
        match output:
            case Send(session, message):
                self.trace.update(f"{self.now} {session} ".encode() + message.SerializeToString(deterministic=True))
                if (client := self._of_session(session)) is not None:
                    self.at(Nanos(self.now + SIGNAL_NS), lambda: client.on_signal(message))
            case Happened():
                self.happened.append(output)
            case ToNodes(data, to):
                for other in self.nodes:
                    if other is not node and to in (None, other.name):
                        self._say(node, other, data)
            case Closed():
                node.closed = True
            case EndSession():
                pass

    def _say(self, node: Node, other: Node, data: bytes) -> None:
        when = self.path("bus", node.name, other.name).arrival(self.now, len(data))
        if when is not None and not other.dead:
            self.at(when, lambda: other.feed(FromNode(node.name, data)))

    def _of_session(self, session: int) -> Client | None:
        return next((client for client in self.clients.values() if client.session == session), None)

    def _datagram(self, node: Node, address: Address, data: bytes) -> None:
        if address.host.startswith("node-"):
            self._relay(node, address.host, data)
            return
        self.trace.update(f"{self.now} {address.host} ".encode() + data)
        client = self.by_host.get(address.host)
        if client is not None and (when := client.down.arrival(self.now, len(data))) is not None:
            self.at(when, lambda: client.on_datagram(data))

    def _relay(self, node: Node, host: str, data: bytes) -> None:
        if not 192 <= data[1] < 224:
            self.crossed[node.name, host, int.from_bytes(data[8:12], "big")] += 1
        when = self.path("link", node.name, host).arrival(self.now, len(data))
        other = next(other for other in self.nodes if other.host == host)
        if when is not None and not other.dead:
            self.at(when, lambda: other.plane.receive(self.now, Address(0, node.host, PORT), data))

    # ------------------------------------------------------------------------------------------ the clients' way in

    def to_room(self, client: Client, event: RoomInput) -> None:
        self.at(Nanos(self.now + SIGNAL_NS), lambda: client.node.feed(self._claimed(event)))

    def _claimed(self, event: RoomInput) -> RoomInput:
        """With more than one node every join brings a claim, as the store would number it."""
        if isinstance(event, Join) and len(self.nodes) > 1:
            self.tickets += 1
            return replace(event, ticket=self.tickets)
        return event

    def signal_to_room(self, client: Client, message: rtc.SignalRequest) -> None:
        self.to_room(client, Request(client.session, message))

    def media_up(self, client: Client, data: bytes) -> None:
        when = client.up.arrival(self.now, len(data))
        if when is not None:
            self.at(when, lambda: client.node.plane.receive(self.now, Address(0, client.host, PORT), data))

    def message_up(self, client: Client, label: str, packet: models.DataPacket) -> None:
        transport = client.transport
        assert transport is not None
        data = packet.SerializeToString()
        if label == "_lossy" and client.up.arrival(self.now, len(data)) is None:
            return
        self.at(
            Nanos(self.now + client.up.delay_ns),
            lambda: client.node.feed(OfTransport(transport, ChannelMessage(label, data))),
        )

    # ------------------------------------------------------------------------------------------ standing checks

    def check_rosters(self) -> None:
        """After a second of quiet every client's picture of the room equals the room's."""
        present = {client.name: client for client in self.clients.values() if client.sid and not client.left}
        for client in present.values():
            others = set(present) - {client.name}
            assert set(client.roster) == others, (
                f"{client.name} sees {sorted(client.roster)}, there are {sorted(others)}"
            )
            for name in others:
                tracks = {track.sid for track in client.roster[name].tracks}
                truth = {track.sid for track in present[name].published.values()}
                assert tracks == truth, f"{client.name} sees {tracks} of {name}, there are {truth}"

    def check_media(self) -> None:
        for client in self.clients.values():
            client.judge()

    def check_empty(self) -> None:
        """Nothing left after the last leave."""
        assert self.closed
        for node in self.nodes:
            if node.dead:
                continue
            for other in list(node.links.of):
                node.links.close(other)
            assert not node.transports.opened
            totals = node.plane.totals()
            assert not any(totals[gauge] for gauge in ("transports", "ups", "downs", "taps")), dict(totals)
