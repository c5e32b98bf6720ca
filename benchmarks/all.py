"""Every budget of the design, measured in one run: the ratio, the budget, and whether it holds.

    python -m benchmarks.all [--seconds 1.5] [--json FILE]

The plane's budgets are measured on the plane alone (`benchmarks.plane`), the others on a server of our own under the
load of real clients. Exit status 1 when a budget is exceeded. A machine that is busy with other work shows in the
ratios less than in microseconds, but it shows: the report names the load.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from benchmarks import joins, plane
from benchmarks.budget import Budget, Conditions, report
from benchmarks.load.client import Role
from benchmarks.load.fleet import Fleet
from benchmarks.load.plan import Plan, raise_file_limit
from benchmarks.load.scenarios import Window
from benchmarks.load.server import served

IDLE = 200
ROOM_MEMBERS = 10
WATCHERS = 10
FAN_OUT = 100


@asynccontextmanager
async def loaded(module: str, codecs: set[str], rids: set[str]) -> AsyncIterator[Fleet]:
    """A server of our own and a worker that is ready to join it."""
    async with served(codecs, rids, module) as (target, clips):
        fleet = Fleet(target, Plan("audio", (1,), join_rate=20), 1)
        try:
            await fleet.start(clips)
            yield fleet
        finally:
            await fleet.stop()


async def _between(fleet: Fleet, seconds: float) -> Window:
    before, used_before = await fleet.mark()
    await asyncio.sleep(seconds)
    after, used_after = await fleet.mark()
    if used_before is None or used_after is None:
        raise RuntimeError("the server is gone")
    seconds = (after.time_ns - before.time_ns) / 1e9
    return Window(before, after, used_after.since(used_before), seconds)


async def busy_delay_ms(seconds: float) -> tuple[float, float]:
    """p90 and p99 of an Opus packet from sender to receiver through a server whose interpreter is half busy."""
    async with loaded("benchmarks.load.busy", {"opus"}, set()) as fleet:
        await fleet.join([Role("bench", "publisher", ("opus",), (), False)])
        await fleet.join([Role("bench", f"subscriber-{number}") for number in range(WATCHERS)])
        await asyncio.sleep(2)
        window = await _between(fleet, max(5.0, seconds))
        delays = window.histogram("delay_audio")
        return delays.percentile_ns(90) / 1e6, delays.percentile_ns(99) / 1e6


async def idle_kib() -> float:
    """Server memory of one more participant who is connected and does nothing."""
    async with loaded("tertulia", {"opus"}, set()) as fleet:
        await fleet.join([Role(f"warm-{number // 5}", f"member-{number}") for number in range(2 * ROOM_MEMBERS)])
        await asyncio.sleep(1)
        _, before = await fleet.mark()
        await fleet.join([Role(f"idle-{number // ROOM_MEMBERS}", f"member-{number}") for number in range(IDLE)])
        await asyncio.sleep(2)
        _, after = await fleet.mark()
        if before is None or after is None:
            raise RuntimeError("the server is gone")
        return (after.resident_bytes - before.resident_bytes) / IDLE / 1024


def measure(seconds: float, console: Console) -> list[Budget]:
    """Everything, one after the other."""

    def say(text: str) -> None:
        if console.is_terminal:
            console.print(f"[dim]{text}[/dim]")

    say("the data plane alone")
    found = plane.budgets(plane.costs(FAN_OUT, seconds), FAN_OUT)
    say("delay through a server whose interpreter is half busy")
    found += plane.delay_budgets("server", *asyncio.run(busy_delay_ms(seconds)))
    say("joins")
    join = asyncio.run(joins.measure())
    found += [
        Budget("a join (v1), server CPU until media flows", join.join_ms, 4.0, "ms"),
        Budget("that over a bare DTLS handshake (ADR 23)", join.handshakes, 13.8),
    ]
    say("idle participants")
    found.append(Budget("memory per idle participant", asyncio.run(idle_kib()), 300.0, "KiB"))
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1.5, help="per measurement")
    options.add_argument("--json", default="", metavar="FILE", help="write the figures as well")
    chosen = options.parse_args()
    raise_file_limit()
    conditions = Conditions.now()
    try:
        budgets = measure(chosen.seconds, Console(stderr=True))
    except KeyboardInterrupt:
        return 130
    return report("Budgets of the data plane and the server", budgets, conditions, chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
