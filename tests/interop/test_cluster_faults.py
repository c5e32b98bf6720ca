"""What breaks around a cluster, with real processes: Redis in all its moods, a node that stops for a while, clocks,
noise. Calls go on, nobody is lost, nobody is there twice, and all is well again without anybody's help."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from livekit import api
from redis import asyncio as aioredis

from tests.interop.live import LiveServer, token
from tests.interop.nodes import LiveRedis, MakeNode, MakeSdk, gets, readyz, room_api, roster, soon
from tests.interop.sdk import SdkClient

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def a_call(make_sdk: MakeSdk, **where: LiveServer) -> list[SdkClient]:
    """One publishing client for each name, on its node; all see all, counters begin anew."""
    clients = [await make_sdk() for _ in where]
    for client, (name, node) in zip(clients, where.items(), strict=True):
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    for client, me in zip(clients, where, strict=True):
        others = [name for name in where if name != me]
        await client.until(lambda s, others=others: all(gets(name)(s) for name in others), 20)
        await client.do("reset")
    return clients


async def undisturbed(clients: list[SdkClient], gap_s: float = 1.0) -> None:
    """Everybody's pictures came all the time, and nobody was seen leaving."""
    for client in clients:
        state = await client.do("state")
        assert not any(event[0] in ("participant_disconnected", "reconnecting") for event in state["events"]), state
        for name, media in state["media"].items():
            assert media["frames"] > 0, (name, media)
            assert media["max_gap_s"] < gap_s, (name, media)


async def data_crosses(sender: SdkClient, hearer: SdkClient, size: int) -> None:
    await sender.do("send", size=size, reliable=True, topic="t")
    await hearer.until(lambda s: size in [d["size"] for d in s["data"]], 10)


async def rosters_agree(*nodes: LiveServer, names: str) -> bool:
    """Every node lists exactly these people, each with the same sid."""
    lists = [await roster(node) for node in nodes]
    return sorted(lists[0]) == names.split() and all(one == lists[0] for one in lists)


async def outcome(call: Any, within_s: float) -> str:
    """`ok` or the error's code; TimeoutError if there is no answer."""
    async with asyncio.timeout(within_s):
        try:
            await call
        except api.TwirpError as error:
            return error.code
        return "ok"


async def test_redis_pauses(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """It holds every answer back for 5 s: what needs it says so in time, all else goes on."""
    a, b = await make_node(), await make_node()
    ann, bob = await a_call(make_sdk, ann=a, bob=b)
    client = aioredis.Redis(port=redis.port)
    await client.client_pause(5_000)
    async with room_api(a) as lk:
        assert await outcome(lk.room.list_participants(api.ListParticipantsRequest(room="demo")), 2) == "ok"
        answers = await asyncio.gather(
            outcome(lk.room.create_room(api.CreateRoomRequest(name="other")), 8),
            outcome(lk.room.list_rooms(api.ListRoomsRequest()), 8),
            outcome(lk.room.update_room_metadata(api.UpdateRoomMetadataRequest(room="demo", metadata="m")), 8),
            outcome(lk.room.list_participants(api.ListParticipantsRequest(room="nowhere")), 8),
        )
    assert set(answers) == {"unavailable"}, answers
    await soon(lambda: readyz("ready", a, b), 15)
    await client.aclose()
    for node in (a, b):
        async with room_api(node) as lk:
            assert await outcome(lk.room.create_room(api.CreateRoomRequest(name="other")), 8) == "ok"
    await data_crosses(ann, bob, 7)
    assert await rosters_agree(a, b, names="ann bob")
    await undisturbed([ann, bob])
