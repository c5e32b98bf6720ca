"""What a cluster costs, measured in one run: two nodes and a redis-server of its own, as processes on this machine.

    python -m benchmarks.cluster [--quick] [--json FILE]

* A copy to another node beside a copy to a subscriber: `benchmarks.crossing`. Two groups of equal rows differ by some
  5 % from run to run, so much is the budget above 1; the notes say by how much they differed in this run.
* The second hop: the same packets of the same seconds at subscribers of the publisher's node and of the other node,
  from the time written into the packet to the kernel's time of arrival. The p99 there less the p50 here: what a
  packet is late by on the publisher's node counts as added.
* A join at one node, seen at the other: from the answer to the newcomer to the update at a member there.
* The bus: rooms of five, three on one node and two on the other, one of the five speaking. CPU of both nodes' first
  threads (all of the bus is there, forwarding is not), less that of two nodes without a cluster with as many members,
  each room whole on one of them. What else first threads do for rooms on two nodes is in it: rather too much than too
  little.
  Redis' own CPU is told beside it.
* A node without `redis:` beside one alone with it, in the same seconds: what a cluster can do must cost nothing where
  there is none.

Exit status 1 when a budget is exceeded, 2 when it could not be measured. `--quick` is less than a minute of the same,
without the bus: filling a thousand places takes longer, and a few rooms say nothing about many.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from benchmarks import crossing, nodes, presence
from benchmarks.budget import Budget, Conditions, report
from benchmarks.load.client import Role
from benchmarks.load.fleet import RunError
from benchmarks.load.plan import PlanError, raise_file_limit
from benchmarks.load.scenarios import Window
from benchmarks.nodes import ACQUAINTED_S, Nodes, redis_server, sharing, used

ROOMS, MEMBERS, AT_HOME = 200, 5, 3
"""Of the five members, so many are at the speaker's node."""
NOISE = 1.05
BASELINE_NOISE = 1.1
OPUS = frozenset({"opus"})


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    turns: int
    delay_s: float
    watchers: int
    joins: int
    joins_per_second: float
    rooms: int
    """0: the bus is not measured."""
    rooms_s: float
    join_rate: float
    """Of each node."""
    listeners: int
    baseline_joins: int
    baseline_s: float


STANDARD = Extent(18, 10, 10, 300, 20, ROOMS, 10, 20, 40, 80, 5)
QUICK = Extent(6, 4, 10, 200, 40, 0, 0, 20, 30, 40, 3)

Found = tuple[list[Budget], list[str]]


def speaker(room: str, name: str = "speaker", *, hears: bool = False) -> Role:
    return Role(room, name, ("opus",), (), hears)


# ------------------------------------------------------------------------------------------------ media


def relayed_copy(extent: Extent) -> Found:
    copies = crossing.relayed_copy(extent.turns)
    note = (
        f"a copy to a subscriber takes {copies.subscriber_us:.2f} us of CPU with frames of 8 packets of 1100 B to "
        f"{crossing.NODES}; two equal groups of subscribers differed by {copies.equal - 1:+.0%}"
    )
    return [Budget("CPU of a copy to another node / of a copy to a subscriber", copies.link, NOISE)], [note]


async def second_hop(extent: Extent) -> Found:
    async with redis_server() as (port, _), nodes.nodes([sharing(port), sharing(port)], OPUS) as found:
        await asyncio.sleep(ACQUAINTED_S)
        await found.join([speaker("hop", f"speaker-{number}") for number in range(2)], [])
        watchers = [[Role("hop", f"watcher-{at}-{n}") for n in range(extent.watchers)] for at in range(2)]
        await found.join(*watchers)
        await asyncio.sleep(2)
        between = await found.during(asyncio.sleep(extent.delay_s))
    near, far = (one.histogram("delay_audio") for one in between.windows)
    if not near.count or not far.count:
        raise PlanError(f"no sound crossed: {near.count} and {far.count} packets carried their time")
    parts = [
        f"{name} {', '.join(f'p{p} {h.percentile_ns(p) / 1e6:.2f}' for p in (50, 90, 99))} ms of {h.count} packets"
        for name, h in (("publisher's node", near), ("other node", far))
    ]
    added = (far.percentile_ns(99) - near.percentile_ns(50)) / 1e6
    return [Budget("delay the second hop adds, p99", added, 2.0, "ms")], ["delay: " + "; ".join(parts)]


# ------------------------------------------------------------------------------------------------ rooms


async def join_seen(extent: Extent) -> Found:
    async with redis_server() as (port, _), nodes.nodes([sharing(port), sharing(port)]) as found:
        await asyncio.sleep(ACQUAINTED_S)
        here, there = found.targets
        times = await presence.joins_seen(here, there, 10, extent.joins, extent.joins_per_second)
    p50, p99 = (times.percentile_ns(percent) / 1e6 for percent in (50, 99))
    note = f"joins seen at the other node: {times.count}, p50 {p50:.2f} ms, longest {times.max_ns / 1e6:.2f} ms"
    return [Budget("a join seen at the other node, p99", p99, 50.0, "ms")], [note]


def meetings(rooms: int, at_home: int) -> tuple[list[Role], list[Role]]:
    """Members of each of two nodes, `at_home` of five at the speaker's; every second room speaks at the other node."""
    lists: tuple[list[Role], list[Role]] = ([], [])
    for number in range(rooms):
        room, home = f"meeting-{number}", number % 2
        lists[home].append(speaker(room, hears=True))
        for member in range(1, MEMBERS):
            lists[home if member < at_home else 1 - home].append(Role(room, f"member-{member}"))
    return lists


