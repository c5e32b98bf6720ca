"""Bad input at the front door over raw sockets: refused, counted, and the person next door does not notice."""

import asyncio
import base64
import logging
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import uvloop
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import rtc

from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.signal.counts import Drop
from tertulia.signal.settings import DoorSettings

from .house import KEY, SECRET, Street, open_street

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
TIGHT = DoorSettings(
    keep_alive_s=1,
    header_timeout_s=1.0,
    body_timeout_s=1.0,
    message_timeout_s=1.0,
    linger_s=0.2,
    message_bytes=100_000,
    message_fragments=50,
)


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop of production; the other tests run on asyncio's own."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    """A door with short deadlines, and a person inside who must not notice anything."""
    async with open_street(TIGHT) as running:
        async with websockets.connect(f"{running.ws}/rtc?access_token={TOKEN}", compression=None) as bystander:
            await bystander.recv(), await bystander.recv()
            yield running
            await bystander.send(rtc.SignalRequest(ping=1).SerializeToString())
            answer = rtc.SignalResponse.FromString(await asyncio.wait_for(bystander.recv(), 5))  # type: ignore[arg-type]
            assert answer.HasField("pong")
        async with aiohttp.ClientSession(running.http) as http, http.get("/healthz") as answer:
            assert answer.status == 200


