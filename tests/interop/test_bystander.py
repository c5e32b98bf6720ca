"""Attacks on one server while two people talk in another room: they must not notice, and every refusal has a name.

All traffic stays on loopback and is bounded in count and time.
"""

import asyncio
import base64
import contextlib
import gzip
import random
import socket
import struct
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import jwt
import pytest
from livekit.protocol import rtc
from websockets.asyncio.client import ClientConnection, connect

from tests.interop.live import KEY, SECRET, LiveServer, token
from tests.interop.sdk import SdkClient

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

LONGEST_GAP_S = 1.0
HEALTH_S = 1.0
"""Far above the 100 ms we aim at: machines of tests are noisy."""


class Bystanders:
    """Two people in a room of their own, and what they would notice."""

    def __init__(self, server: LiveServer, speaker: SdkClient, listener: SdkClient) -> None:
        self.server, self.speaker, self.listener = server, speaker, listener
        self.drops: dict[str, float] = {}

    async def begin(self) -> None:
        await self.speaker.do("connect", url=self.server.url, token=token("quiet", "speaker"))
        await self.listener.do("connect", url=self.server.url, token=token("quiet", "listener"))
        await self.speaker.do("publish_video", width=320, height=180, simulcast=False)
        await self.speaker.do("publish_audio")
        await self.listener.until(lambda s: s["media"].get("speaker/video", {}).get("frames", 0) > 10)

    async def watch(self) -> None:
        self.drops = await self._drops()
        await self.listener.do("reset")

    async def _drops(self) -> dict[str, float]:
        metrics = await self.server.metrics()
        return {name: value for name, value in metrics.items() if "_total" in name and "kind=" in name}

    async def unharmed(self, *names: str) -> None:
        """Media never stopped, nobody left, the server answers, and one of these counters rose."""
        await asyncio.sleep(1.0)
        asked = time.monotonic()
        assert (await self.server.get("/healthz")).strip()
        assert time.monotonic() - asked < HEALTH_S
        state = await self.listener.do("state")
        assert state["media"]["speaker/video"]["frames"] > 5
        assert state["media"]["speaker/video"]["max_gap_s"] < LONGEST_GAP_S
        assert state["media"]["speaker/audio"]["max_gap_s"] < LONGEST_GAP_S
        assert not [event for event in state["events"] if event[0] in ("reconnecting", "disconnected")]
        after = await self._drops()
        grown = {name for name, value in after.items() if value > self.drops.get(name, 0)}
        assert any(wanted in name for wanted in names for name in grown), f"none of {names} rose; what did: {grown}"
        assert "Traceback" not in self.server.log(), self.server.log()[-4000:]


@pytest.fixture
async def bystanders(
    server: LiveServer, make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]]
) -> AsyncIterator[Bystanders]:
    people = Bystanders(server, await make_sdk(), await make_sdk())
    await people.begin()
    await people.watch()
    return people


def garbage(rng: random.Random) -> bytes:
    """Bytes that begin like STUN, DTLS, RTP, RTCP or nothing known, of any length."""
    first = rng.choice([0, 1, 20, 22, 23, 63, 64, 128, 144, 191, 200, 255, rng.randrange(256)])
    size = rng.choice([0, 1, 4, 11, 12, 13, 20, 28, rng.randrange(1500), 1472, 9000])
    body = bytes([first]) + rng.randbytes(size)
    if first < 2 and size > 20:  # a plausible STUN header
        body = struct.pack("!HHI", 1, rng.choice([size - 19, 0, 65535]), 0x2112A442) + body[8:]
    return body


async def test_garbage_on_the_media_port(server: LiveServer, bystanders: Bystanders) -> None:
    rng = random.Random(1)
    for _ in range(20):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for _ in range(200):
                attacker.sendto(garbage(rng), ("127.0.0.1", server.udp_port))
        await asyncio.sleep(0.05)
    await bystanders.unharmed("unknown_address", "stun", "check", "malformed")


async def test_garbage_on_ice_tcp(server: LiveServer, bystanders: Bystanders) -> None:
    rng = random.Random(2)
    writers = []
    for number in range(60):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
            writers.append(writer)
            if number % 3 == 0:
                writer.write(b"\xff\xff")
            elif number % 3 == 1:
                data = garbage(rng)[:65535]
                writer.write(struct.pack("!H", len(data)) + data)
            else:
                writer.write(rng.randbytes(3000))
    await asyncio.sleep(1)
    for writer in writers:
        writer.close()
    await bystanders.unharmed("tcp")


