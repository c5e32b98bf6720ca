"""One node's place in the cluster: hears and says sealed words on the bus, knows who is there, asks and answers.

What the words mean for rooms is `rooms`, for calls of the server API `calls`, for media links `links`. Only nodes with
a `redis:` block have one of these; nothing of it exists on a node that is alone.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from tertulia.node.cluster.api import Bus, NodeRecord, Store, Unavailable
from tertulia.node.cluster.calls import Calls
from tertulia.node.cluster.directory import Directory
from tertulia.node.cluster.links import Links, RelaySocket
from tertulia.node.cluster.load import MachineLoad, sys_load
from tertulia.node.cluster.placement import Placement
from tertulia.node.cluster.rooms import SharedRooms
from tertulia.node.cluster.seal import Seal
from tertulia.node.cluster.selector import Selector
from tertulia.protocol import bus
from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.relay import Shares

if TYPE_CHECKING:
    from tertulia.node.house import House, Seat

log = structlog.get_logger()

EVERYBODY = "nodes"
"""The channel every node hears."""
REMIND_S = 0.5
FINISH_S = 2.0
"""What is under way when the node stops may take this long."""


@dataclass(frozen=True)
class NodeTraits:
    """What this node says of itself."""

    region: str = ""
    url: str = ""
    host: str = ""
    roles: tuple[str, ...] = ("sfu", "egress")


def channel_of(node: NodeId) -> str:
    return f"node:{node}"


class OnLinks:
    """One room's use of links (`linkload.Crossing`); what changes it is a turn of the room."""

    def __init__(self, seat: "Seat") -> None:
        self._seat = seat
        self.demands = seat.room.among.relay.demands
        self.audio_bps = seat.room.among.relay.audio_bps

    def limit(self, now: Nanos, node: NodeId, shares: Shares | None) -> None:
        self._seat.driver.run(lambda at: self._seat.room.limit_relay(at, node, shares))


