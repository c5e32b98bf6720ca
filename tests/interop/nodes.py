"""Several nodes and a redis-server of their own, as real processes: what the tests of a cluster share."""

import asyncio
import contextlib
import shutil
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from livekit import api

from tests.interop.live import KEY, SECRET, LiveServer, free_port, token
from tests.interop.sdk import SdkClient

MakeSdk = Callable[[], Coroutine[Any, Any, SdkClient]]
MakeNode = Callable[..., Coroutine[Any, Any, LiveServer]]


async def soon(what: Callable[[], Coroutine[Any, Any, bool]], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while True:
            if await what():
                return
            await asyncio.sleep(0.05)


async def readyz(text: str, *nodes: LiveServer) -> bool:
    return all([text in await node.get("/readyz") for node in nodes])


class LiveRedis:
    """A redis-server of our own that can be stopped and started again on its port."""

    def __init__(
        self, folder: Path, *options: str, config: Path | None = None, host: str = "127.0.0.1",
        inside: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """With a configuration file of its own it is a Sentinel; `inside` as with `LiveServer`."""
        self.port = free_port()
        self._host = host
        self._inside = inside
        self._folder = folder
        self._head = () if config is None else (str(config),)
        self._options = ("--save", "", "--appendonly", "no", *options) if config is None else ("--sentinel",)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: `make test` installs it"
        self._process = await asyncio.create_subprocess_exec(
            *self._inside, program, *self._head, "--port", str(self.port), "--bind", self._host,
            "--dir", str(self._folder), *self._options, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await soon(self._answers)

    async def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self._host, self.port)) == 0

    def send(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def freeze(self, frozen: bool) -> None:
        self.send(signal.SIGSTOP if frozen else signal.SIGCONT)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()


def room_api(server: LiveServer) -> api.LiveKitAPI:
    return api.LiveKitAPI(server.http, KEY, SECRET)


def gets(name: str, kind: str = "video", more_than: int = 10) -> Callable[[dict[str, Any]], bool]:
    return lambda s: s["media"].get(f"{name}/{kind}", {}).get("frames", 0) > more_than


async def roster(server: LiveServer) -> dict[str, str]:
    async with room_api(server) as lk:
        listed = await lk.room.list_participants(api.ListParticipantsRequest(room="demo"))
        return {participant.identity: participant.sid for participant in listed.participants}


async def a_call(make_sdk: MakeSdk, **where: LiveServer) -> list[SdkClient]:
    """One publishing client for each name, on its node; all see all, counters begin anew."""
    clients = [await make_sdk() for _ in where]
    for client, (name, node) in zip(clients, where.items(), strict=True):
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    for client, me in zip(clients, where, strict=True):
        others = [name for name in where if name != me]
        await client.until(lambda s, others=others: all(gets(name)(s) for name in others), 20)
        await client.do("reset")
    return clients


async def undisturbed(clients: list[SdkClient], gap_s: float = 1.0) -> None:
    """Everybody's pictures came all the time, and nobody was seen leaving."""
    for client in clients:
        state = await client.do("state")
        assert not any(event[0] in ("participant_disconnected", "reconnecting") for event in state["events"]), state
        for name, media in state["media"].items():
            assert media["frames"] > 0, (name, media)
            assert media["max_gap_s"] < gap_s, (name, media)


async def data_crosses(sender: SdkClient, hearer: SdkClient, size: int) -> None:
    await sender.do("send", size=size, reliable=True, topic="t")
    await hearer.until(lambda s: size in [d["size"] for d in s["data"]], 10)


async def rosters_agree(*nodes: LiveServer, names: str) -> bool:
    """Every node lists exactly these people, each with the same sid."""
    lists = [await roster(node) for node in nodes]
    return sorted(lists[0]) == names.split() and all(one == lists[0] for one in lists)


async def outcome(call: Any, within_s: float) -> str:
    """`ok` or the error's code; TimeoutError if there is no answer."""
    async with asyncio.timeout(within_s):
        try:
            await call
        except api.TwirpError as error:
            return error.code
        return "ok"


class Balancer:
    """One address before several nodes: every connection goes to the first that answers."""

    def __init__(self, *ports: int) -> None:
        self._ports = ports
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._end_connections()

    def _end_connections(self) -> None:
        for task in self._tasks:
            task.cancel()

    def cut(self, ports: tuple[int, ...] = ()) -> None:
        """Nothing gets through any more; with ports: to these from now on."""
        self._ports = ports
        self._end_connections()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in self._ports:
            try:
                inward, outward = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            for source, sink in ((reader, outward), (inward, writer)):
                task = asyncio.create_task(self._pump(source, sink))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            return
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()
