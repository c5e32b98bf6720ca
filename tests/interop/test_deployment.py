"""docs/deployment.md as it stands: its configuration, its proxy and its unit are taken out of the page and used."""

import asyncio
import base64
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from livekit import api

from tests.interop.live import ROOT, free_port
from tests.interop.sdk import SdkClient

KEY, SECRET, PASSWORD = "APIcallsexample", "a-secret-of-tests-that-is-long-enough", "password-of-tests"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
PAGE = (ROOT / "docs" / "deployment.md").read_text()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="nginx or openssl is not installed"),
]


def block(language: str) -> str:
    """The page's first block in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def put(text: str, **places: object) -> str:
    """The text with places of this machine; what is replaced must be there."""
    for number, (old, new) in enumerate(places.items()):
        assert old in text, (number, old)
        text = text.replace(old, str(new))
    return text


class Site:
    """One node behind nginx, as the page says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.https, self.port, self.metrics = free_port(), free_port(), free_port()
        self.authority = directory / "authority.pem"
        self.log = directory / "calls.log"
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        self._certificate()
        places = {
            "/var/lib/tertulia": self.directory,
            "port: 7880": f"port: {self.port}",
            "port: 6789": f"port: {self.metrics}",
        }
        (self.directory / "config.yaml").write_text(put(block("yaml"), **places))
        environment = os.environ | {"TERTULIA_SECRET": SECRET, "METRICS_PASSWORD": PASSWORD}
        where = ["--rtc.tcp_port", str(free_port()), "--udp-port", str(free_port(socket.SOCK_DGRAM))]
        await self._run(
            *(sys.executable, "-m", "tertulia", "--config", str(self.directory / "config.yaml"), *where),
            "--rtc.enable_loopback_candidate",
            env=environment,
        )
        site = put(
            block("nginx"),
            **{
                "127.0.0.1:7880": f"127.0.0.1:{self.port}",
                "listen 443": f"listen 127.0.0.1:{self.https}",
                "calls.example.org": "localhost",
                "/etc/nginx/": f"{self.directory}/",
                "/var/log/nginx/calls.log": self.log,
            },
        )
        temporary = "".join(f"{name}_temp_path {self.directory}/{name};" for name in ("client_body", "proxy"))
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/nginx.pid; error_log {self.directory}/error.log;"
            f"events {{}} http {{ {temporary} {site} }}"
        )
        assert NGINX is not None
        await self._run(NGINX, "-p", str(self.directory), "-e", "error.log", "-c", "nginx.conf")
        async with asyncio.timeout(30):
            while await self.status("/readyz") != 200:
                assert all(one.returncode is None for one in self._running), self.output()
                await asyncio.sleep(0.05)

    def output(self) -> str:
        return (self.directory / "output.log").read_text()

    async def stop(self) -> None:
        for process in reversed(self._running):
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), 20)

    async def _run(self, *command: str, env: dict[str, str] | None = None) -> None:
        with (self.directory / "output.log").open("ab") as out:
            self._running.append(
                await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=out, stderr=out, env=env)
            )

    def _certificate(self) -> None:
        """An authority, and a certificate of localhost that it signed: clients refuse an authority's own."""
        words = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        calls = self.directory / "calls"
        (self.directory / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        signed = ["-CA", f"{self.authority}", "-CAkey", f"{calls}.ca.key", "-CAcreateserial", "-extfile", "names"]
        for command in (
            ["req", "-x509", *words, "-keyout", f"{calls}.ca.key", "-out", f"{self.authority}"],
            ["req", *words, "-keyout", f"{calls}.key", "-out", f"{calls}.csr"],
            ["x509", "-req", "-in", f"{calls}.csr", "-out", f"{calls}.pem", *signed],
        ):
            subprocess.run(["openssl", *command], cwd=self.directory, check=True, capture_output=True)

    async def status(self, path: str) -> int:
        def ask() -> int:
            context = ssl.create_default_context(cafile=str(self.authority))
            try:
                url = f"https://localhost:{self.https}{path}"
                with urllib.request.urlopen(url, timeout=5, context=context) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        return await asyncio.to_thread(ask)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    one = Site(tmp_path)
    try:
        await one.start()
        yield one
    finally:
        await one.stop()


async def test_a_node_behind_the_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """People meet over TLS, metrics are for operators, and no token stands in the proxy's log."""
    monkeypatch.setenv("SSL_CERT_FILE", str(site.authority))
    clients = [await SdkClient().start() for _ in range(2)]
    try:
        for client, identity in zip(clients, ("ada", "bob"), strict=True):
            grants = api.VideoGrants(room_join=True, room="demo")
            token = api.AccessToken(KEY, SECRET).with_identity(identity).with_grants(grants).to_jwt()
            await client.do("connect", url=f"wss://localhost:{site.https}", token=token)
        await clients[0].do("perform", colour=[200, 60, 60])
        await clients[1].until(lambda state: state["media"].get("ada/video", {}).get("frames", 0) > 3)
        assert await site.status("/metrics") == 404
        assert "livekit_participant_total" in await asyncio.to_thread(_metrics, site.metrics)
        for client in clients:
            await client.do("leave")
        async with asyncio.timeout(20):  # nginx writes a WebSocket down when it has ended
            while (written := site.log.read_text()).count('"GET /rtc') < 2:
                await asyncio.sleep(0.05)
                assert not any(marker in written for marker in ("eyJ", "?"))
        assert not any(marker in written for marker in ("eyJ", "?"))
    finally:
        for client in clients:
            await client.stop()


def _metrics(port: int) -> str:
    words = base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Basic {words}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


async def test_a_variable_that_is_not_set_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block("yaml"))
    environment = {name: value for name, value in os.environ.items() if name != "TERTULIA_SECRET"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tertulia", "--config", str(file)),
        cwd=ROOT, env=environment | {"METRICS_PASSWORD": PASSWORD}, stdout=-1, stderr=-1,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert f"{file}:4: " in err.decode()
    assert "TERTULIA_SECRET" in err.decode()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "tertulia.service"
    unit.write_text(put(block("ini"), **{"/opt/tertulia/bin/tertulia": sys.executable}))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "tertulia.service" in done.stderr) == (0, False), done.stderr
