"""`tertulia bench` as a user runs it: against servers of its own, against ours, against ones that fail in every way."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from livekit.protocol import models, rtc
from websockets.asyncio.server import Server, ServerConnection, serve

from benchmarks import plane
from tests.interop.live import KEY, ROOT, SECRET, LiveServer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

RUN_S = 90


class Bench:
    """The command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> "Bench":
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tertulia", "bench", *self._arguments, cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self

    async def end(self) -> tuple[int, str]:
        """Exit status and everything it said."""
        assert self.process is not None
        async with asyncio.timeout(RUN_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, (out + err).decode()


async def bench(*arguments: str) -> tuple[int, str]:
    return await (await Bench(*arguments).start()).end()


def descendants(pid: int) -> set[int]:
    """Every process below one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Those that still run."""
    running = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                running.add(pid)
    return running


async def until(check: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # processes do not tell us
            await asyncio.sleep(0.05)


async def test_a_livestream_against_a_server_of_its_own(tmp_path: Path) -> None:
    figures = tmp_path / "out.json"
    status, said = await bench(
        "--subscribers", "1,5", "--duration", "2", "--json", str(figures), "--plots", str(tmp_path / "plots")
    )  # fmt: skip
    assert status == 0, said
    assert "Not saturated at 5 subscribers" in said
    (result,) = json.loads(figures.read_text())["results"]
    one, five = result["rows"]
    assert (one["participants"], five["participants"]) == (2, 6)
    assert (one["lost"], five["lost"], five["silent_streams"], five["streams"]) == (0, 0, 0, 10)
    for row in (one, five):
        # 30 frames and 50 audio packets a second for each subscriber
        assert row["delay_video_ms"]["count"] >= 0.5 * 30 * row["size"] * row["seconds"]
        assert row["delay_audio_ms"]["count"] >= 0.5 * 50 * row["size"] * row["seconds"]
        assert row["cpu_us_per_packet"] > 0
    assert five["packets_down_s"] > 3 * one["packets_down_s"]
    assert one["join_ms"]["count"] == 2
    assert five["first_frame_ms"]["count"] == 4
    assert len(list((tmp_path / "plots").iterdir())) == 4


@pytest.mark.parametrize(
    ("scenario", "more"),
    [
        ("audio", ("--publishers", "3", "--subscribers", "4")),
        ("meeting", ("--subscribers", "4",)),
        ("meeting", ("--subscribers", "3", "--codec", "h264", "--signal", "v0")),
        ("churn", ("--subscribers", "8",)),
        ("rooms", ("--subscribers", "2", "--members", "2")),
        ("data", ("--subscribers", "4",)),
        ("data", ("--subscribers", "3", "--reliable", "--message-bytes", "4000")),
    ],
)  # fmt: skip
async def test_the_other_scenarios(server: LiveServer, tmp_path: Path, scenario: str, more: tuple[str, ...]) -> None:
    figures = tmp_path / "out.json"
    status, said = await bench(
        "--url", server.url, "--api-key", KEY, "--api-secret", SECRET, "--scenario", scenario, "--duration", "2",
        "--json", str(figures), *more,
    )  # fmt: skip
    assert status == 0, said
    (result,) = json.loads(figures.read_text())["results"]
    (row,) = result["rows"]
    assert row["lost"] == 0
    assert row["cpu_us_per_packet"] > 0, "the server's process is found by its port"
    if scenario == "data":
        assert row["messages_down_s"] > 0.5 * 20 * row["size"]
        assert row["delay_data_ms"]["count"] > 0
    elif scenario == "churn":
        assert row["joins_s"] > 3
        assert row["join_cpu_ms"] > 0
    else:
        assert row["silent_streams"] == 0
        assert row["packets_down_s"] > 50
    expected = {"audio": 3 * 4, "rooms": 2 * 2 * 2}
    if scenario in expected:
        assert row["streams"] == expected[scenario]
    if scenario == "meeting":
        size = row["size"]
        assert row["streams"] == 2 * size * (size - 1)


async def test_two_servers_in_one_run(server: LiveServer, tmp_path: Path) -> None:
    figures = tmp_path / "out.json"
    status, said = await bench(
        "--url", server.url, "--api-key", KEY, "--api-secret", SECRET, "--versus", "own", "--scenario", "livestream",
        "--subscribers", "5", "--duration", "4", "--json", str(figures),
    )  # fmt: skip
    assert status == 0, said
    assert "first / second at 5: CPU per packet" in said
    (result,) = json.loads(figures.read_text())["results"]
    assert [row["server"] for row in result["rows"]] == ["first", "second"]
    assert all(row["lost"] == 0 and row["packets_down_s"] > 100 for row in result["rows"])


async def test_requests_are_refused_in_words() -> None:
    for arguments, says in (
        (("--url", "ws://192.0.2.1:7880", "--api-key", "a", "--api-secret", "b"), "--allow-remote"),
        (("--url", "ws://127.0.0.1:7880"), "needs an API key"),
        (("--subscribers", "100000"), "more than the 20000"),
        (("--subscribers", "a few"), "is not a size"),
        (("--duration", "0"), "--duration"),
        (("--scenario", "meeting", "--subscribers", "5000"), "MiB of memory"),
        (("--server-ports", "99"), "--server-ports"),
    ):
        status, said = await bench(*arguments)
        assert status == 2, said
        assert says in said
        assert "Traceback" not in said


async def test_a_wrong_secret_and_nobody_there(server: LiveServer) -> None:
    status, said = await bench("--url", server.url, "--api-key", KEY, "--api-secret", "x" * 32, "--subscribers", "2")
    assert status == 1
    assert "nobody could join" in said
    assert "401" in said
    status, said = await bench("--url", "ws://127.0.0.1:9", "--api-key", KEY, "--api-secret", SECRET)
    assert status == 1
    assert "no connection to 127.0.0.1:9" in said
    assert "Traceback" not in said


async def test_ctrl_c_gives_the_report_so_far() -> None:
    run = await Bench("--subscribers", "2,4", "--duration", "60").start()
    assert run.process is not None
    pid = run.process.pid
    await until(lambda: len(descendants(pid)) >= 2)
    await asyncio.sleep(8)  # into the first measurement
    children = descendants(pid)
    run.process.send_signal(signal.SIGINT)
    status, said = await run.end()
    assert "Interrupted" in said
    assert "│           2 │" in said
    assert "Traceback" not in said
    assert status == 0
    assert not alive(children)


async def test_a_killed_bench_leaves_nothing_behind() -> None:
    run = await Bench("--subscribers", "2", "--duration", "60").start()
    assert run.process is not None
    pid = run.process.pid
    await until(lambda: len(descendants(pid)) >= 2)
    await asyncio.sleep(3)
    children = descendants(pid)
    run.process.kill()
    await run.process.wait()
    await until(lambda: not alive(children))


async def test_a_server_that_vanishes(server: LiveServer) -> None:
    run = await Bench(
        "--url", server.url, "--api-key", KEY, "--api-secret", SECRET, "--subscribers", "3", "--duration", "60"
    ).start()
    for _ in range(600):
        metrics = await server.metrics()
        if sum(value for name, value in metrics.items() if name.startswith("livekit_participant_total")) >= 4:
            break
        await asyncio.sleep(0.05)
    os.kill(server.pid, signal.SIGKILL)
    status, said = await run.end()
    assert status == 1
    assert "vanished" in said
    assert "Traceback" not in said


# ------------------------------------------------------------------------------ servers that lie

Answer = Callable[[ServerConnection], Awaitable[Any]]


@pytest.fixture
async def false_server() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """A WebSocket server with this behaviour; its URL."""
    running: list[Server] = []

    async def start(answer: Answer) -> str:
        server = await serve(answer, "127.0.0.1", 0)
        running.append(server)
        return f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    yield start
    for server in running:
        server.close(close_connections=True)
        await server.wait_closed()


def joined(*more: rtc.SignalResponse) -> list[bytes]:
    join = rtc.SignalResponse(join=rtc.JoinResponse(participant=models.ParticipantInfo(sid="PA_x", identity="x")))
    return [message.SerializeToString() for message in (join, *more)]


def answering(text: str) -> rtc.SignalResponse:
    return rtc.SignalResponse(answer=rtc.SessionDescription(type="answer", sdp=text, id=1))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([b"\xff\xff\xff"], "no signal message"),
        (["hello"], "text where protobuf is expected"),
        ([rtc.SignalResponse(pong=1).SerializeToString()], "first message is pong"),
        ([], "closed before the join"),
        (
            [
                rtc.SignalResponse(
                    leave=rtc.LeaveRequest(reason=models.DisconnectReason.JOIN_FAILURE)
                ).SerializeToString()
            ],
            "JOIN_FAILURE",
        ),
        (joined(answering("nonsense")), "SDP line 1 is not of the form"),
        (joined(answering("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n")), "lacks ICE credentials"),
        (joined(rtc.SignalResponse(leave=rtc.LeaveRequest())), "leave"),
    ],
)
async def test_servers_that_answer_wrongly(
    false_server: Callable[[Answer], Awaitable[str]], messages: list[str | bytes], says: str
) -> None:
    async def answer(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        if len(messages) > 1:
            await connection.wait_closed()

    url = await false_server(answer)
    status, said = await bench("--url", url, "--api-key", KEY, "--api-secret", SECRET, "--subscribers", "1")
    assert status == 1
    assert says in said
    assert "Traceback" not in said


async def test_a_server_that_never_answers_is_given_up(false_server: Callable[[Answer], Awaitable[str]]) -> None:
    url = await false_server(lambda connection: connection.wait_closed())
    status, said = await bench("--url", url, "--api-key", KEY, "--api-secret", SECRET, "--subscribers", "1")
    assert status == 1
    assert "within 15 s" in said or "more than 15 s" in said


def test_a_publisher_that_ends_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="publisher ended"):  # asked for no time it goes home
        plane.forwarding([], 0.0, "interpreted", at_once=plane.FRAME)
