"""The command line: what it prints, where to, and with which exit status."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tertulia.node import cli_serve
from tertulia.node.config import Config
from tertulia.node.doctor import examine
from tertulia.node.main import COMMANDS, cli, pull_dotted
from tertulia.node.ports import owner
from tertulia.protocol.token import parse_token

SECRET = "a-secret-of-tests-that-is-long-enough"
ROOT = Path(__file__).parents[3]


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(cli, args, prog_name="tertulia")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations the server was started with, instead of starting one."""
    seen: list[Config] = []

    def serve(config: Config) -> int:
        seen.append(config)
        return 0

    import tertulia.node.serve

    monkeypatch.setattr(tertulia.node.serve, "run", serve)
    monkeypatch.setattr(cli_serve, "secrets_of", lambda config: [])
    return seen


def test_help_lists_every_command_and_imports_none() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output
    script = "import sys, tertulia.node.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    heavy = {"av", "numpy", "obstore", "redis", "aiohttp", "structlog", "ruamel.yaml", "google.protobuf", "rich"}
    assert heavy.isdisjoint(loaded.stdout.split())


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) > 3


def test_options_may_stand_before_or_after_the_command(started: list[Config]) -> None:
    for args in (("--dev", "--port", "1234"), ("serve", "--dev", "--port", "1234"), ("--dev", "serve", "--port=1234")):
        result = run(*args)
        assert result.exit_code == 0, result.output
        config = started.pop()
        assert (config.development, config.port) == (True, 1234)


def test_every_key_is_a_flag(started: list[Config]) -> None:
    args = ["--dev", "--rtc.tcp_port", "7000", "--rtc.force_tcp", "serve", "--room.empty_timeout=5", "--region", "here"]
    assert run(*args).exit_code == 0
    config = started.pop()
    assert (config.rtc.tcp_port, config.rtc.force_tcp, config.room.empty_timeout) == (7000, True, 5)
    assert config.region == "here"
    assert pull_dotted(["--a", "b"], []) == ["--a", "b"]
    assert run("--dev", "--log_level", "warn", "--rtc.force_tcp", "false", "serve").exit_code == 0
    config = started.pop()
    assert (config.rtc.force_tcp, config.logging.level) == (False, "warn")


def test_a_wrong_configuration_starts_nothing(started: list[Config]) -> None:
    result = run("--config-body", "prot: 1\nrtc: {tcp_port: x}\n")
    assert result.exit_code == 2
    assert started == []
    assert "2 problems in the configuration; nothing was started" in result.stderr
    assert "--config-body:1: unknown key prot; did you mean port?" in result.stderr
    assert "Traceback" not in result.output


def test_wrong_requests_are_told_kindly() -> None:
    result = run("tokn")
    assert result.exit_code == 2
    assert "Did you mean token?" in result.output
    assert "needs a value" in run("--rtc.tcp_port").output
    assert run("--config", "/nowhere.yaml").exit_code == 2


def test_generated_keys_are_good_enough_for_the_server(started: list[Config]) -> None:
    lines = run("generate-keys").output.splitlines()
    key, secret = lines[0].removeprefix("API Key: "), lines[1].removeprefix("API Secret: ")
    assert run("--keys", f"{key}: {secret}").exit_code == 0
    assert started.pop().keys == {key: secret}
    assert run("generate-keys").output != "\n".join(lines)


def token_of(*args: str, env: dict[str, str] | None = None) -> Any:
    result = run("token", "create", "--token-only", *args, env=env)
    assert result.exit_code == 0, result.output
    return parse_token(result.output.strip(), {"devkey": "secret", "k": SECRET}, int(time.time()))


def test_tokens_say_what_was_asked() -> None:
    claims = token_of(
        "--dev", "--room", "demo", "--identity", "ada", "--name", "Ada", "--attribute", "a=b=c", "--metadata", "{}",
        "--no-publish", "--hidden", "--allow-source", "camera", "--valid-for", "30m", "--room-preset", "townhall",
    )  # fmt: skip
    assert claims.video.room_join
    assert (claims.video.room, claims.identity, claims.name) == ("demo", "ada", "Ada")
    assert (claims.video.can_publish, claims.video.can_subscribe, claims.video.hidden) == (False, None, True)
    assert claims.video.can_publish_sources == ("camera",)
    assert (claims.attributes, claims.metadata, claims.room_preset) == ({"a": "b=c"}, "{}", "townhall")
    assert 0 <= claims.expires_s - time.time() - 1790 <= 20
    admin = token_of("--keys", f"k: {SECRET}", "--admin", "--list", "--create", "--egress", "--room", "demo")
    assert (admin.api_key, admin.video.room_admin, admin.video.room_join) == ("k", True, False)
    assert admin.video.room_list
    assert admin.video.room_create
    assert admin.video.room_record
    from_env = token_of("--join", "--identity", "x", env={"LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": SECRET})
    assert from_env.api_key == "k"