def tokens_of_every_wrong_kind() -> dict[str, str]:
    def signed(payload: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jwt.encode(payload, secret, algorithm=algorithm)

    good = {"iss": KEY, "sub": "eve", "nbf": 0, "exp": int(time.time()) + 600, "video": {"roomJoin": True, "room": "x"}}
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return {
        "alg none": header + "." + signed(good).split(".")[1] + ".",
        "other hash": signed(good, algorithm="HS512"),
        "wrong secret": signed(good, "x" * 40),
        "unknown key": signed({**good, "iss": "nobody"}),
        "no expiry": signed({name: value for name, value in good.items() if name != "exp"}),
        "expired": signed({**good, "exp": int(time.time()) - 600}),
        "not yet": signed({**good, "nbf": int(time.time()) + 7200}),
        "for ever": signed({**good, "exp": 10**300}),
        "no grant": signed({name: value for name, value in good.items() if name != "video"}),
        "no join": signed({**good, "video": {"room": "x"}}),
        "garbage": "a.b.c",
        "long": "a" * 30_000,
    }


@pytest.mark.parametrize("kind", tokens_of_every_wrong_kind())
async def test_wrong_tokens_are_refused_in_words(server: LiveServer, kind: str) -> None:
    text = tokens_of_every_wrong_kind()[kind]

    def ask() -> tuple[int, str]:
        request = urllib.request.Request(
            f"{server.http}/rtc/v1/validate?join_request=x", headers={"Authorization": f"Bearer {text}"}
        )
        try:
            return 200, urllib.request.urlopen(request, timeout=5).read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    status, words = await asyncio.to_thread(ask)
    assert status in (400, 401, 431), (status, words)
    assert len(words) > 10
    assert SECRET not in words
    assert text[:200] not in words
    assert SECRET not in server.log()


def join_request(offer: str) -> str:
    request = rtc.JoinRequest(publisher_offer=rtc.SessionDescription(type="offer", sdp=offer, id=1))
    request.connection_settings.auto_subscribe = True
    wrapped = rtc.WrappedJoinRequest(
        compression=rtc.WrappedJoinRequest.GZIP, join_request=gzip.compress(request.SerializeToString())
    )
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()


@contextlib.asynccontextmanager
async def intruder(server: LiveServer, name: str, offer: str = "") -> AsyncIterator[ClientConnection]:
    """A member of another room with a valid token and bad manners."""
    url = f"{server.url}/rtc/v1?join_request={join_request(offer)}"
    headers = {"Authorization": f"Bearer {token('rowdy', name)}"}
    async with connect(url, additional_headers=headers, max_size=None, compression=None) as socket_:
        first = rtc.SignalResponse.FromString(await asyncio.wait_for(socket_.recv(), 5))  # type: ignore[arg-type]
        assert first.HasField("join")
        yield socket_


def absurd_offers() -> dict[str, str]:
    section = (
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=rtpmap:96 VP8/90000\r\na=sendonly\r\n"
    )
    head = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\na=setup:actpass\r\n"
    )
    return {
        "5000 sections": head + "".join(section.format(number) for number in range(5000)),
        "one long line": head + "a=x:" + "y" * 1_500_000 + "\r\n",
        "payload type 200": head + section.format(0).replace("96", "200"),
        "same mid twice": head + section.format(0) * 2,
        "extension id 0": head + section.format(0) + "a=extmap:0 urn:x\r\n",
        "no fingerprint": "v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\n" + section.format(0),
        "carriage returns only": (head + section.format(0)).replace("\r\n", "\r"),
        "nothing": "\x00" * 1000,
    }


async def test_absurd_offers(server: LiveServer, bystanders: Bystanders) -> None:
    for number, (what, sdp) in enumerate(absurd_offers().items()):
        async with intruder(server, f"sdp{number}") as socket_:
            offer = rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=7))
            await socket_.send(offer.SerializeToString())
            said = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while not said:
                        message = rtc.SignalResponse.FromString(await socket_.recv())  # type: ignore[arg-type]
                        said = message.WhichOneof("message") in ("request_response", "leave")
            assert said, f"no word about an offer with {what}"
    await bystanders.unharmed("offer", "sdp", "negotiation")


async def test_garbage_and_floods_in_a_session(server: LiveServer, bystanders: Bystanders) -> None:
    rng = random.Random(3)
    for number in range(5):
        async with intruder(server, f"flood{number}") as socket_:
            with contextlib.suppress(Exception):  # being thrown out is one right answer
                for index in range(2000):
                    if number == 0:
                        await socket_.send(rng.randbytes(rng.randrange(1, 400)))
                    elif number == 1:
                        track = rtc.AddTrackRequest(cid=f"c{index}", type=1, width=65535, height=65535)
                        await socket_.send(rtc.SignalRequest(add_track=track).SerializeToString())
                    elif number == 2:
                        wish = rtc.UpdateSubscription(track_sids=[f"TR_{i}" for i in range(200)], subscribe=True)
                        await socket_.send(rtc.SignalRequest(subscription=wish).SerializeToString())
                    elif number == 3:
                        change = rtc.UpdateParticipantMetadata(metadata="m" * 1000, request_id=index)
                        await socket_.send(rtc.SignalRequest(update_metadata=change).SerializeToString())
                    else:
                        answer = rtc.SessionDescription(type="answer", sdp="x", id=index)
                        await socket_.send(rtc.SignalRequest(answer=answer).SerializeToString())
    await bystanders.unharmed("garbage", "rate", "limit", "throttled", "unexpected")


async def test_doors_rattled(server: LiveServer, bystanders: Bystanders) -> None:
    """Half headers, floods of headers, bombs in the join request, upgrades without end."""
    host, port = "127.0.0.1", server.port
    held = []
    for _ in range(50):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
        held.append(writer)
    reader, writer = await asyncio.open_connection(host, port)
    with contextlib.suppress(OSError):
        writer.write(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 500) for n in range(2000)))
        await asyncio.wait_for(writer.drain(), 5)
        await asyncio.wait_for(reader.read(100), 5)
    bomb = rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.GZIP, join_request=gzip.compress(bytes(50 << 20)))
    encoded = base64.urlsafe_b64encode(bomb.SerializeToString()).decode()

    def throw() -> int:
        request = urllib.request.Request(
            f"{server.http}/rtc/v1/validate?join_request={encoded[:60_000]}",
            headers={"Authorization": f"Bearer {token('rowdy', 'bomb')}"},
        )
        try:
            return int(urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as error:
            return int(error.code)

    assert await asyncio.to_thread(throw) in (400, 414, 431)
    for writer in held:
        writer.close()
    await bystanders.unharmed("header", "bad_request", "refused")


async def test_no_secret_in_the_log(server: LiveServer, make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]]) -> None:
    client = await make_sdk()
    good = token("quiet", "alice")
    await client.do("connect", url=server.url, token=good)
    await client.do("leave")
    text = server.log()
    assert good not in text
    assert SECRET not in text
