"""Streams against a real RTMP server (nginx-rtmp), its death and return, and peers that misbehave."""

import asyncio
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import av
import pytest
from livekit.protocol import egress

from tertulia.egress.outputs import flv
from tertulia.egress.outputs.addresses import AddressRules
from tertulia.egress.outputs.api import EncodedPacket, Hooks
from tertulia.egress.outputs.rtmp import StreamPolicy, StreamsOutput
from tests.unit.egress_outputs import media

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed"),
]

ACTIVE, FINISHED, FAILED = 0, 1, 2
EAGER = StreamPolicy(
    connect_timeout_s=1, stall_s=1, outage_s=6, proof_s=0.5, stable_s=1, first_backoff_s=0.1, most_backoff_s=0.3
)
HASTY = StreamPolicy(
    connect_timeout_s=0.5, stall_s=0.5, outage_s=1.5, proof_s=0.2, stable_s=0.5, first_backoff_s=0.1,
    most_backoff_s=0.2, queue_bytes=50_000,
)  # fmt: skip

_CONFIG = """
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log notice;
events {{ worker_connections 64; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; chunk_size 4096; ping 1s; ack_window 20000;
  application live {{ live on; record all; record_path {dir}/rec; record_unique on; }}
  application deny {{ live on; deny publish all; }}
}} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        (directory / "rec").mkdir()
        (directory / "nginx.conf").write_text(_CONFIG.format(dir=directory, port=self.port))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["nginx", "-p", str(self.directory), "-c", "nginx.conf"]
        self.process = subprocess.Popen(
            command, env={**os.environ, "PATH": "/usr/sbin:/usr/bin"}, start_new_session=True
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise AssertionError("nginx did not start")

    def signal(self, number: int) -> None:
        """To the master and its worker: they are a process group of their own."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def url(self, key: str, app: str = "live") -> str:
        return f"rtmp://127.0.0.1:{self.port}/{app}/{key}"

    def recordings(self, key: str) -> list[Path]:
        return sorted((self.directory / "rec").glob(f"{key}-*.flv"))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    server = Nginx(tmp_path)
    server.start()
    yield server
    server.kill()


class Job:
    """Plays the worker: sends looped media in real time, asked-for key frames and all."""

    def __init__(self, urls: list[str], rules: AddressRules | None = None, policy: StreamPolicy = EAGER) -> None:
        self.changes = 0
        hooks = Hooks(changed=self._changed)
        self.out = StreamsOutput(urls, rules or AddressRules(), hooks, policy)
        self.sent: list[EncodedPacket] = []
        self._task: asyncio.Task[None] | None = None

    def _changed(self) -> None:
        self.changes += 1

    async def __aenter__(self) -> "Job":
        video_spec, video = media.video(seconds=4, key_frame_s=0.5, bit_rate=2_000_000)
        audio_spec, audio = media.audio(seconds=4)
        self.out.open([audio_spec, video_spec], media.EPOCH_NS)
        self._task = asyncio.create_task(self._play(media.interleave(video, audio)))
        return self

    async def _play(self, packets: list[EncodedPacket]) -> None:
        begun, loop_s = time.monotonic(), 0.0
        while True:
            for packet in media.shifted(packets, loop_s):
                ahead = media.seconds_of(packet) - (time.monotonic() - begun)
                if ahead > 0:
                    await asyncio.sleep(ahead)
                await asyncio.to_thread(self.out.write, packet)
                self.sent.append(packet)
            loop_s += 4

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await self.out.close()

    def info(self, index: int = 0) -> egress.StreamInfo:
        return self.out.result().streams[index]

    async def until(self, condition: Callable[[], bool], limit_s: float = 20) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110 (what is waited for happens in another process)
                await asyncio.sleep(0.02)

    async def media_s(self, seconds: float) -> None:
        """Until that much more media was sent."""
        goal = media.seconds_of(self.sent[-1]) + seconds if self.sent else seconds
        await self.until(lambda: bool(self.sent) and media.seconds_of(self.sent[-1]) >= goal)