async def met(found: Nodes, extent: Extent, at_home: int) -> nodes.Between:
    await found.join(*meetings(extent.rooms, at_home))
    await asyncio.sleep(6)  # what happens for a while after a join is over
    between = await found.during(asyncio.sleep(extent.rooms_s))
    if reason := found.lost():
        raise PlanError(f"members were lost: {reason}")
    return between


async def bus_share(extent: Extent) -> Found:
    async with redis_server() as (port, pid):
        extras = [sharing(port), sharing(port)]
        async with nodes.nodes(extras, OPUS, extent.join_rate, redis_pid=pid) as found:
            await asyncio.sleep(ACQUAINTED_S)
            together = await met(found, extent, AT_HOME)
    async with nodes.nodes(["", ""], OPUS, extent.join_rate) as found:
        apart = await met(found, extent, MEMBERS)
    bus = (together.control_cores() - apart.control_cores()) * 100
    whole = [sum(used(one).exact_s / one.seconds for one in between.windows) for between in (together, apart)]
    note = (
        f"{extent.rooms} rooms of {MEMBERS}: first threads of both nodes {together.control_cores():.1%} of a core in a "
        f"cluster, {apart.control_cores():.1%} without; both processes {whole[0]:.1%} and {whole[1]:.1%}"
    )
    return [Budget(f"{extent.rooms} rooms of {MEMBERS} over two nodes: the bus at both, of a core", bus, 10.0, "%")], [
        note,
        f"redis-server for these rooms: {together.redis_cores:.1%} of a core",
    ]


# ------------------------------------------------------------------------------------------------ without a cluster


def per_packet_us(one: Window) -> float:
    return used(one).exact_s / one.counter("packets_in") * 1e6


def per_join_ms(joining: Window, quiet: tuple[Window, Window], joins: int) -> float:
    """CPU of one join, with what forwarding cost meanwhile taken off."""
    usual = sum(used(one).exact_s / one.seconds for one in quiet) / 2
    return (used(joining).exact_s - usual * joining.seconds) / joins * 1e3


async def baseline(extent: Extent) -> Found:
    async with redis_server() as (port, pid), nodes.nodes(["", sharing(port)], OPUS, 20, redis_pid=pid) as found:
        both = [speaker("alone", f"speaker-{number}") for number in range(4)]
        both += [Role("alone", f"listener-{number}") for number in range(extent.listeners)]
        await found.join(both, both)
        await asyncio.sleep(2)
        before = await found.during(asyncio.sleep(extent.baseline_s))
        newcomers = [Role("alone", f"newcomer-{number}", subscribe=True) for number in range(extent.baseline_joins)]
        joining = await found.during(found.join(newcomers, newcomers))
        after = await found.during(asyncio.sleep(extent.baseline_s))
    packets, joins = [], []
    for node in range(2):
        quiet = (before.windows[node], after.windows[node])
        packets.append(sum(per_packet_us(one) for one in quiet) / 2)
        joins.append(per_join_ms(joining.windows[node], quiet, extent.baseline_joins))
    note = (
        f"without redis: {packets[0]:.2f} us per packet and {joins[0]:.2f} ms per join; "
        f"alone with redis: {packets[1]:.2f} us and {joins[1]:.2f} ms"
    )
    return [
        Budget("CPU per packet, without redis: / alone with it", packets[0] / packets[1], BASELINE_NOISE),
        Budget("CPU per join, without redis: / alone with it", joins[0] / joins[1], BASELINE_NOISE),
    ], [note]


# ------------------------------------------------------------------------------------------------ all of it


async def measure(extent: Extent, say: Callable[[str], None]) -> Found:
    """What needs nodes, one after the other."""
    budgets: list[Budget] = []
    notes: list[str] = []

    def take(found: Found) -> None:
        budgets.extend(found[0])
        notes.extend(found[1])

    for text, part in (
        ("the second hop", second_hop),
        ("joins seen at the other node", join_seen),
        (f"{extent.rooms} rooms over two nodes, then without a cluster", bus_share),
        ("a node without redis: beside one with it", baseline),
    ):
        if part is not bus_share or extent.rooms:
            say(text)
            take(await part(extent))
    return budgets, notes


def everything(quick: bool, say: Callable[[str], None]) -> Found:
    """KeyboardInterrupt ends it, and everything that it started."""
    extent = QUICK if quick else STANDARD
    raise_file_limit()
    say("a copy to another node")
    budgets, notes = relayed_copy(extent)
    more, others = asyncio.run(measure(extent, say))
    return budgets + more, notes + others


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="less of everything and nothing of the bus, in a minute")
    options.add_argument("--json", default="", metavar="FILE", help="write the figures as well")
    chosen = options.parse_args()
    conditions, console = Conditions.now(), Console(stderr=True)

    def say(text: str) -> None:
        if console.is_terminal:
            console.print(f"[dim]{text}[/dim]")

    try:
        budgets, notes = everything(chosen.quick, say)
    except KeyboardInterrupt:
        return 130
    except (PlanError, RunError) as error:
        console.print(f"not measured: {error}", style="red", markup=False)
        return 2
    return report("Budgets of a cluster", budgets, conditions, chosen.json, notes)


if __name__ == "__main__":
    raise SystemExit(main())