TOKEN = build_token(
    Claims(api_key=KEY, identity="ada", video=VideoGrant(room_join=True, room="tea", room_list=True)),
    SECRET,
    now_s=int(time.time()),
    lifetime_s=3600,
)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds (at most 10 s)."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def exchange(street: Street, *pieces: bytes, end: bool = False) -> bytes:
    """Write, then read until the server closes (at most 10 s)."""
    reader, writer = await asyncio.open_connection(street.host, street.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


# ----------------------------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A", b"\r\n\r\n\r\n"])
async def test_half_a_header(street: Street, start: bytes) -> None:
    answer = await exchange(street, start)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"access-control-allow-origin: *" in answer
    assert street.front.counts[Drop.HEADER_TIMEOUT] == 1


async def test_half_a_header_after_a_request(street: Street) -> None:
    reader, writer = await asyncio.open_connection(street.host, street.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200")
    writer.write(b"\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408")
    writer.close()
    assert street.front.counts[Drop.HEADER_TIMEOUT] == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 4_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 600_000,
    ],
    ids=["url", "one header", "many headers", "endless"],
)
async def test_header_floods(street: Street, request_bytes: bytes) -> None:
    answer = await exchange(street, request_bytes)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 431")
    assert street.front.counts[Drop.HEADER_BYTES] == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_broken_http(street: Street, request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = await exchange(street, request_bytes, end=True)
    assert answer == b"reset" or answer.split()[1] in (b"400", b"404", b"405")
    assert not [record for record in caplog.records if record.exc_info]


async def test_body_that_stops(street: Street) -> None:
    header = (
        b"POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    )
    answer = await exchange(street, header, b'{"names":')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"malformed" in answer
    assert street.front.counts[Drop.BODY_TIMEOUT] == 1


async def test_endless_chunked_body(street: Street) -> None:
    head = (
        b"POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    )
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    answer = await exchange(street, head, *[chunk] * 400)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 413")
    assert street.front.counts[Drop.BODY_BYTES] == 1


async def test_body_of_a_request_that_was_answered_unread(street: Street) -> None:
    """The refusal is sent at once; the rest of the body is discarded, within bounds."""
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    after = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await exchange(street, head % 1_000_000, *[bytes(100_000)] * 10, after)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"HTTP/1.1 200" in answer
    answer = await exchange(street, head % 50_000_000, *[bytes(1_000_000)] * 50)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 404")
    assert street.front.counts[Drop.BODY_BYTES] == 1
    answer = await exchange(street, head % 1_000_000, bytes(10))
    assert answer.startswith(b"HTTP/1.1 404")


async def test_connections_that_wait_and_new_ones_per_second() -> None:
    async with open_street(DoorSettings(waiting_connections=3)) as street:
        waiting = [await asyncio.open_connection(street.host, street.port) for _ in range(3)]
        assert (await exchange(street)).startswith(b"HTTP/1.1 429")
        for _, writer in waiting:
            writer.close()
        assert street.front.counts[Drop.CONNECTIONS_WAITING] == 1
    async with open_street(DoorSettings(connections_per_s=0.001, connections_burst=2)) as street:
        answers = [await exchange(street, b"GET / HTTP/1.0\r\n\r\n") for _ in range(3)]
        assert [answer.split()[1] for answer in answers] == [b"200", b"200", b"429"]
        assert street.front.counts[Drop.CONNECTION_RATE] == 1


# ------------------------------------------------------------------------------------------ WebSocket


def handshake(extra: bytes = b"", method: bytes = b"GET", version: bytes = b"13") -> bytes:
    return (
        method + b" /rtc?access_token=" + TOKEN.encode() + b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: " + version + b"\r\n"
        b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n" + extra + b"\r\n"
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    first = (fin << 7) | (reserved << 4) | opcode
    mask = bytes(4) if masked else b""
    bit = masked << 7
    if len(payload) < 126:
        return bytes([first, bit | len(payload)]) + mask + payload
    if len(payload) < 65536:
        return bytes([first, bit | 126]) + struct.pack("!H", len(payload)) + mask + payload
    return bytes([first, bit | 127]) + struct.pack("!Q", len(payload)) + mask + payload


def close_code(answer: bytes) -> int | None:
    """The code of the close frame that ends what the server wrote."""
    body = answer.partition(b"\r\n\r\n")[2]
    while body:
        length, offset = body[1], 2
        if length == 126:
            length, offset = struct.unpack("!H", body[2:4])[0], 4
        payload = body[offset : offset + length]
        if body[0] & 0x0F == 8:
            return int(struct.unpack("!H", payload[:2])[0])
        body = body[offset + length :]
    return None


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (handshake(version=b"8"), b"400"),
        (handshake(method=b"POST"), b"400"),
        (handshake(b"Sec-WebSocket-Extensions: " + b"x" * 20_000 + b"\r\n"), b"431"),
        (handshake(b"Sec-WebSocket-Key: again\r\n"), b"400"),
        (handshake().replace(b"Sec-WebSocket-Key", b"X-Other"), b"400"),
        (handshake().replace(b"/rtc?", b"/rtc\xe4?"), b"400"),
        (handshake().replace(b"Upgrade: websocket", b"Upgrade: h2c"), b"404"),
    ],
)
async def test_broken_handshakes(street: Street, request_bytes: bytes, status: bytes) -> None:
    answer = await exchange(street, request_bytes, end=True)
    assert answer.split()[1] == status


CASES: dict[str, tuple[list[bytes], int, Drop]] = {
    "message above the limit": ([frame(2, bytes(100_001))], 1009, Drop.BAD_FRAME),
    "announced above the limit": ([b"\x82\xff" + struct.pack("!Q", 1 << 62)], 1009, Drop.BAD_FRAME),
    "fragments above the limit": ([frame(2, bytes(60_000), fin=False), frame(0, bytes(60_000))], 1009, Drop.BAD_FRAME),
    "empty fragments": ([frame(2, fin=False), *[frame(0, fin=False)] * 20_000], 1008, Drop.FRAGMENTS),
    "unfinished message": ([frame(2, bytes(50_000), fin=False)], 1008, Drop.MESSAGE_TIMEOUT),
    "invalid UTF-8": ([frame(1, b"\xff\xfe")], 1007, Drop.BAD_FRAME),
    "unmasked": ([frame(2, b"x", masked=False)], 1002, Drop.BAD_FRAME),
    "reserved opcode": ([frame(11)], 1002, Drop.BAD_FRAME),
    "reserved bits": ([frame(2, b"x", reserved=4)], 1002, Drop.BAD_FRAME),
    "close code 1005": ([frame(8, struct.pack("!H", 1005))], 1002, Drop.BAD_FRAME),
    "fragmented ping": ([frame(9, fin=False)], 1002, Drop.BAD_FRAME),
    "continuation of nothing": ([frame(0, b"x")], 1002, Drop.BAD_FRAME),
    "ping flood": ([frame(9, bytes(100)) * 20_000], 1008, Drop.CONTROL_FRAMES),
    "text flood": ([frame(1, b"x") * 5_000], 1007, Drop.GARBAGE),
}


@pytest.mark.parametrize("case", CASES)
async def test_broken_frames(street: Street, case: str, caplog: pytest.LogCaptureFixture) -> None:
    frames, code, drop = CASES[case]
    reader, writer = await asyncio.open_connection(street.host, street.port)
    writer.write(handshake())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 101")
    answer = b""
    try:
        writer.writelines(frames)
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        assert "flood" in case, "a short answer must arrive"
    writer.close()
    if answer:
        assert close_code(head + answer) == code
    assert street.front.counts[drop] >= 1
    assert await street.gone() in ("connection_lost", "garbage")
    assert not [record for record in caplog.records if record.exc_info], "no traceback for bad input"


async def test_frames_before_the_upgrade(street: Street, caplog: pytest.LogCaptureFixture) -> None:
    await exchange(street, handshake() + frame(2, b"x", masked=False) * 10, end=True)
    assert not [record for record in caplog.records if record.exc_info]


async def test_client_that_does_not_read(street: Street) -> None:
    _, writer = await asyncio.open_connection(street.host, street.port, limit=1)
    writer.write(handshake())
    await until(lambda: len(street.house.outlets) == 2)
    outlet = max(street.house.outlets.items())[1]
    big = rtc.SignalResponse(refresh_token="x" * 100_000)
    for _ in range(200):
        outlet.send(big)
        await asyncio.sleep(0)
    assert await street.gone() == "outbound_full"
    assert street.front.counts[Drop.OUTBOUND_FULL] == 1
    outlet.send(big)
    await until(lambda: len(street.front.door.sessions) == 1)
    writer.close()


async def test_garbage_in_every_shape(street: Street) -> None:
    """Whatever bytes a client sends as messages, the answer is a count, a close or silence, never a traceback."""
    connection: dict[str, Any] = {}

    async def deliver(message: bytes | str) -> None:
        if "ws" not in connection:
            url = f"{street.ws}/rtc?access_token={TOKEN}"
            connection["ws"] = await websockets.connect(url, compression=None)
        try:
            await connection["ws"].send(message)
        except websockets.ConnectionClosed:
            del connection["ws"]

    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=300), st.text(max_size=300), st.sampled_from(MUTANTS)))
    def throw(message: bytes | str) -> None:
        asyncio.run_coroutine_threadsafe(deliver(message), loop).result(10)

    await asyncio.to_thread(throw)
    if "ws" in connection:
        await connection["ws"].close()
    assert not [m for _, m in street.house.requests if m.WhichOneof("message") in ("ping", "ping_req")]


