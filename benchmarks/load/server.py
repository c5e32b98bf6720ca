"""A Tertulia of the bench's own: on free loopback ports, with keys nobody else knows, ended with us."""

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.load import media
from benchmarks.load.plan import PlanError, Target

START_S = 30.0
STOP_S = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def free_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_udp_ports(count: int) -> int:
    """The first of `count` consecutive free UDP ports."""
    for _ in range(200):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind(("127.0.0.1", 0))
            begin = int(first.getsockname()[1])
            try:
                for port in range(begin + 1, begin + count):
                    probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return begin
    raise PlanError(f"there are no {count} free UDP ports in a row")


def die_with_parent() -> None:
    """Runs in the child: should the bench be killed, its children are ended too."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class OwnServer:
    """`tertulia serve` as a child. `module` may be another entry with the same arguments."""

    def __init__(
        self, *, name: str = "tertulia", media_ports: int = 1, extra: str = "", module: str = "tertulia",
        arguments: tuple[str, ...] = (), environment: dict[str, str] | None = None, secret: str = "",
    ) -> None:  # fmt: skip
        """`secret`: of the key, where several servers share it; else one of its own."""
        self.name = name
        self._module, self._arguments = module, arguments
        self._environment = environment or {}
        self._key, self._secret = "bench", secret or secrets.token_urlsafe(32)
        self._port = free_tcp_port()
        first = free_udp_ports(media_ports)
        ports = str(first) if media_ports == 1 else f"{first}-{first + media_ports - 1}"
        self._config = (
            f"port: {self._port}\nbind_addresses: ['127.0.0.1']\nkeys:\n  {self._key}: {self._secret}\n"
            f"rtc:\n  udp_port: {ports}\n  tcp_port: {free_tcp_port()}\n  enable_loopback_candidate: true\n"
            f"  interfaces:\n    includes: ['lo']\nlogging:\n  level: warn\n{extra}"
        )
        self._process: asyncio.subprocess.Process | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the server

    @property
    def target(self) -> Target:
        assert self._process is not None
        return Target(f"ws://127.0.0.1:{self._port}", self._key, self._secret, self._process.pid, self.name)

    async def start(self) -> Target:
        """Until it answers; PlanError with its last words when it does not."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, "serve", *self._arguments, stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log, stderr=self._log, start_new_session=True, preexec_fn=die_with_parent,
            env={**os.environ, **self._environment, "LIVEKIT_CONFIG": self._config, "PYTHONPATH": _python_path()},
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_S):
                while not await asyncio.to_thread(self._answers):
                    if self._process.returncode is not None:
                        raise PlanError(f"the server ended at once:\n{self.last_words()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise PlanError(f"the server did not answer within {START_S:.0f} s:\n{self.last_words()}") from None
        return self.target

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/healthz", timeout=1) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    def last_words(self, lines: int = 12) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").replace(self._secret, "(secret)")
        return "\n".join(line[:400] for line in text.splitlines()[-lines:])

    async def stop(self) -> None:
        if self._process is not None:
            await stop_process(self._process)
        self._log.close()


async def stop_process(process: asyncio.subprocess.Process) -> None:
    """Asked to end, and ended when it does not within STOP_S."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _python_path() -> str:
    """So that the child finds the same packages, wherever the bench was started."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH", "")])])


@contextlib.asynccontextmanager
async def served(codecs: set[str], rids: set[str], module: str = "tertulia") -> AsyncIterator[tuple[Target, Path]]:
    """A server of our own that answers, and the media that workers send it."""
    server = OwnServer(module=module)
    with tempfile.TemporaryDirectory(prefix="tertulia-bench-") as folder:
        clips = Path(folder) / "clips"
        clips.write_bytes(media.encode(codecs, rids))
        try:
            yield await server.start(), clips
        finally:
            await server.stop()
