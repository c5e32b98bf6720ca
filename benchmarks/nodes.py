"""Several nodes, a redis-server of their own, and clients ready to join them: real processes that end with us."""

import asyncio
import contextlib
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import media
from benchmarks.load.client import Role
from benchmarks.load.fleet import Fleet
from benchmarks.load.measure import Mark, Usage, usage
from benchmarks.load.plan import Plan, PlanError, Target
from benchmarks.load.scenarios import Window
from benchmarks.load.server import OwnServer, die_with_parent, free_tcp_port, free_udp_ports, stop_process

START_S = 10.0
ACQUAINTED_S = 2.5
"""So long nodes take to hear of each other: they look every second."""


def redis_program() -> str | None:
    """Where redis-server is; None when it is not installed."""
    return shutil.which("redis-server")


@asynccontextmanager
async def redis_server() -> AsyncIterator[tuple[int, int]]:
    """Its port and process id; nothing is written to disk."""
    program = redis_program()
    if program is None:
        raise PlanError("nodes of a cluster share a Redis, and there is no redis-server on this machine")
    port = free_tcp_port()
    with tempfile.TemporaryDirectory(prefix="tertulia-redis-") as folder:
        process = await asyncio.create_subprocess_exec(
            program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_S):
                while not _answers(port):
                    if process.returncode is not None:
                        raise PlanError(f"redis-server ended at once with {process.returncode}")
                    await asyncio.sleep(0.02)
            yield port, process.pid
        finally:
            await stop_process(process)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sharing(redis_port: int) -> str:
    """The part of a node's configuration that makes it one of a cluster."""
    return (
        f"redis:\n  address: 127.0.0.1:{redis_port}\n"
        f"cluster:\n  relay_port: {free_udp_ports(1)}\n  relay_ip: 127.0.0.1\n"
    )


@dataclass
class Nodes:
    """What runs: the nodes' targets, a fleet of clients for each, and their Redis if they have one."""

    targets: list[Target]
    fleets: list[Fleet] = field(default_factory=list)
    redis_pid: int = 0

    async def join(self, *roles: list[Role]) -> None:
        """Roles of each node; PlanError when somebody did not get in."""
        await asyncio.gather(*(fleet.join(list(one)) for fleet, one in zip(self.fleets, roles, strict=True)))
        for fleet in self.fleets:
            if fleet.failures:
                raise PlanError(f"not everybody could join: {fleet.failures.most_common(1)[0][0]}")

    async def during(self, work: Awaitable[None]) -> "Between":
        """The same time on all of them: as long as this takes."""
        before = await asyncio.gather(*(fleet.mark() for fleet in self.fleets))
        redis_before, begun = self._redis(), time.monotonic()
        await work
        redis_s, seconds = self._redis() - redis_before, time.monotonic() - begun
        after = await asyncio.gather(*(fleet.mark() for fleet in self.fleets))
        return Between([window(one, other) for one, other in zip(before, after, strict=True)], redis_s / seconds)

    def _redis(self) -> float:
        used = usage(self.redis_pid) if self.redis_pid else None
        return used.exact_s if used is not None else 0.0

    def lost(self) -> str:
        """What went wrong with members, if something did."""
        reasons = [reason for fleet in self.fleets for reason in fleet.lost]
        return reasons[0] if reasons else ""


@dataclass(frozen=True, slots=True)
class Between:
    """The same seconds, seen at each node."""

    windows: list[Window]
    redis_cores: float

    def control_cores(self) -> float:
        """CPU of the nodes' first threads: signalling, rooms, the bus; forwarding is in the others."""
        return sum(used(one).control_s / one.seconds for one in self.windows)


def used(one: Window) -> Usage:
    if one.used is None:
        raise PlanError("a node is gone")
    return one.used


def window(before: tuple[Mark, Usage | None], after: tuple[Mark, Usage | None]) -> Window:
    """From one mark of a fleet to another."""
    if before[1] is None or after[1] is None:
        raise PlanError("a node is gone")
    seconds = (after[0].time_ns - before[0].time_ns) / 1e9
    return Window(before[0], after[0], after[1].since(before[1]), seconds)


@asynccontextmanager
async def nodes(
    extras: Sequence[str], codecs: frozenset[str] = frozenset(), join_rate: float = 20, redis_pid: int = 0
) -> AsyncIterator[Nodes]:
    """A node for each extra configuration. With `codecs` each has clients that may publish these."""
    secret = secrets.token_urlsafe(32)
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tertulia-bench-"))
        servers = [OwnServer(name=f"node {number}", extra=extra, secret=secret) for number, extra in enumerate(extras)]
        for server in servers:
            stack.push_async_callback(server.stop)
        found = Nodes(list(await asyncio.gather(*(server.start() for server in servers))), redis_pid=redis_pid)
        if codecs:
            clips = Path(folder) / "clips"
            clips.write_bytes(media.encode(set(codecs), set()))
            for target in found.targets:
                fleet = Fleet(target, Plan("audio", (1,), join_rate=join_rate))
                stack.push_async_callback(fleet.stop)
                await fleet.start(clips)
                found.fleets.append(fleet)
        yield found
