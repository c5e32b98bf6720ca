"""Starting the real command where it cannot start: one clear line, the right exit status, nothing left behind."""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tertulia.node.banner import show_banner
from tertulia.node.config import Config
from tertulia.node.config_read import DEV_KEYS, Sources, load

ROOT = Path(__file__).parents[3]


def start(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tertulia", *args], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_wrong_file_ends_with_two(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("keys: {a: short}\nrtc: {node_ip: nowhere}\n")
    done = start("serve", "--config", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "tertulia: 2 problems in the configuration; nothing was started"
    assert lines[1].startswith(f"  {file}:1: keys: ")
    assert lines[2].startswith(f"  {file}:2: rtc.node_ip: ")


@pytest.mark.parametrize("kind", ["UDP", "TCP", "ICE-TCP"])
def test_a_busy_port_ends_with_one_and_names_it(kind: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp, socket.socket() as http:
        for probe in (udp, tcp, http):
            probe.bind(("0.0.0.0", 0))
        probes = {"UDP": udp, "ICE-TCP": tcp, "TCP": http}
        ports = {name: probe.getsockname()[1] for name, probe in probes.items()}
        for name, probe in probes.items():
            if name != kind:
                probe.close()
            elif name != "UDP":
                probe.listen()
        busy = str(ports[kind])
        flags = {"--udp-port": ports["UDP"], "--rtc.tcp_port": ports["ICE-TCP"], "--port": ports["TCP"]}
        done = start("--dev", *(f"{flag}={port}" for flag, port in flags.items()))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("tertulia: ")]
    assert busy in told[0]
    assert f"(pid {os.getpid()})" in told[-1]


def test_the_banner_has_every_address_and_a_link() -> None:
    out = io.StringIO()
    config = load(Sources(dev=True, environment={})).config
    show_banner(
        config,
        [("127.0.0.1", 7890), ("::1", 7890)],
        "interpreted",
        "no compiler",
        media=[("10.0.0.1", 7882)],
        tcp=[("10.0.0.1", 7881)],
        stream=out,
    )
    text = out.getvalue()
    for part in (
        "http://localhost:7890/?room=demo",
        "http://localhost:7890/check",
        "ws://localhost:7890",
        "10.0.0.1:7882",
        "10.0.0.1:7881",
        "/dev/token?room=demo",
        "devkey",
        "no compiler",
        "Not for the Internet",
    ):
        assert part in text, part


def test_the_banner_never_shows_a_secret_of_yours() -> None:
    out = io.StringIO()
    own = Config(development=True, keys={"mine": type(DEV_KEYS["devkey"])("canary-secret")})
    show_banner(own, [("0.0.0.0", 7880)], "compiled", stream=out)
    assert "canary" not in out.getvalue()
    quiet = io.StringIO()
    show_banner(Config(), [("0.0.0.0", 7880)], "compiled", stream=quiet)
    assert quiet.getvalue() == ""