def test_a_token_comes_with_a_link() -> None:
    result = run("--dev", "token", "create", "--room", "demo", "--identity", "ada")
    token, link = (line.split()[1] for line in result.output.splitlines())
    assert link == f"http://localhost:7880/#token={token}"
    made = json.loads(
        run("--dev", "token", "create", "--room", "r", "--identity", "i", "--json", "--url", "wss://h").output
    )
    assert made["link"] == f"https://h/#token={made['token']}"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--room", "demo"], "--identity is needed"),
        (["--identity", "ada"], "would allow nothing"),
        (["--room", "demo", "--identity", "a\x00b"], "control characters"),
        (["--room", "demo", "--identity", "a", "--valid-for", "soon"], "expected a duration"),
        (["--room", "demo", "--identity", "a", "--valid-for", "0"], "at least 1s"),
        (["--room", "demo", "--identity", "a", "--attribute", "x"], "'x' is not KEY=VALUE"),
        (["--room", "demo", "--identity", "a", "--api-key", "nokey"], "the configuration has no key 'nokey'"),
    ],
)
def test_tokens_that_make_no_sense(args: list[str], told: str) -> None:
    result = run("--dev", "token", "create", *args)
    assert result.exit_code == 2
    assert told in result.output


def test_a_token_needs_a_key() -> None:
    result = run("token", "create", "--room", "demo", "--identity", "ada")
    assert result.exit_code == 2
    assert "no key to sign with: add --dev" in result.output


def test_ports_are_listed() -> None:
    output = run("--dev", "--udp-port", "7890-7891", "--prometheus.port", "6789", "ports").output
    for port in ("7880/TCP", "7881/TCP", "7890/UDP", "7891/UDP", "6789/TCP"):
        assert port in output


def test_egress_requests_are_checked_before_they_are_sent(tmp_path: Path) -> None:
    assert "does not go with this --type" in run("--dev", "egress", "start", "--type", "track", "--layout", "x").output
    broken = tmp_path / "request.json"
    broken.write_text('{"nope": 1}')
    assert "request.json: " in run("--dev", "egress", "start", str(broken)).output
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        result = run("--dev", "--port", port, "egress", "list")
    assert result.exit_code == 1
    assert "does not answer" in result.output
    assert "Traceback" not in result.output


@pytest.fixture
def free() -> dict[str, int]:
    with socket.socket() as one, socket.socket() as two, socket.socket(type=socket.SOCK_DGRAM) as three:
        for probe in (one, two, three):
            probe.bind(("127.0.0.1", 0))
        return {"port": one.getsockname()[1], "tcp": two.getsockname()[1], "udp": three.getsockname()[1]}


def test_doctor_finds_a_busy_port_and_its_owner(free: dict[str, int], tmp_path: Path) -> None:
    with socket.socket() as held, socket.socket(type=socket.SOCK_DGRAM) as media:
        held.bind(("0.0.0.0", free["port"]))
        held.listen()
        media.bind(("0.0.0.0", free["udp"]))
        assert "(pid " in owner("tcp", free["port"])
        assert "(pid " in owner("udp", free["udp"])
        result = run(
            "--dev", "--port", str(free["port"]), "--rtc.tcp_port", str(free["tcp"]), "--udp-port", str(free["udp"]),
            "--egress.output_roots", str(tmp_path), "doctor", "--json",
        )  # fmt: skip
    report = json.loads(result.output)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert result.exit_code == 1
    assert not report["ok"]
    assert found[f"port {free['port']}/TCP"]["state"] == "wrong"
    assert "in use by" in found[f"port {free['port']}/TCP"]["text"]
    assert found[f"port {free['tcp']}/TCP"]["state"] == "good"
    assert found["recordings"]["state"] == "good"


def test_doctor_tells_what_does_not_work(tmp_path: Path, free: dict[str, int]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    result = run(
        "--dev", "--port", str(free["port"]), "--rtc.tcp_port", "0", "--udp-port", str(free["udp"]),
        "--egress.output_roots", str(blocked), "--redis-host", f"127.0.0.1:{free['tcp']}", "doctor",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "WRONG recordings" in result.output
    assert "WRONG Redis" in result.output
    assert "Traceback" not in result.output


def test_a_broken_examination_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("tertulia.node.doctor.EXAMINATIONS", {"thing": broken})
    (finding,) = examine(Config())
    assert (finding.name, finding.state) == ("thing", "wrong")
    assert "no such thing" in finding.text
