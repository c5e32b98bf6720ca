"""Egress anywhere: a job starts on the node with the lowest load that takes it, and is found again wherever it runs.

Whoever is asked for a job calls for bids over the bus: every node for egress says at once whether it takes one, and how
busy it is just now, counting what its jobs are promised. `node_selector` orders the bids. The chosen node has the last
word: one that turns out to be full refuses, and the next is asked. Nodes that said no, or nothing in time, come last,
by the records of their leases; without a bus that is everybody. The room is fetched to the node that records it, its
tracks over the relay.
"""

import asyncio
from collections.abc import Collection, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from google.protobuf.message import Message
from livekit.protocol import egress, room

from tertulia.node.cluster.api import NodeRecord
from tertulia.protocol import bus
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster
    from tertulia.node.house import Seat

log = structlog.get_logger()

ELSEWHERE = frozenset({"resource_exhausted", "unavailable", "deadline_exceeded", "unimplemented"})
"""Refusals that say nothing about the request: another node may take it."""
MAX_ASKED = 8
BID_S = 0.5
"""Bids that come later are too late; nodes of one cluster answer within a few milliseconds."""
MAX_ROUNDS = 1_000
"""Calls for bids at the same time; beyond it records decide."""
AUTOMATIC = "StartAutomatic"
"""Between nodes only: start what the CreateRoomRequest of a room asks for."""


class Promises(Protocol):
    """What the jobs of a node may use (`egress.budget.Budget`)."""

    promised: float

    @property
    def free(self) -> float: ...


class Jobs(Protocol):
    """The jobs of this node (`egress.service.EgressService`)."""

    @property
    def budget(self) -> Promises: ...

    @property
    def sessions(self) -> Sized: ...


@dataclass
class Round:
    """One call for bids."""

    waiting: set[NodeId]
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    bids: dict[NodeId, NodeRecord] = field(default_factory=dict)


