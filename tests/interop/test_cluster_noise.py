"""Noise between nodes: what was really said, said again by somebody else; rubbish in Redis' keys. Nothing of it counts,
all of it is counted."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from livekit import api
from redis import asyncio as aioredis

from tests.interop.live import LiveServer, free_port, token
from tests.interop.nodes import (
    LiveRedis,
    MakeNode,
    MakeSdk,
    a_call,
    data_crosses,
    gets,
    readyz,
    room_api,
    roster,
    rosters_agree,
    soon,
    undisturbed,
)  # fmt: skip

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def counted(node: LiveServer, kind: str) -> float:
    return sum(value for name, value in (await node.metrics()).items() if f'"{kind}"' in name)


@contextlib.asynccontextmanager
async def overheard(redis: LiveRedis) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Everything on the bus, as anybody may hear who reaches Redis."""
    said: list[tuple[str, bytes]] = []
    client = aioredis.Redis(port=redis.port)
    ear = client.pubsub()
    await ear.psubscribe("tertulia:*")

    async def listen() -> None:
        async for message in ear.listen():
            if message["type"] == "pmessage":
                said.append((message["channel"].decode(), message["data"]))

    task = asyncio.create_task(listen())
    yield said
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await ear.aclose()
    await client.aclose()


async def test_words_said_again(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Every word of a call's life again: in its channel, in others, changed, cut. Who left stays away."""
    a, b = await make_node(), await make_node()
    async with overheard(redis) as said:
        ann, bob, ben = await a_call(make_sdk, ann=a, bob=b, ben=b)
        await data_crosses(bob, ann, 7)
        await ben.do("leave")
        await ann.until(lambda s: s["remote"] == ["bob"])
        words = [(channel, data) for channel, data in said if ":node" in channel]
    assert len(words) > 10  # those of one moment share a message
    channels = sorted({channel for channel, _ in words})
    await ann.do("reset")
    client = aioredis.Redis(port=redis.port)
    for channel, data in words:
        await client.publish(channel, data)
        for other in channels:
            if other != channel:
                await client.publish(other, data)
        for spoilt in (data[:-1], data[:20], bytes([data[0] ^ 1]) + data[1:], data[:-1] + bytes([data[-1] ^ 1]), b""):
            await client.publish(channel, spoilt)
    await client.aclose()

    async def all_counted() -> bool:
        repeated = [await counted(node, "bus_repeated") for node in (a, b)]
        forged = [await counted(node, "bus_forged") for node in (a, b)]
        return sum(repeated) >= len(words) and sum(forged) >= 6 * len(words)

    await soon(all_counted, 10)
    await data_crosses(ann, bob, 9)
    state = await ann.do("state")
    assert state["data"] == [], "nothing was heard twice"
    assert state["remote"] == ["bob"]
    assert await rosters_agree(a, b, names="ann bob")


def captured(ear: socket.socket, from_port: int, to_port: int) -> bytes | None:
    """The payload of the next frame on loopback if it is a datagram between these ports."""
    frame = ear.recv(65_536)
    ip = frame[14:]
    if len(ip) < 28 or ip[0] != 0x45 or ip[9] != socket.IPPROTO_UDP:
        return None
    return ip[28:] if struct.unpack_from("!HH", ip, 20) == (from_port, to_port) else None


def as_if_from(port: int, to_port: int, payload: bytes) -> bytes:
    """An IP packet between ports of 127.0.0.1; the kernel fills in what it likes to."""
    host = socket.inet_aton("127.0.0.1")
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0, host, host)
    return ip + struct.pack("!HHHH", port, to_port, 8 + len(payload), 0) + payload


