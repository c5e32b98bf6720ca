"""A whole call in virtual time: a real Room and the interpreted plane, simulated clients and links, one seed.

Nothing here touches a socket, a thread or the clock; the same seed gives the same trace, byte for byte.
"""

import hashlib
import heapq
from collections.abc import Callable
from random import Random

from livekit.protocol import models, room, rtc
from tertulia.sfu.room import Room, RoomConfig

from tertulia.protocol.ids import NodeId, TransportId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.events import Closed, EndSession, Happened, OfPlane, OfTransport, Request, RoomInput, Send
from tertulia.sfu.plane import simulated_plane
from tertulia.sfu.plane.api import Address, Datagram, SrtpProfile
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

    def __init__(self, world: "World") -> None:
        self.world = world
        self.client_of: dict[TransportId, Client] = {}
        self.opened: set[TransportId] = set()

    def _parameters(self, transport: TransportId) -> LocalParameters:
        return LocalParameters(f"s{transport}", "p" * 22, "sha-256", ":".join(["CD"] * 32), ())

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]:
        transport = self.world.plane.add_transport()
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
        self.world.plane.set_keys(transport, SrtpProfile.NULL, b"", b"")
        self.world.plane.allow(transport, address)
        self.world.plane.select(transport, address)
        client.on_connected()
        self.world.feed(OfTransport(transport, TransportConnected()))
        for label in ("_reliable", "_lossy"):
            self.world.feed(OfTransport(transport, ChannelOpened(label)))

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
        self.world.plane.remove_transport(transport)


class World:
    """Owns the time. Events at the same instant run in the order they were made."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = Nanos(10 * SECOND)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.clients: dict[str, Client] = {}
        self.by_host: dict[str, Client] = {}
        self.trace = hashlib.sha256()
        self.happened: list[Happened] = []
        self.closed = False
        self.plane = simulated_plane(Random(self.rng.random()))
        self.transports = SimulatedTransports(self)
        self.room = Room(
            room.CreateRoomRequest(name="sim", departure_timeout=5),
            node_id=NodeId("ND_sim"),
            region="",
            plane=self.plane,
            transports=self.transports,
            now=self.now,
            wall_offset_ns=1_700_000_000 * SECOND,
            rng=Random(self.rng.random()),
            config=RoomConfig(),
        )

    # ------------------------------------------------------------------------------------------ people

    def client(
        self, name: str, up: dict[str, int | float] | None = None, down: dict[str, int | float] | None = None
    ) -> Client:
        """A new member behind links of its own."""
        client = Client(self, name, len(self.clients) + 1)
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
            due = [
                time
                for time in (self.room.next_wake() if not self.closed else None, self.plane.next_wake())
                if time is not None
            ]
            if self._heap:
                due.append(Nanos(self._heap[0][0]))
            if not due or min(due) > end:
                self.now = Nanos(end)
                return
            self.now = Nanos(max(self.now, min(due)))
            self._step()

    def _step(self) -> None:
        if self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()
        plane_due = self.plane.next_wake()
        if plane_due is not None and plane_due <= self.now:
            self.plane.wake(self.now)
        if not self.closed:
            room_due = self.room.next_wake()
            if room_due is not None and room_due <= self.now:
                self.room.wake(self.now)
        self._drain()

    def _drain(self) -> None:
        while True:
            busy = False
            for report in self.plane.reports():
                if not isinstance(report, Datagram) and not self.closed:
                    self.room.handle(self.now, OfPlane(report))
                    busy = True
            while not self.closed and (output := self.room.poll()) is not None:
                busy = True
                self._output(output)
            while (datagram := self.plane.poll_datagram()) is not None:
                busy = True
                self._datagram(*datagram)
            if not busy:
                return

    def _output(self, output: object) -> None:
        match output:
            case Send(session, message):
                self.trace.update(f"{self.now} {session} ".encode() + message.SerializeToString(deterministic=True))
                if (client := self._of_session(session)) is not None:
                    self.at(Nanos(self.now + SIGNAL_NS), lambda: client.on_signal(message))
            case Happened():
                self.happened.append(output)
            case Closed():
                self.closed = True
            case EndSession():
                pass

    def _of_session(self, session: int) -> Client | None:
        return next((client for client in self.clients.values() if client.session == session), None)

    def _datagram(self, address: Address, data: bytes) -> None:
        self.trace.update(f"{self.now} {address.host} ".encode() + data)
        client = self.by_host.get(address.host)
        if client is not None and (when := client.down.arrival(self.now, len(data))) is not None:
            self.at(when, lambda: client.on_datagram(data))

    # ------------------------------------------------------------------------------------------ the clients' way in

    def feed(self, event: RoomInput) -> None:
        if not self.closed:
            self.room.handle(self.now, event)

    def to_room(self, client: Client, event: RoomInput) -> None:
        self.at(Nanos(self.now + SIGNAL_NS), lambda: self.feed(event))

    def signal_to_room(self, client: Client, message: rtc.SignalRequest) -> None:
        self.to_room(client, Request(client.session, message))

    def media_up(self, client: Client, data: bytes) -> None:
        when = client.up.arrival(self.now, len(data))
        if when is not None:
            self.at(when, lambda: self.plane.receive(self.now, Address(0, client.host, PORT), data))

    def message_up(self, client: Client, label: str, packet: models.DataPacket) -> None:
        transport = client.transport
        assert transport is not None
        data = packet.SerializeToString()
        if label == "_lossy" and client.up.arrival(self.now, len(data)) is None:
            return
        self.at(
            Nanos(self.now + client.up.delay_ns), lambda: self.feed(OfTransport(transport, ChannelMessage(label, data)))
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
        assert not self.transports.opened
        totals = self.plane.totals()
        assert not any(totals[gauge] for gauge in ("transports", "ups", "downs", "taps")), dict(totals)