class Placement:
    """The Twirp service `Egress` of a cluster."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._house = cluster.house
        self.jobs: Jobs | None = None
        """None: this node takes none."""
        self._rounds: dict[int, Round] = {}
        self._number = 0

    async def serve(self, method: str, request: Message) -> Message:
        """One call, from the API."""
        if method.startswith("Start"):
            return await self._start(method, request)
        if isinstance(request, egress.ListEgressRequest):
            return await self._list(request)
        return await self._find(method, request)

    async def automatic(self, seat: "Seat") -> None:
        """The room was made here with an egress block, and this node takes no jobs: another one starts them."""
        if seat.created.HasField("egress"):
            await self._start(AUTOMATIC, seat.created)

    async def serve_here(self, method: str, request: Message) -> Message:
        """One call that was meant for this node."""
        serve = self._house.services.get("Egress")
        if serve is None:
            raise RequestError("unimplemented", "this node takes no egress jobs")
        if method == AUTOMATIC and isinstance(request, room.CreateRoomRequest):
            await self._fetch(request.name)
            return await self._house.services["AutomaticEgress"](method, request)
        if method.startswith("Start") and (name := getattr(request, "room_name", "")):
            await self._fetch(name)
        return await serve(method, request)

    async def _fetch(self, name: str) -> None:
        """A room that other nodes hold gets its replica here."""
        if name in self._house.seats:
            return
        if await self._cluster.store.room(name) is None:
            raise RequestError("not_found", "requested room does not exist")
        await self._cluster.rooms.open_existing(name)

    # ------------------------------------------------------------------------------------------ bids

    @property
    def promised_cores(self) -> float:
        """What the jobs here may use, whether or not they do yet."""
        return self.jobs.budget.promised if self.jobs is not None else 0.0

    @property
    def takes(self) -> bool:
        """Would one more job be let in? The first always is."""
        if self.jobs is None or self._house.draining:
            return False
        return self.jobs.budget.free > 0 or not len(self.jobs.sessions)

    def called(self, node: NodeId, word: bus.CallForBids) -> None:
        """Another node places a job."""
        if self.jobs is not None:
            record = msgspec.msgpack.encode(self._cluster.describe())
            self._cluster.say(node, bus.Bid(number=word.number, takes=self.takes, record=record))

    def bid(self, node: NodeId, word: bus.Bid) -> None:
        """A node answers our call."""
        round_ = self._rounds.get(word.number)
        if round_ is None or node not in round_.waiting:
            self._cluster.counters["bids_late"] += 1
            return
        try:
            record = msgspec.msgpack.decode(word.record, type=NodeRecord)
            if record.id != node:
                raise msgspec.ValidationError
        except msgspec.DecodeError:
            self._cluster.counters["bids_malformed"] += 1
            return
        round_.waiting.discard(node)
        if word.takes:
            round_.bids[node] = record
        if not round_.waiting:
            round_.complete.set()

    async def _call_for_bids(self, nodes: Collection[NodeId]) -> dict[NodeId, NodeRecord]:
        """What these nodes offer, as far as they answer in time."""
        if not nodes or len(self._rounds) >= MAX_ROUNDS:
            return {}
        self._number += 1
        round_ = self._rounds[self._number] = Round(set(nodes))
        self._cluster.counters["bid_rounds"] += 1
        try:
            for node in nodes:
                self._cluster.say(node, bus.CallForBids(number=self._number))
            async with asyncio.timeout(BID_S):
                await round_.complete.wait()
        except TimeoutError:
            self._cluster.counters["bids_missed"] += len(round_.waiting)
            log.info("egress.bids_missed", nodes=sorted(round_.waiting))
        finally:
            del self._rounds[self._number]
        return round_.bids

    async def _candidates(self) -> list[NodeId]:
        """Nodes for a new job, the best first: those that bid, then the others; of either those that take no calls."""
        cluster = self._cluster
        here = cluster.describe()
        takers = [record for record in (here, *cluster.directory.nodes.values()) if "egress" in record.roles]
        bids = await self._call_for_bids({NodeId(record.id) for record in takers if record.id != cluster.id})
        if self.takes:
            bids[cluster.id] = here
        others = [record for record in takers if record.id not in bids]
        ranked = [
            record
            for group in (list(bids.values()), others)
            for record in cluster.selector.ranked(group, here, self._house.rng, lambda node: "sfu" in node.roles)
        ]
        return [NodeId(record.id) for record in ranked[:MAX_ASKED]]

    async def _ask(self, node: NodeId, method: str, request: Message) -> Message:
        if node == self._cluster.id:
            return await self.serve_here(method, request)
        return await self._cluster.calls.ask(node, "Egress", method, request, 1)

    async def _start(self, method: str, request: Message) -> Message:
        refusal = RequestError("unavailable", "no node of this cluster takes egress jobs just now")
        for node in await self._candidates():
            try:
                return await self._ask(node, method, request)
            except RequestError as error:
                if error.code not in ELSEWHERE:
                    raise
                self._cluster.counters["egress_refused_by_node"] += 1
                log.info("egress.refused_by_node", node=node, error=error.message)
                refusal = error
        raise refusal

    # ------------------------------------------------------------------------------------------ running jobs

    async def _list(self, request: egress.ListEgressRequest) -> egress.ListEgressResponse:
        """What all nodes have; one that does not answer is left out."""
        merged = egress.ListEgressResponse()
        for answer in await asyncio.gather(*self._everywhere("ListEgress", request), return_exceptions=True):
            if isinstance(answer, egress.ListEgressResponse):
                merged.items.extend(answer.items)
        merged.items.sort(key=lambda info: info.started_at)
        return merged

    async def _find(self, method: str, request: Message) -> Message:
        """Change or stop a job: the node that runs it knows it, and answers before a dead one is given up."""
        refusal = RequestError("not_found", "egress does not exist")
        answers = self._everywhere(method, request)
        try:
            for answer in asyncio.as_completed(answers):
                try:
                    return await answer
                except RequestError as error:
                    if error.code != "not_found":
                        refusal = error
        finally:
            for one in answers:
                one.add_done_callback(_heard)
                one.cancel()
        raise refusal

    def _everywhere(self, method: str, request: Message) -> "list[asyncio.Task[Message]]":
        """Every node for egress, leaving or not: jobs run until their node is gone."""
        nodes = [NodeId(record.id) for record in self._cluster.records if "egress" in record.roles]
        return [asyncio.create_task(self._ask(node, method, request)) for node in nodes]


def _heard(answer: "asyncio.Task[Message]") -> None:
    """An answer nobody waits for any more may be a refusal; that is no news."""
    if not answer.cancelled():
        answer.exception()