def decoded(path: Path) -> Counter[str]:
    """How many frames of each kind every decoder is content with."""
    frames: Counter[str] = Counter()
    with av.open(str(path)) as container:
        for packet in container.demux():
            for frame in packet.decode():
                frames["video" if isinstance(frame, av.VideoFrame) else "audio"] += 1
    return frames


async def test_arrives_complete(nginx: Nginx) -> None:
    async with Job([nginx.url("one")]) as job:
        await job.media_s(3)
        assert job.info().status == ACTIVE
        assert job.info().started_at > 0
    await job.until(lambda: bool(nginx.recordings("one")))
    info = job.info()
    assert (info.status, info.error) == (FINISHED, "")
    assert info.duration == info.ended_at - info.started_at > 0
    nginx.signal(signal.SIGTERM)  # closes the recording
    assert nginx.process is not None
    await asyncio.to_thread(nginx.process.wait)
    nginx.process = None
    path = nginx.recordings("one")[0]
    tags = [tag for tag in flv.parse_file(path.read_bytes()) if tag.kind == flv.VIDEO and tag.body[1] == 1]
    sent = [p for p in job.sent if p.stream == "video"]
    # From the first key frame after the connection on no frame is missing.
    times = [tag.time_ms for tag in tags]
    assert len(times) > 60
    assert max(b - a for a, b in itertools.pairwise(times)) <= 34
    assert len(sent) - len(tags) < 30
    frames = decoded(path)
    assert frames["video"] == len(tags)
    assert frames["audio"] > 100


async def test_sink_restarts(nginx: Nginx) -> None:
    async with Job([nginx.url("again")]) as job:
        await job.media_s(2)
        nginx.kill()
        await job.until(lambda: job.info().retries > 1)
        assert job.info().status == ACTIVE
        assert job.info().last_retry_at > 0
        nginx.start()
        await job.until(lambda: len(nginx.recordings("again")) == 2)
        await job.media_s(2)
        assert job.info().status == ACTIVE
    assert job.info().status == FINISHED
    for path in nginx.recordings("again"):
        assert decoded(path)["video"] > 20


async def test_one_dead_address_harms_nobody(nginx: Nginx) -> None:
    dead = f"rtmp://127.0.0.1:{free_port()}/live/secretkey99"
    async with Job([dead, nginx.url("alive")]) as job:
        await job.until(lambda: job.info(0).status == FAILED)
        await job.media_s(2)
        assert job.info(1).status == ACTIVE
        assert job.out.failed is None
    assert job.info(0).error == "connection refused"
    assert "secretkey99" not in str(job.out.result())
    assert job.info(0).url.endswith("/live/{se...99}")
    assert decoded(nginx.recordings("alive")[0])["video"] > 30


async def test_denied(nginx: Nginx) -> None:
    async with Job([nginx.url("nobody", app="deny")]) as job:
        await job.until(lambda: job.info().status == FAILED)
        assert job.out.failed is not None
        assert "nobody" not in job.info().error
        assert "is its key right?" in job.info().error


async def test_addresses_come_and_go(nginx: Nginx) -> None:
    async with Job([nginx.url("first")]) as job:
        await job.media_s(1)
        job.out.add(nginx.url("second"))
        await job.media_s(1.5)
        await job.out.remove(nginx.url("first"))
        assert job.info(0).status == FINISHED
        await job.media_s(1)
        assert job.out.active == 1
        job.out.add(nginx.url("first"))  # again: a new stream
        await job.media_s(1)
        assert [info.status for info in job.out.result().streams] == [FINISHED, ACTIVE, ACTIVE]
    assert len(nginx.recordings("first")) == 2
    for path in (*nginx.recordings("first"), *nginx.recordings("second")):
        assert decoded(path)["video"] > 15


async def test_frozen_peer(nginx: Nginx) -> None:
    """SIGSTOP: the kernel still takes bytes, then nothing moves. Retried, given up, and never in the way of a stop."""
    healthy = another(nginx)
    try:
        async with Job([nginx.url("frozen"), healthy.url("fine")], policy=HASTY) as job:
            await job.media_s(1)
            nginx.signal(signal.SIGSTOP)
            await job.until(lambda: job.info(0).status == FAILED, limit_s=60)
            assert job.info(1).status == ACTIVE
            begun = time.monotonic()
            await job.out.close()
            assert time.monotonic() - begun < 5
    finally:
        nginx.signal(signal.SIGCONT)
        healthy.kill()
    assert job.info(0).retries >= 1


