"""A process full of clients: takes orders as lines of JSON on stdin, answers on stdout, ends when stdin does.

Orders: start, join, leave, churn, data, mark, stop. Every order with an `id` is answered once. What goes wrong
is told as an event with a sentence; nothing is raised to the outside.
"""

import asyncio
import contextlib
import gc
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from benchmarks.load import media
from benchmarks.load.client import Client, Refused, Role
from benchmarks.load.engine import Engine
from benchmarks.load.measure import Histogram
from benchmarks.load.plan import raise_file_limit

MAX_JOINING = 32
"""Joins under way at a time."""
LINE_BYTES = 64 << 20


class Worker:
    """The state behind the orders."""

    def __init__(self) -> None:
        self.engine = Engine(False)
        self.clients: list[Client] = []
        self._target: dict[str, str] = {}
        self._clips: dict[tuple[str, str], media.Clip] = {}
        self._unframed: list[Client] = []
        """Whose first frame is not recorded yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._lost: Counter[str] = Counter()
        self._counts: dict[int, int] = {}
        self._stopping = False
        self.engine.on_broken = lambda text: self.tell(event="broken", reason=text)

    def tell(self, **event: Any) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    # orders -------------------------------------------------------------------------------------

    async def obey(self, order: dict[str, Any]) -> None:
        number = order.get("id", 0)
        match order["do"]:
            case "start":
                self._target = order["target"]
                self.engine.allow_remote = order["allow_remote"]
                self.engine.histograms = {
                    name: Histogram() for name in ("join_signal", "join_media", "first_frame", "first_packet")
                }
                with open(order["clips"], "rb") as file:  # noqa: ASYNC230  # before anything runs
                    self._clips = media.load(file.read())
                self.engine.start()
                self.tell(id=number)
            case "join":
                self._spawn(self._join(number, [_role(role) for role in order["roles"]], order["rate"]))
            case "leave":
                self._spawn(self._leave(number, order["count"]))
            case "churn":
                await self._job("churn", self._churn(_role(order["role"]), order["rate"], order["stay_s"]), order["on"])
                self.tell(id=number)
            case "data":
                await self._job("data", self._data(order), order["on"])
                self.tell(id=number)
            case "mark":
                self.tell(id=number, mark=self._mark())
            case "stop":
                self._stopping = True

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _job(self, name: str, work: Any, on: bool) -> None:
        """Start or end one of the jobs that run until told otherwise."""
        running = self._jobs.pop(name, None)
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        if on:
            self._jobs[name] = asyncio.create_task(work)
        else:
            work.close()

    # joining ------------------------------------------------------------------------------------

    async def _enter(self, role: Role) -> Client:
        target = self._target
        client = Client(
            self.engine, target["url"], target["api_key"], target["api_secret"], role, self._clips, self._on_lost
        )
        await client.join()
        self.clients.append(client)
        self._unframed.append(client)
        times = client.times
        self.engine.histograms["join_signal"].add([times.joined - times.started])
        self.engine.histograms["join_media"].add([times.connected - times.started])
        self.engine.count("joins")
        return client

    async def _join(self, number: int, roles: list[Role], rate: float) -> None:
        """All of them, at this rate, a bounded number at a time; the answer says how it went."""
        failures: Counter[str] = Counter()
        gate = asyncio.Semaphore(MAX_JOINING)
        done = 0

        async def one(role: Role) -> None:
            nonlocal done
            try:
                await self._enter(role)
            except Refused as refused:
                failures[str(refused)] += 1
            except Exception as error:  # a mistake of the bench itself: say so and go on
                failures[f"{type(error).__name__}: {error}"] += 1
            finally:
                gate.release()
                done += 1
                self.tell(event="progress", done=done)

        tasks = []
        begun = time.monotonic()
        for index, role in enumerate(roles):
            await asyncio.sleep(max(0.0, begun + index / rate - time.monotonic()))
            await gate.acquire()
            if len(failures) and sum(failures.values()) >= 20 and not self.clients:
                gate.release()
                break  # nobody gets in: enough is known
            tasks.append(asyncio.create_task(one(role)))
        await asyncio.gather(*tasks)
        self._freeze()
        self.tell(id=number, joined=len(tasks) - sum(failures.values()), failures=dict(failures))

    def _freeze(self) -> None:
        """Long-lived objects are of no interest to the collector, which would stop everything to look at them."""
        gc.collect()
        gc.freeze()

    async def _leave(self, number: int, count: int) -> None:
        """The newest first."""
        going = [self.clients.pop() for _ in range(min(count, len(self.clients)))]
        await asyncio.gather(*(client.leave() for client in going))
        self.tell(id=number)

    def _on_lost(self, client: Client, reason: str) -> None:
        if client in self.clients:
            self.clients.remove(client)
            self._lost[reason] += 1
            self.engine.count("participants_lost")
            if self._lost[reason] == 1 or not self.clients:
                self.tell(event="lost", reason=reason, left=len(self.clients))

    # jobs ---------------------------------------------------------------------------------------

    async def _churn(self, role: Role, rate: float, stay_s: float) -> None:
        """Joins at a rate; each member stays a while and leaves."""
        number = random.getrandbits(30)

        async def visit(index: int) -> None:
            one = Role(role.room, f"{role.identity}-{number}-{index}", role.publish, role.rids, role.subscribe,
                       role.quality, role.topology)  # fmt: skip
            try:
                client = await self._enter(one)
            except Refused as refused:
                self.engine.count("joins_refused")
                if self._lost[str(refused)] == 0:
                    self.tell(event="lost", reason=str(refused), left=len(self.clients))
                self._lost[str(refused)] += 1
                return
            await asyncio.sleep(stay_s)
            if client in self.clients:
                self.clients.remove(client)
                self._first_frame(client)
                await client.leave()
                self.engine.count("leaves")

        visits: set[asyncio.Task[None]] = set()
        begun, index = time.monotonic(), 0
        try:
            while True:
                await asyncio.sleep(max(0.0, begun + index / rate - time.monotonic()))
                if len(visits) < rate * stay_s + 4 * MAX_JOINING:
                    task = asyncio.create_task(visit(index))
                    visits.add(task)
                    task.add_done_callback(visits.discard)
                else:
                    self.engine.count("joins_postponed")
                index += 1
        finally:
            for task in visits:
                task.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    async def _data(self, order: dict[str, Any]) -> None:
        """The first clients send messages at a rate."""
        senders = self.clients[: order["publishers"]]
        for client in senders:
            await client.ready_for_data()
        period = 1 / order["rate"]
        begun, number = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, begun + number * period - time.monotonic()))
            for client in senders:
                if client.send_data(number, order["bytes"], order["reliable"]):
                    self.engine.data_sent += 1
                    self.engine.data_expected += order["receivers"]
                else:
                    self.engine.count("data_refused")
            number += 1

    # figures ------------------------------------------------------------------------------------

    def _first_frame(self, client: Client) -> bool:
        """Record a client's first frame once; only of those who had something to see when they came."""
        if not client.times.published_before or client.ended:
            return True
        frames = client.first_frames()
        if not frames:
            return False
        self.engine.histograms["first_frame"].add([max(frames) - client.times.started])
        return True

    def _mark(self) -> dict[str, Any]:
        self._unframed = [client for client in self._unframed if not self._first_frame(client)]
        mark = self.engine.mark()
        silent, counts = 0, {}
        for stream in self.engine.tables.streams:
            if stream is not None:
                counts[id(stream)] = received = int(self.engine.tables.count[stream.row])
                silent += self._counts.get(id(stream)) == received
        self._counts = counts
        mark.counters["silent"] = silent
        mark.counters["clients"] = len(self.clients)
        mark.counters["lag_ns"] = self.engine.lag_ns
        self.engine.lag_ns = 0
        return mark.packed()

    async def close(self) -> None:
        for job in list(self._jobs):
            await self._job(job, asyncio.sleep(0), False)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        clients, self.clients = self.clients, []
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(client.leave() for client in clients)), 5)
        self.engine.stop()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            while not self._stopping:
                line = await reader.readline()
                if not line:
                    break
                await self.obey(json.loads(line))
        finally:
            await self.close()


def _role(value: dict[str, Any]) -> Role:
    return Role(**{**value, "publish": tuple(value["publish"]), "rids": tuple(value["rids"])})


async def _main() -> None:
    raise_file_limit()
    await Worker().run()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(_main())
