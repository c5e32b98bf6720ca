"""A newcomer's mistakes: each is told in one line that says what to do, with status 1 or 2 and never a traceback."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tertulia.node.main import cli

GOOD = "keys: {APIgood: a-secret-of-tests-that-is-long-enough}\n"


def run(*args: str) -> Result:
    return CliRunner(env={"LIVEKIT_KEYS": ""}).invoke(cli, args, prog_name="tertulia")


def told(result: Result) -> str:
    """What is left of stderr without click's hint how to call for help: one line, or one below a heading."""
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    assert "Traceback" not in result.output
    if lines[0].endswith("nothing was started"):
        assert lines[0].startswith("tertulia: 1 problem ")
        lines = lines[1:]
    assert len(lines) == 1, lines
    return lines[0].strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keys: {APIx: short}\n", "file.yaml:1: keys: the secret of API key 'APIx' has 5 bytes; at least 32"),
        (GOOD + "prot: 7880\n", "file.yaml:2: unknown key prot; did you mean port?"),
        (GOOD + "rtc:\n  tcp_prt: 1\n", "file.yaml:3: unknown key rtc.tcp_prt; did you mean tcp_port?"),
        (GOOD + "port: 99999\n", "file.yaml:2: port: expected 0 to 65535, got 99999"),
        (GOOD + "port: [\n", "file.yaml:3: not readable as YAML"),
        ("port: 7880\n", "`tertulia generate-keys` makes one"),
        ("\x00", "file.yaml: "),
    ],
)
def test_files(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(text)
    for args in (("--config", "file.yaml"), ("serve", "--config", "file.yaml")):
        result = run(*args)
        assert result.exit_code == 2
        assert expected in told(result)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["--config", "/"], "/: cannot be read: Is a directory"),
        (["--confg", "x"], "Did you mean one of: '--config'"),
        (["serv"], "Did you mean serve?"),
        (["--dev", "--port", "abc"], "--port: port: expected a whole number, got abc"),
        (["--dev", "--udp-port", "9000-8000"], "the range is reversed; did you mean 8000-9000?"),
        (["--dev", "--node-ip", "hello"], "--node-ip: rtc.node_ip: 'hello' is not an IP address"),
        (["--dev", "--key-file", "nope"], "key_file nope: No such file or directory"),
        (["--keys", "nocolon"], "--keys: expected `key: secret`"),
        (["--dev", "--rtc.tcp_prt", "5"], "unknown key rtc.tcp_prt; did you mean tcp_port?"),
        (["--dev", "--log_level", "loud"], "log_level: expected one of debug, info"),
        (["--dev", "--log_levle", "info"], "No such option '--log_levle'"),
        (["egress", "list"], "no API key: add --dev, --config FILE, or --api-key with --api-secret"),
        (["--dev", "egress", "start"], "which room? --room NAME"),
        (["--dev", "egress", "start", "--room", "demo"], "where to? --file PATH"),
        (["--dev", "egress", "start", "nowhere.json"], "'nowhere.json' does not exist"),
        (["--dev", "egress", "stop"], "Missing argument 'ID...'"),
        (["--dev", "egress", "--url", "nonsense", "list"], "nonsense is not a URL such as https://"),
    ],
)
def test_commands(args: list[str], expected: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert expected in told(result)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = sock.getsockname()[1]
        result = run("--dev", "egress", "--url", f"http://127.0.0.1:{port}", "list")
    assert result.exit_code == 1
    assert (
        told(result) == f"Error: http://127.0.0.1:{port} does not answer (Connection refused); is the server running?"
    )


@pytest.fixture
def somebody_else() -> Iterator[int]:
    """A web server that knows nothing of us."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 501 No\r\nContent-Length: 14\r\n\r\n<html>\n</html>")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)


def test_a_server_that_is_not_ours(somebody_else: int) -> None:
    result = run("--dev", "egress", "--url", f"http://127.0.0.1:{somebody_else}", "list")
    assert result.exit_code == 1
    assert told(result) == "Error: this is no Tertulia, or something before it refused: status 501"


def test_ports_need_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("port: 1234\n")
    for args in (["ports"], ["--config", str(file), "ports"], ["ports", "--config", str(file)]):
        result = run(*args)
        assert result.exit_code == 0, result.output
        assert ("7880/TCP" if args == ["ports"] else "1234/TCP") in result.output
    file.write_text("port: 1234\nrtc: {tcp_port: 1234}\n")
    assert run("--config", str(file), "ports").exit_code == 2, "everything else is judged"
