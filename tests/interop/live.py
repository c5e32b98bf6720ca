"""A real Tertulia server in a process of its own, on free ports, for tests with real clients."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from livekit import api

KEY, SECRET = "testkey", "a-secret-of-tests-that-is-long-enough"
ROOT = Path(__file__).parents[2]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def token(room: str, identity: str, **grants: Any) -> str:
    """An access token made by the official SDK; `grants` are VideoGrants fields."""
    video = api.VideoGrants(room_join=True, room=room, **grants)
    return api.AccessToken(KEY, SECRET).with_identity(identity).with_name(identity.title()).with_grants(video).to_jwt()


class LiveServer:
    """`tertulia serve` with a configuration of our own."""

    def __init__(
        self,
        extra: str = "",
        environment: dict[str, str] | None = None,
        host: str = "127.0.0.1",
        interface: str = "lo",
        inside: tuple[str, ...] = (),
    ) -> None:
        """`inside`: a command before ours that puts it somewhere, as `ip netns exec there`."""
        self.host = host
        self._inside = inside
        self.port = free_port()
        self.udp_port = free_port(socket.SOCK_DGRAM)
        self.tcp_port = free_port()
        self.config = (
            f"port: {self.port}\nbind_addresses: ['{host}']\nkeys:\n  {KEY}: {SECRET}\n"
            f"rtc:\n  udp_port: {self.udp_port}\n  tcp_port: {self.tcp_port}\n  enable_loopback_candidate: true\n"
            f"  interfaces:\n    includes: ['{interface}']\n" + extra
        )
        self._environment = {**os.environ, **(environment or {})}
        self.process: asyncio.subprocess.Process | None = None
        self.log_path = Path(tempfile.mkstemp(prefix="tertulia-", suffix=".log")[1])

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    @property
    def http(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    async def start(self) -> "LiveServer":
        with self.log_path.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._inside, sys.executable, "-m", "tertulia", "serve", "--config-body", self.config,
                cwd=ROOT, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(self._answers):
                if self.process.returncode is not None:
                    raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log()}")
                await asyncio.sleep(0.05)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(self.http + "/healthz", timeout=1).status == 200
        return False

    async def get(self, path: str) -> str:
        def fetch() -> str:
            try:
                return urllib.request.urlopen(self.http + path, timeout=5).read().decode()
            except urllib.error.HTTPError as error:
                return error.read().decode()

        return await asyncio.to_thread(fetch)

    async def metrics(self) -> dict[str, float]:
        """/metrics as {name{labels}: value}."""
        found = {}
        for line in (await self.get("/metrics")).splitlines():
            if match := re.fullmatch(r"([a-zA-Z_:][^ ]*(?:\{.*\})?) ([-+0-9.eEinfNa]+)", line):
                found[match[1]] = float(match[2])
        return found

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None or self.process.returncode is not None:
            return self.process.returncode if self.process and self.process.returncode is not None else 0
        self.process.send_signal(how)
        try:
            async with asyncio.timeout(15):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()