class Cluster:
    """The node among its peers."""

    def __init__(
        self,
        house: "House",
        bus_: Bus,
        store: Store,
        secret: str,
        relay: RelaySocket,
        traits: NodeTraits,
        selector: Selector | None = None,
    ) -> None:
        self.house = house
        self.id = house.config.node_id
        self.bus = bus_
        self.store = store
        self.traits = traits
        self.selector = selector or Selector()
        self.relay = relay
        self.seal = Seal(secret, self.id, time.time_ns())
        self.counters: Counter[str] = Counter()
        self.directory = Directory(store, self.describe, self._on_gone, self.on_return)
        self.links = Links(house.plane, self.seal, relay, self.say)
        self.links.crossings = lambda: [OnLinks(seat) for seat in house.seats.values()]
        self.rooms = SharedRooms(self)
        self.calls = Calls(self)
        self.placement = Placement(self)
        if "egress" not in traits.roles:
            house.created.append(self.placement.automatic)
        self._epoch = time.time_ns()
        self._unsent: dict[str, list[bytes]] = {}
        """Said in this turn of the event loop, by channel."""
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.load = MachineLoad(lambda: sum(house.plane.totals().get(name, 0) for name in ("bytes_in", "bytes_out")))
        self._handlers: dict[type, Callable[[NodeId, Any], None]] = {
            bus.ForRoom: self.rooms.heard,
            bus.RecordChanged: self.rooms.record_changed,
            bus.LinkHello: self.links.heard,
            bus.Ask: self.calls.asked,
            bus.Answer: self.calls.answered,
            bus.CallForBids: self.placement.called,
            bus.Bid: self.placement.bid,
            bus.NodeBye: lambda node, word: self.directory.gone(node, said_goodbye=True),
        }

    # ------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect, subscribe, announce. An absent Redis is no reason not to start: `/readyz` tells."""
        await self.store.start()
        await self.bus.start()
        for channel in (channel_of(self.id), EVERYBODY):
            self.bus.subscribe(channel, self._on_message)
        await self.directory.refresh()
        self._loops = [asyncio.create_task(work) for work in (self.directory.run(), self._remind(), self.rooms.run())]

    async def stop(self) -> None:
        """Finish what rooms still have to say, then say goodbye."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_S)
        for task in list(self._tasks):
            task.cancel()
        self.say_to_all(bus.NodeBye())
        self._send()
        with contextlib.suppress(Unavailable):
            await self.store.withdraw(self.id)
        self.links.close_all()
        await self.bus.stop()
        await self.store.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work beside the loop that ends with the cluster; its mistakes are logged."""

        async def guarded() -> None:
            try:
                await work
            except Unavailable:
                self.counters["work_put_off"] += 1  # the next reconciliation does it
            except Exception as error:
                self.counters["work_failed"] += 1
                log.error("cluster.work_failed", exc_info=error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remind(self) -> None:
        while True:
            await asyncio.sleep(REMIND_S)
            self.links.remind()

    def describe(self) -> NodeRecord:
        house, cpus = self.house, os.cpu_count() or 1
        self.load.read()
        sizes = [seat.room.size() for seat in house.seats.values()]
        return NodeRecord(
            id=self.id,
            epoch=self._epoch,
            region=self.traits.region,
            url=self.traits.url,
            host=self.traits.host,
            relay_host=self.relay.host,
            relay_port=self.relay.udp_port,
            roles=self.traits.roles,
            draining=house.draining,
            cpus=cpus,
            cpu_load=min(1.0, max(self.load.cpu_load, self.placement.promised_cores / cpus)),
            sys_load=sys_load(),
            rooms=len(sizes),
            participants=sum(members for members, _ in sizes),
            tracks=sum(tracks for _, tracks in sizes),
            bytes_per_s=self.load.bytes_per_s,
        )

    def trouble(self) -> str | None:
        """Why this node should get no newcomers, for `/readyz`."""
        if not self.directory.is_available:
            why = self.directory.why or "the shared store was not asked yet"
            return f"{why}; calls go on, rooms of other nodes are out of reach"
        if not self.bus.available:
            return "the bus is not connected; calls go on, other nodes are not heard"
        return None

    # ------------------------------------------------------------------------------------------ words

    def say(self, node: NodeId, word: bus.Word) -> None:
        self._post(channel_of(node), word)

    def say_to_all(self, word: bus.Word) -> None:
        self._post(EVERYBODY, word)

    def _post(self, channel: str, word: bus.Word) -> None:
        """What is said to somebody in one turn of the event loop goes out together."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.setdefault(channel, []).append(bus.encode(word))

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for channel, words in unsent.items():
            for message in bus.together(words):
                self.bus.publish(channel, self.seal.close(channel, message))

    def _on_message(self, channel: str, data: bytes) -> None:
        try:
            sender, message = self.seal.open(channel, data)
            if sender != self.id:
                for word in bus.decode_node(message):
                    self._on_word(sender, word)
        except PeerError as error:
            self.counters[str(error)] += 1

    def _on_word(self, sender: NodeId, word: bus.NodeWord) -> None:
        if not isinstance(word, bus.NodeBye):
            self.directory.heard(sender)
        try:
            self._handlers[type(word)](sender, word)
        except Exception as error:
            self.counters["words_failed"] += 1
            log.error("cluster.word_failed", word=type(word).__name__, exc_info=error)

    # ------------------------------------------------------------------------------------------ who is there

    def is_alive(self, node: str) -> bool:
        return node == self.id or NodeId(node) in self.directory.nodes

    def _on_gone(self, node: NodeId) -> None:
        self.counters["nodes_gone"] += 1
        self.links.close(node)
        self.rooms.node_gone(node)
        self.calls.node_gone(node)

    def on_return(self) -> None:
        """Redis was away, and may have forgotten everything: say all again."""
        self.counters["store_returned"] += 1
        self.spawn(self.rooms.reconcile())

    @property
    def counted(self) -> list[Counter[str]]:
        """Counters of all parts, for metrics."""
        return [
            self.counters,
            self.links.counters,
            self.calls.counters,
            *(part.counters for part in (self.bus, self.store) if hasattr(part, "counters")),
        ]

    @property
    def records(self) -> list[NodeRecord]:
        """This node's own, then those of the others as they were said at most a second ago."""
        return [self.describe(), *self.directory.nodes.values()]

    @property
    def others(self) -> list[NodeRecord]:
        """Other nodes that take people."""
        return [node for node in self.directory.nodes.values() if "sfu" in node.roles and not node.draining]
