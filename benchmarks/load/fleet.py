"""The coordinator's side of the workers: processes that are asked, waited for with a deadline, and always ended."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load.client import Role
from benchmarks.load.measure import Mark, Usage, machine_busy_s, usage
from benchmarks.load.plan import Plan, Target
from benchmarks.load.server import die_with_parent

ANSWER_S = 30.0
LINE_BYTES = 64 << 20


class RunError(Exception):
    """The run cannot go on; the text says what happened."""


class Overwhelmed(RunError):
    """A worker has more to do than it can: what it was asked for never ends."""


class WorkerProcess:
    """One child; every order gets one answer."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH", "")])])
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.load.worker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES, start_new_session=True, preexec_fn=die_with_parent,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            future = self._waiting.pop(message.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(message)
            elif "event" in message:
                self._on_event(message)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RunError("a worker process of the bench ended unexpectedly"))

    async def ask(self, order: dict[str, Any], wait_s: float = ANSWER_S) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        try:
            self._process.stdin.write(json.dumps({**order, "id": self._number}).encode() + b"\n")
            await self._process.stdin.drain()
            return await asyncio.wait_for(future, wait_s)
        except TimeoutError:
            raise Overwhelmed(f"a worker did not finish `{order['do']}` within {wait_s:.0f} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise RunError("a worker process of the bench ended unexpectedly") from None

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(b'{"do": "stop"}\n')
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, RunError):
                await self._reader


class Fleet:
    """All workers that load one server."""

    def __init__(self, target: Target, plan: Plan, workers: int = 1) -> None:
        self.target = target
        self.plan = plan
        self.failures: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.everyone_lost = False
        self.joined = 0
        self.on_progress: Callable[[int], None] = lambda done: None
        self._workers = [WorkerProcess(self._event) for _ in range(workers)]
        self._next = 0

    def _event(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            self.on_progress(1)
        elif event["event"] == "broken":
            self.lost[event["reason"]] += 1
            self.everyone_lost = True
        elif event["event"] == "lost":
            self.lost[event["reason"]] += 1
            self.everyone_lost |= event["left"] == 0

    async def start(self, clips: Path) -> None:
        target = {"url": self.target.url, "api_key": self.target.api_key, "api_secret": self.target.api_secret}
        order = {"do": "start", "target": target, "clips": str(clips), "allow_remote": self.plan.allow_remote}
        await asyncio.gather(*(worker.start() for worker in self._workers))
        await self._all(order)

    async def _all(self, order: dict[str, Any], wait_s: float = ANSWER_S) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(worker.ask(order, wait_s) for worker in self._workers)))

    async def join(self, roles: list[Role]) -> None:
        """Everybody in, or RunError when nobody is."""
        if not roles:
            return
        shares: list[list[Role]] = [[] for _ in self._workers]
        for role in roles:
            shares[self._next % len(shares)].append(role)
            self._next += 1
        rate = self.plan.join_rate / len(shares)
        wait_s = len(roles) / self.plan.join_rate + 60
        orders = [
            worker.ask({"do": "join", "roles": [asdict(role) for role in share], "rate": rate}, wait_s)
            for worker, share in zip(self._workers, shares, strict=True)
            if share
        ]
        for answer in await asyncio.gather(*orders):
            self.joined += answer["joined"]
            self.failures.update(answer["failures"])
        if not self.joined:
            reasons = "; ".join(f"{reason} ({count} x)" for reason, count in self.failures.most_common(3))
            raise RunError(f"nobody could join {self.target.url}: {reasons}")

    async def churn(self, on: bool, role: Role, rate: float, stay_s: float) -> None:
        count = len(self._workers)
        await self._all({"do": "churn", "on": on, "role": asdict(role), "rate": rate / count, "stay_s": stay_s})

    async def data(self, on: bool, receivers: int) -> None:
        plan = self.plan
        order = {"do": "data", "on": on, "publishers": plan.publishers, "rate": plan.messages_per_s,
                 "bytes": plan.message_bytes, "reliable": plan.reliable, "receivers": receivers}  # fmt: skip
        await self._workers[0].ask(order)

    async def mark(self) -> tuple[Mark, Usage | None]:
        """Everything counted so far, and what the server has used at this moment."""
        used = usage(self.target.pid) if self.target.pid else None
        merged = Mark()
        for answer in await self._all({"do": "mark"}):
            merged.add(Mark.unpacked(answer["mark"]))
        merged.counters["machine_busy_ns"] = int(machine_busy_s() * 1e9)
        return merged, used

    async def stop(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers), return_exceptions=True)