_VALID = rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp="v=0\r\n" * 20, id=3)).SerializeToString()
MUTANTS: list[bytes | str] = [
    *[_VALID[:cut] for cut in range(1, len(_VALID), 7)],
    *[bytes([_VALID[0] ^ bit]) + _VALID[1:] for bit in (1, 2, 4, 8, 128)],
    b"\x0a\x02" * 100,
    b"".join(struct.pack("BB", 0xF8, 0x7F) + b"\x01" for _ in range(3_000)),
    '{"offer": {"sdp": 3}}',
    '{"offer": []}',
    '{"ping": "x"}',
    "[" * 5_000,
    '{"a":' * 3_000,
    "null",
    '"text"',
    '{"leave": null}',
    '{"trickle": {"target": "NOWHERE"}}',
]


async def test_no_token_in_any_log(
    street: Street, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with websockets.connect(f"{street.ws}/rtc?access_token={TOKEN}", logger=logging.getLogger("client")) as ws:
        await ws.recv()
        await ws.send(rtc.SignalRequest(simulate=rtc.SimulateScenario(speaker_update=1)).SerializeToString())
        await asyncio.wait_for(ws.wait_closed(), 5)
    async with aiohttp.ClientSession(street.http) as http, http.get(f"/nothing?access_token={TOKEN}"):
        pass
    written = "".join(capfd.readouterr())
    assert "request_failed" in written, "there is something to look at"
    assert TOKEN not in written
    assert TOKEN.split(".")[1] not in written
    ours = [record.getMessage() for record in caplog.records if record.name != "client"]
    assert not [line for line in ours if TOKEN in line or TOKEN.split(".")[1] in line]


async def test_nothing_is_left_behind(street: Street) -> None:
    async with open_street() as fresh:
        files_before = len(os.listdir("/proc/self/fd"))
        tasks_before = len(asyncio.all_tasks())
        for number in range(60):
            async with websockets.connect(f"{fresh.ws}/rtc?access_token={TOKEN}") as ws:
                await ws.recv()
                if number % 3 == 0:
                    ws.transport.abort()
                elif number % 3 == 1:
                    await ws.send(rtc.SignalRequest(leave=rtc.LeaveRequest()).SerializeToString())
        await until(lambda: not fresh.front.door.sessions)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= files_before)
        await until(lambda: len(asyncio.all_tasks()) <= tasks_before)
        assert not fresh.front.door.sessions
        assert not fresh.house.outlets
