"""A whole bench run: servers, scenarios one after the other, progress, and an end that leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from benchmarks.load.measure import pid_of_listener
from benchmarks.load.plan import Plan, PlanError, Target, check, is_own, raise_file_limit
from benchmarks.load.scenarios import Result, Runner, encode_clips
from benchmarks.load.server import OwnServer


@dataclass(frozen=True, slots=True)
class Servers:
    """Which servers to load. Without a `url` one of our own is started."""

    url: str = ""
    api_key: str = ""
    api_secret: str = ""
    pid: int = 0
    versus_url: str = ""
    """`own` starts a second one of our own."""
    versus_key: str = ""
    versus_secret: str = ""
    versus_pid: int = 0
    media_ports: int = 1


class ShownProgress:
    """The scenarios' `Watcher` on a terminal; silent elsewhere."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console,
            transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self.prefix = ""

    def __enter__(self) -> "ShownProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, text: str, total: float) -> None:
        self._progress.reset(self._task, description=f"{self.prefix}{text}", total=total)

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)


def external(url: str, key: str, secret: str, pid: int, name: str) -> Target:
    """A server that runs already; its process is looked up when it is on this machine."""
    if not key or not secret:
        raise PlanError(f"{url} needs an API key and its secret (--api-key, --api-secret)")
    parts = urlsplit(url)
    if parts.hostname and not pid and is_own(parts.hostname):
        pid = pid_of_listener(parts.port or (443 if parts.scheme in ("wss", "https") else 80))
    return Target(url, key, secret, pid, name)


@asynccontextmanager
async def running(servers: Servers) -> AsyncIterator[list[Target]]:
    """The targets, with those of our own started and stopped."""
    own: list[OwnServer] = []

    async def target(url: str, key: str, secret: str, pid: int, name: str) -> Target:
        if url and url != "own":
            return external(url, key, secret, pid, name)
        server = OwnServer(name=name, media_ports=servers.media_ports)
        own.append(server)
        return await server.start()

    try:
        found = [await target(servers.url, servers.api_key, servers.api_secret, servers.pid, "first")]
        if servers.versus_url:
            key, secret = servers.versus_key or servers.api_key, servers.versus_secret or servers.api_secret
            found.append(await target(servers.versus_url, key, secret, servers.versus_pid, "second"))
        yield [replace(found[0], name="server")] if len(found) == 1 else found
    finally:
        for server in own:
            await server.stop()


async def run(servers: Servers, plans: Sequence[Plan], workers: int, console: Console) -> list[Result]:
    """One result per plan, those of an interrupted run included. PlanError before anything is loaded."""
    raise_file_limit()
    results: list[Result] = []
    stopped = asyncio.Event()
    current: list[Runner] = []

    def interrupt() -> None:
        stopped.set()
        for runner in current:
            runner.stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, interrupt)
    try:
        with ShownProgress(console) as watcher, tempfile.TemporaryDirectory(prefix="tertulia-bench-") as folder:
            for plan in plans:
                if stopped.is_set():
                    break
                watcher.prefix = f"{plan.scenario}: "
                watcher.stage("encoding media, starting servers", 1)
                if servers.url:
                    check(plan, external(servers.url, servers.api_key, servers.api_secret, servers.pid, "server"))
                else:
                    check(plan, Target("ws://127.0.0.1:1", "", ""))
                clips = await asyncio.to_thread(encode_clips, plan, Path(folder))
                async with running(servers) as targets:
                    for target in targets:
                        check(plan, target)
                    runner = Runner(plan, targets, workers, watcher)
                    current[:] = [runner]
                    if stopped.is_set():
                        break
                    results.append(await runner.run(clips))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)
    return results


def default_workers() -> int:
    """A core for the server, the rest for us, within reason."""
    return max(1, min(8, (os.cpu_count() or 2) - 1))