def another(other: Nginx) -> Nginx:
    directory = other.directory / "beside"
    directory.mkdir()
    server = Nginx(directory)
    server.start()
    return server


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A peer that takes the connection and says nothing."""
    held: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in held:
        writer.close()
    server.close()


async def test_silent_peer(silent: int) -> None:
    async with Job([f"rtmp://127.0.0.1:{silent}/live/k"]) as job:
        await job.until(lambda: job.info().status == FAILED)
        assert job.info().error == "no answer within 1 s while shaking hands"


async def test_stop_while_connecting(silent: int) -> None:
    async with Job([f"rtmp://127.0.0.1:{silent}/live/k"], policy=StreamPolicy()) as job:
        await job.media_s(0.2)
        begun = time.monotonic()
        await job.out.close()
        assert time.monotonic() - begun < 5
    assert job.info().status == FINISHED


async def test_a_peer_of_another_protocol() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n" * 200)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Job([f"rtmp://127.0.0.1:{port}/live/k"]) as job:
        await job.until(lambda: job.info().status == FAILED)
        assert "does not speak RTMP" in job.info().error
    server.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_rtmps_checks_the_certificate(nginx: Nginx, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", nginx.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(relay, "localhost", 0, ssl=context)
    url = f"rtmps://localhost:{server.sockets[0].getsockname()[1]}/live/tls"
    async with Job([url]) as job:
        await job.until(lambda: job.info().status == FAILED)
        assert "certificate is not trusted" in job.info().error
    async with Job([url], AddressRules(ca_file=str(certificate[0]))) as job:
        await job.media_s(2)
        assert job.info().status == ACTIVE
    assert decoded(nginx.recordings("tls")[0])["video"] > 20
    server.close()


@asynccontextmanager
async def relay_to(nginx: Nginx, carry: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """A way to nginx that does to the publisher's bytes what `carry` does."""

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    open_ends: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ends[task] = writer
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", nginx.port)
        answering = asyncio.create_task(back(inner_reader, writer))
        try:
            await carry(reader, inner_writer)
        except OSError:
            pass
        finally:
            answering.cancel()
            inner_writer.close()
            writer.close()

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(relay, sock=listening, limit=8192)
    yield f"rtmp://127.0.0.1:{listening.getsockname()[1]}/live/"
    server.close()
    for writer in open_ends.values():
        writer.transport.abort()
    await asyncio.wait(open_ends)


async def test_a_slow_peer_loses_whole_groups_of_pictures(nginx: Nginx) -> None:
    async def crawl(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await asyncio.sleep(0.04)  # 100 kB/s for 250

    def jumps() -> list[flv.Tag]:
        tags = flv.parse_file(nginx.recordings("slow")[0].read_bytes())
        frames = [tag for tag in tags if tag.kind == flv.VIDEO and tag.body[1] == 1]
        return [after for before, after in itertools.pairwise(frames) if after.time_ms - before.time_ms > 40]

    policy = StreamPolicy(queue_bytes=100_000, proof_s=0.1)
    async with relay_to(nginx, crawl) as url, Job([url + "slow"], policy=policy) as job:
        await job.until(lambda: job.out.dropped_tags > 0, limit_s=40)
        await job.until(lambda: len(jumps()) > 1, limit_s=40)
        assert (job.info().status, job.info().retries) == (ACTIVE, 0)
        assert all(tag.key_frame for tag in jumps())


async def test_a_peer_that_hangs_up_again_and_again(nginx: Nginx) -> None:
    async def briefly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(0.4):
            while data := await reader.read(65_536):
                writer.write(data)

    policy = StreamPolicy(outage_s=3, proof_s=0.2, stable_s=5, first_backoff_s=0.2, most_backoff_s=0.4)
    async with relay_to(nginx, briefly) as url, Job([url + "brief"], policy=policy) as job:
        await job.until(lambda: job.info().status == FAILED)
        assert 2 <= job.info().retries <= 15
        assert "closed the connection" in job.info().error
