"""PCM to listeners that hear, that close, that are not there, that stop reading."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from fractions import Fraction

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tertulia.egress.outputs.addresses import AddressRules
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.egress.outputs.websocket import ListenerPolicy, WebSocketOutput
from tertulia.protocol.errors import RequestError

PCM = StreamSpec("audio", "pcm_s16le", Fraction(1, 48_000))
ACTIVE, FINISHED, FAILED = 0, 1, 2


def chunk(index: int, size: int = 1920) -> EncodedPacket:
    return EncodedPacket("audio", bytes((index % 256,)) * size, index * 480, index * 480, PCM.time_base, True, 480)


@asynccontextmanager
async def listener(handle: Callable[[ServerConnection], Awaitable[None]]):
    logging.getLogger("websockets.server").disabled = True  # what listeners say of us is not our log
    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/in?token=topsecrettoken"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the other side's doing)
            await asyncio.sleep(0.005)


async def test_audio_and_mutes_arrive_in_order() -> None:
    heard: list[bytes | str] = []
    headers = {}

    async def handle(connection: ServerConnection) -> None:
        headers.update(connection.request.headers if connection.request else {})
        async for message in connection:
            heard.append(message)

    async with listener(handle) as url:
        out = WebSocketOutput(url)
        out.open([PCM], 0)
        sent: list[bytes | str] = []
        for index in range(100):
            await asyncio.to_thread(out.write, chunk(index))
            sent.append(chunk(index).data)
            if index in (30, 60):
                out.muted(index == 30)
                sent.append('{"muted":true}' if index == 30 else '{"muted":false}')
        await out.close()
        await until(lambda: len(heard) == len(sent))
    assert heard == sent
    assert headers["content-type"] == "audio/x-raw"
    [info] = out.result().streams
    assert (info.status, info.error) == (FINISHED, "")
    assert info.duration == info.ended_at - info.started_at > 0
    assert info.url.endswith("/in?token={top...ken}")


async def test_the_listener_closes() -> None:
    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1001)

    async with listener(handle) as url:
        out = WebSocketOutput(url)
        out.open([PCM], 0)
        out.write(chunk(0))
        await until(lambda: out.failed is not None)
        assert out.failed == "the other side closed the connection (1001)"
        assert out.result().streams[0].status == FAILED
        out.write(chunk(1))
        await out.close()
        assert out.result().streams[0].status == FAILED


async def test_nobody_there() -> None:
    out = WebSocketOutput("ws://127.0.0.1:9/in")
    out.open([PCM], 0)
    await until(lambda: out.failed is not None)
    assert out.failed == "connection refused"
    await out.close()


async def test_not_a_websocket() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:6379/\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    out = WebSocketOutput(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/in")
    out.open([PCM], 0)
    await until(lambda: out.failed is not None)
    assert out.failed == "the other side answered 302 instead of a WebSocket"
    await out.close()
    server.close()


async def test_silence() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    out = WebSocketOutput(
        f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/in", policy=ListenerPolicy(connect_s=0.1)
    )
    out.open([PCM], 0)
    await until(lambda: out.failed is not None)
    assert out.failed == "no answer within 0.1 s"
    await out.close()
    server.close()


async def test_a_listener_that_stops_reading() -> None:
    free = asyncio.Event()

    async def handle(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await free.wait()
        connection.transport.abort()

    async with listener(handle) as url:
        policy = ListenerPolicy(stall_s=0.2, queue_bytes=1 << 20, close_s=0.1)
        out = WebSocketOutput(url, policy=policy)
        out.open([PCM], 0)
        out.muted(True)
        for index in range(400):
            out.write(chunk(index, 1 << 16))
            await asyncio.sleep(0)
        await until(lambda: out.failed is not None)
        assert out.failed == "the other side has read nothing for 0.2 s"
        assert out.dropped_bytes > 1 << 20
        await out.close()
        free.set()


async def test_only_pcm() -> None:
    out = WebSocketOutput("ws://127.0.0.1:9/in")
    out.open([StreamSpec("audio", "opus", Fraction(1, 48_000))], 0)
    await out.close()
    assert out.failed == "WebSocket outputs carry PCM, not opus"


async def test_private_networks_can_be_refused() -> None:
    async with listener(lambda c: c.wait_closed()) as url:
        out = WebSocketOutput(url, AddressRules(allow_private=False))
        out.open([PCM], 0)
        await until(lambda: out.failed is not None)
        assert out.failed is not None
        assert "private network" in out.failed
        await out.close()


async def test_stop_before_open_and_twice() -> None:
    out = WebSocketOutput("ws://127.0.0.1:9/in")
    await out.close()
    await out.close()
    out.open([PCM], 0)
    out.write(chunk(0))
    await asyncio.sleep(0)
    assert out.result().streams[0].status == FINISHED
    aborted = WebSocketOutput("ws://127.0.0.1:9/in")
    await aborted.abort("the room is gone")
    assert aborted.failed == "the room is gone"


@pytest.mark.parametrize("url", ["http://a/b", "ws://", "file:///etc/passwd", "ws://u:p@h/", "ws://h:0/", "ws://a b/"])
async def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(RequestError, match="websocket_url"):
        WebSocketOutput(url)
