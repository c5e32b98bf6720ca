"""Fixtures of the interop tests: live servers, SDK processes, Chromium pages. All are stopped by process id."""

import asyncio
import contextlib
import functools
import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.interop.live import ROOT, LiveServer, free_port
from tests.interop.nodes import LiveRedis, MakeNode
from tests.interop.sdk import SdkClient
from tests.interop.studio import Studio, egress_config

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
]


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    live = await LiveServer().start()
    yield live
    await live.stop()
    assert "Traceback" not in live.log(), live.log()[-6000:]


@pytest.fixture
async def make_server() -> AsyncIterator[Callable[..., Coroutine[Any, Any, LiveServer]]]:
    started: list[LiveServer] = []

    async def make(extra: str = "", environment: dict[str, str] | None = None) -> LiveServer:
        live = LiveServer(extra, environment)
        started.append(live)
        return await live.start()

    yield make
    for live in started:
        await live.stop()


@pytest.fixture
async def make_sdk() -> AsyncIterator[Callable[[], Coroutine[Any, Any, SdkClient]]]:
    clients: list[SdkClient] = []

    async def make() -> SdkClient:
        client = SdkClient()
        clients.append(client)
        return await client.start()

    yield make
    for client in clients:
        await client.stop()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[LiveRedis]:
    live = LiveRedis(tmp_path)
    await live.start()
    yield live
    await live.stop()


@pytest.fixture
async def make_node(redis: LiveRedis) -> AsyncIterator[MakeNode]:
    """Nodes of one cluster; those still alive at the end must have no traceback in their logs."""
    started: list[LiveServer] = []

    async def make(
        extra: str = "", redis_port: int = 0, redis_keys: str = "", environment: dict[str, str] | None = None,
        **cluster: Any,
    ) -> LiveServer:  # fmt: skip
        cluster.setdefault("relay_port", free_port(socket.SOCK_DGRAM))
        lines = "".join(f"  {key}: {value}\n" for key, value in cluster.items())
        where = redis_keys or f"address: 127.0.0.1:{redis_port or redis.port}"
        live = LiveServer(f"redis:\n  {where}\ncluster:\n{lines}{extra}", environment)
        started.append(live)
        return await live.start()

    yield make
    for live in started:
        await live.stop()
    for live in started:
        assert "Traceback" not in live.log(), live.log()[-6000:]


@pytest.fixture(scope="session")
def client_library() -> Path:
    """livekit-client as published, from the web page's own node_modules."""
    path = ROOT / "web/node_modules/livekit-client/dist/livekit-client.umd.js"
    if not path.exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: `make test` installs it"
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=ROOT / "web", check=True, timeout=600)
    return path


@pytest.fixture(scope="session")
def node_parts() -> Path:
    """The folder of the JavaScript parts, its packages installed from the lock file."""
    folder = ROOT / "tests/interop/node"
    if not (folder / "node_modules/livekit-server-sdk").exists():
        npm = shutil.which("npm")
        assert npm, "npm is missing: `make test` installs it"
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=600)
    return folder


@pytest.fixture(scope="session")
def pages(client_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves the scripted test page; its address."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(client_library, folder / "livekit-client.umd.js")
    shutil.copy(Path(__file__).with_name("page.html"), folder / "page.html")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            return

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/page.html"
    httpd.shutdown()
    thread.join()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "chromium is missing: `make test` installs it"
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield chromium
        with contextlib.suppress(Exception):
            await chromium.close()


@pytest.fixture
async def studio(
    make_server: Callable[..., Coroutine[Any, Any, LiveServer]],
    make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]],
    tmp_path: Path,
) -> AsyncIterator[Studio]:
    """A server that records below tmp_path; in the end no traceback in its log and no pieces of files."""
    server = await make_server(egress_config(tmp_path))
    place = Studio(server, make_sdk, tmp_path)
    yield place
    await place.close()
    await server.stop()
    assert "Traceback" not in server.log(), server.log()[-6000:]
    pieces = await asyncio.to_thread(lambda: list(tmp_path.glob(".pending/*")))
    assert not pieces


class Tab:
    """The scripted page (page.html): livekit-client driven from Python."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.console: list[str] = []
        page.on("console", lambda message: self.console.append(message.text[:400]))
        page.on("pageerror", lambda error: self.console.append(f"PAGE ERROR {error}"))

    async def do(self, order: str, *arguments: Any, within_s: float = 30) -> Any:
        async with asyncio.timeout(within_s):
            return await self.page.evaluate(
                "([order, rest]) => window.orders[order](...rest)", [order, list(arguments)]
            )

    async def until(self, what: Callable[[dict[str, Any]], bool], within_s: float = 20) -> dict[str, Any]:
        state: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within_s):
                while True:
                    state = await self.do("state")
                    if what(state):
                        return state
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(
                f"not within {within_s} s; last state: {state}\n" + "\n".join(self.console[-20:])
            ) from None


@pytest.fixture
async def make_tab(browser: Browser, pages: str) -> Callable[[], Coroutine[Any, Any, Tab]]:
    async def make() -> Tab:
        page = await browser.new_page()
        tab = Tab(page)
        await page.goto(pages)
        return tab

    return make