@pytest.mark.skipif(os.geteuid() != 0, reason="hearing and forging datagrams needs root")
async def test_media_sent_again(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Datagrams of a link again: from elsewhere, as if from the other node, changed, and as if from the other side."""
    from_port, to_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    a, b = await make_node(relay_port=from_port), await make_node(relay_port=to_port)
    ann, bob = await a_call(make_sdk, ann=a, bob=b)
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    ear.bind(("lo", 0))
    ear.settimeout(1)

    def listen() -> list[bytes]:
        found: list[bytes] = []
        while len(found) < 100:
            if payload := captured(ear, from_port, to_port):
                found.append(payload)
        return found

    async with asyncio.timeout(20):
        media = await asyncio.to_thread(listen)
    ear.close()
    before = {
        kind: await counted(b, kind) for kind in ("plane_replay", "plane_authentication", "plane_unknown_address")
    }
    mirrored = await counted(a, "plane_authentication")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as forger,
    ):
        for payload in media:
            stranger.sendto(payload, ("127.0.0.1", to_port))
            forger.sendto(as_if_from(from_port, to_port, payload), ("127.0.0.1", 0))
            changed = payload[:-1] + bytes([payload[-1] ^ 1])
            forger.sendto(as_if_from(from_port, to_port, changed), ("127.0.0.1", 0))
            forger.sendto(as_if_from(to_port, from_port, payload), ("127.0.0.1", 0))

    async def all_counted() -> bool:
        now = {kind: await counted(b, kind) - count for kind, count in before.items()}
        return (
            now["plane_unknown_address"] >= len(media)
            and now["plane_replay"] + now["plane_authentication"] >= 2 * len(media)
            and await counted(a, "plane_authentication") - mirrored >= len(media)
        )

    await soon(all_counted, 10)
    for client in (ann, bob):
        await client.do("reset")
    await bob.until(gets("ann"), 10)
    await ann.until(gets("bob"), 10)
    await undisturbed([ann, bob])


async def test_rubbish_in_redis(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """In every key a cluster has, in names and values: skipped, counted, and mended where it is ours."""
    a, b = await make_node(), await make_node()
    ann, bob = await a_call(make_sdk, ann=a, bob=b)
    client: Any = aioredis.Redis(port=redis.port)
    (room_key,) = await client.keys("tertulia:*:room:{demo}")
    space = room_key.decode().rsplit(":room:", 1)[0]
    rubbish = os.urandom(5000)
    await client.sadd(f"{space}:nodes", rubbish, b"", b"ND_nobody")
    await client.set(f"{space}:node:ND_nobody", rubbish)
    await client.set(f"{space}:node:ND_odd", msgspec.msgpack.encode({"id": 7, "epoch": "x"}))
    await client.sadd(f"{space}:nodes", "ND_odd", "ND_huge")
    await client.set(f"{space}:node:ND_huge", bytes(100_000_000))
    await client.sadd(f"{space}:rooms", rubbish, b"", b"empty")
    await client.hset(f"{space}:room:{{empty}}", mapping={"record": rubbish, "version": "x", "sid": b"\xff"})
    claims = {"eve": rubbish, b"\xff\xfe": "PA_x ND_x 1 1", "mal": "1 2 3"}
    await client.hset(f"{space}:claims:{{demo}}", mapping=claims)
    await client.hset(room_key, "record", rubbish)
    await soon(lambda: is_mended(client, room_key, rubbish), 20)
    await soon(lambda: readyz("ready", a, b), 10)
    cyd = await make_sdk()
    await cyd.do("connect", url=b.url, token=token("demo", "cyd"))
    await cyd.until(lambda s: gets("ann")(s) and gets("bob")(s), 20)
    assert sorted(await roster(a)) == ["ann", "bob", "cyd"]
    async with room_api(a) as one, room_api(b) as two:
        for lk in (one, two):
            assert [room.name for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms] == ["demo"]
        made = [await lk.room.create_room(api.CreateRoomRequest(name="empty")) for lk in (one, two)]
        assert made[0].sid == made[1].sid
    assert await counted(a, "store_garbage") > 0
    await client.aclose()
    await undisturbed([ann, bob])


async def is_mended(client: Any, key: bytes, rubbish: bytes) -> bool:
    held = await client.hget(key, "record")
    return held is not None and held != rubbish
