"""Where an egress job goes: bids before records, the selector's order, refusals that lead on and those that do not.

Four nodes around one table: what one says the others hear at once, unless they are asleep.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message
from livekit.protocol import egress

from tertulia.node.cluster import placement
from tertulia.node.cluster.api import NodeRecord
from tertulia.node.cluster.placement import Placement
from tertulia.node.cluster.selector import Selector
from tertulia.protocol import bus
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId

REQUEST = egress.StartEgressRequest()
FULL = RequestError("resource_exhausted", "no cores are free")


@dataclass
class Budget:
    promised: float = 0.0
    free: float = 1.0


@dataclass
class Jobs:
    budget: Budget = field(default_factory=Budget)
    sessions: list[str] = field(default_factory=list)


class Node:
    """As much of a node as placing a job asks of it."""

    def __init__(self, table: "dict[str, Node]", name: str, roles: tuple[str, ...], cpu_load: float) -> None:
        self.table, self.id = table, NodeId(name)
        self.record = NodeRecord(id=name, epoch=1, roles=roles, cpu_load=cpu_load)
        self.is_asleep = False
        self.refusal: RequestError | None = None
        self.selector = Selector()
        self.counters: Counter[str] = Counter()
        self.asked: list[str] = []
        self.calls = SimpleNamespace(ask=self._carry)
        services: dict[str, Callable[[str, Message], Awaitable[Message]]] = {}
        self.house = SimpleNamespace(services=services, draining=False, rng=Random(1))
        self.placement = Placement(self)  # type: ignore[arg-type]
        if "egress" in roles:
            services["Egress"] = self._serve
            self.placement.jobs = Jobs()
        table[name] = self

    @property
    def directory(self) -> Any:
        others = {NodeId(name): node.record for name, node in self.table.items() if node is not self}
        return SimpleNamespace(nodes=others)

    @property
    def records(self) -> list[NodeRecord]:
        return [self.describe(), *self.directory.nodes.values()]

    @property
    def jobs(self) -> Jobs:
        assert isinstance(self.placement.jobs, Jobs)
        return self.placement.jobs

    def describe(self) -> NodeRecord:
        return replaced(self.record, cpu_load=max(self.record.cpu_load, self.placement.promised_cores))

    def say(self, node: NodeId, word: bus.Word) -> None:
        other = self.table[node]
        if not other.is_asleep:
            assert isinstance(word, bus.CallForBids | bus.Bid)
            (other.placement.called if isinstance(word, bus.CallForBids) else other.placement.bid)(self.id, word)  # type: ignore[arg-type]

    async def _carry(self, node: NodeId, service: str, method: str, request: Message, hops: int) -> Message:
        if self.table[node].is_asleep:
            raise RequestError("unavailable", "no answer")
        return await self.table[node].placement.serve_here(method, request)

    async def _serve(self, method: str, request: Message) -> Message:
        self.asked.append(method)
        if self.refusal is not None:
            raise self.refusal
        return egress.EgressInfo(egress_id=self.id)


def replaced(record: NodeRecord, **changes: Any) -> NodeRecord:
    return msgspec.structs.replace(record, **changes)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Node]:
    """`front` takes no jobs; `b` is the idlest, `d` the busiest."""
    monkeypatch.setattr(placement, "BID_S", 0.01)
    found: dict[str, Node] = {}
    Node(found, "front", ("sfu",), 0.0)
    for name, load in (("b", 0.1), ("c", 0.4), ("d", 0.8)):
        Node(found, name, ("sfu", "egress"), load)
    return found


async def start(node: Node) -> str:
    info = await node.placement.serve("StartEgress", REQUEST)
    assert isinstance(info, egress.EgressInfo)
    return info.egress_id


async def refusal(node: Node) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await node.placement.serve("StartEgress", REQUEST)
    return refused.value


async def test_the_idlest_takes_it_and_only_it_is_asked(table: dict[str, Node]) -> None:
    assert await start(table["front"]) == "b"
    assert [node.asked for node in table.values()] == [[], ["StartEgress"], [], []]
    assert table["front"].counters["bid_rounds"] == 1


async def test_what_is_promised_counts_before_any_record_says_so(table: dict[str, Node]) -> None:
    table["b"].jobs.budget.promised = 0.9
    assert await start(table["front"]) == "c"


async def test_a_full_node_makes_no_bid_and_is_asked_last(table: dict[str, Node]) -> None:
    table["b"].jobs.budget.free, table["b"].jobs.sessions = 0.0, ["one"]
    assert await start(table["front"]) == "c"
    table["b"].jobs.sessions = []  # the first job is always let in
    assert await start(table["front"]) == "b"


async def test_a_node_that_sleeps_is_asked_after_all_others(table: dict[str, Node]) -> None:
    front = table["front"]
    table["b"].is_asleep = True
    assert await start(front) == "c"
    assert front.counters["bids_missed"] == 1
    for name in "cd":
        table[name].refusal = FULL
    assert (await refusal(front)).message == "no answer"
    assert front.counters["egress_refused_by_node"] == 3


async def test_without_a_bus_records_decide(table: dict[str, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "say", lambda *_: None)
    table["b"].record = replaced(table["b"].record, cpu_load=0.9)
    assert await start(table["front"]) == "c"


async def test_a_refusal_for_want_of_room_leads_on_and_one_of_the_request_does_not(table: dict[str, Node]) -> None:
    table["b"].refusal = FULL
    assert await start(table["front"]) == "c"
    table["b"].refusal = RequestError("invalid_argument", "layout")
    assert (await refusal(table["front"])).code == "invalid_argument"
    assert len(table["c"].asked) == 1
    for node in "bcd":
        table[node].refusal = FULL
    assert (await refusal(table["front"])) is FULL


async def test_nobody_records_in_this_cluster() -> None:
    assert (await refusal(Node({}, "front", ("sfu",), 0.0))).code == "unavailable"


async def test_a_leaving_node_takes_nothing_new_but_knows_what_it_runs(table: dict[str, Node]) -> None:
    table["b"].house.draining = True
    table["b"].record = replaced(table["b"].record, draining=True)
    assert await start(table["front"]) == "c"
    for name in "cd":
        table[name].refusal = RequestError("not_found", "egress does not exist")
    found = await table["front"].placement.serve("StopEgress", egress.StopEgressRequest(egress_id="x"))
    assert found == egress.EgressInfo(egress_id="b")


async def test_one_that_takes_no_calls_goes_first_and_the_selector_is_obeyed(table: dict[str, Node]) -> None:
    Node(table, "recorder", ("egress",), 0.5)
    assert await start(table["front"]) == "recorder"
    table["front"].selector = replace(Selector(), kind="cpuload", cpu_load_limit=0.45)
    assert await start(table["front"]) == "b"
    table["front"].selector = Selector(sort_by="random")
    assert {await start(table["front"]) for _ in range(30)} == {"recorder"}
    del table["recorder"]
    assert {await start(table["front"]) for _ in range(60)} == {"b", "c", "d"}


async def test_stop_does_not_wait_for_a_node_that_sleeps(table: dict[str, Node]) -> None:
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def carry(node: NodeId, service: str, method: str, request: Message, hops: int) -> Message:
        return await never if node == "b" else await table[node].placement.serve_here(method, request)

    front = table["front"]
    front.calls.ask = carry
    table["c"].refusal = RequestError("not_found", "egress does not exist")
    found = await front.placement.serve("StopEgress", egress.StopEgressRequest(egress_id="x"))
    assert found == egress.EgressInfo(egress_id="d")


@pytest.mark.parametrize(
    ("word", "counter"),
    [
        (bus.Bid(number=77, takes=True, record=b""), "bids_late"),
        (bus.Bid(number=1, takes=True, record=b"\xc1garbage"), "bids_malformed"),
    ],
)
async def test_bids_that_are_none(table: dict[str, Node], word: bus.Bid, counter: str) -> None:
    front = table["front"]
    table["b"].placement.called = lambda node, _: front.placement.bid(NodeId("b"), word)  # type: ignore[method-assign,assignment]
    assert await start(front) == "c"
    assert front.counters[counter] == 1


async def test_nobody_bids_for_another(table: dict[str, Node]) -> None:
    front = table["front"]
    theirs = msgspec.msgpack.encode(table["d"].describe())
    table["b"].placement.called = lambda node, call: front.placement.bid(  # type: ignore[method-assign,assignment]
        NodeId("b"), bus.Bid(number=call.number, takes=True, record=theirs)
    )
    assert await start(front) == "c"
    assert front.counters["bids_malformed"] == 1
    front.placement.bid(NodeId("b"), bus.Bid(number=1, takes=True, record=theirs))
    assert front.counters["bids_late"] == 1
