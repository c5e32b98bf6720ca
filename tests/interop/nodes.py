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

from tests.interop.live import KEY, SECRET, LiveServer, free_port
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

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: `make test` installs it"
        self._process = await asyncio.create_subprocess_exec(
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self._folder), *self._options, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await soon(self._answers)

    async def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def freeze(self, frozen: bool) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

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
