"""What breaks around a cluster, with real processes: Redis in all its moods, a node that stops for a while, clocks,
noise. Calls go on, nobody is lost, nobody is there twice, and all is well again without anybody's help."""

import asyncio
import os
import re
import shutil
import signal
import time
from pathlib import Path

import jwt
import pytest
from livekit import api
from redis import asyncio as aioredis

from tests.interop.live import KEY, SECRET, free_port, token
from tests.interop.nodes import (
    Balancer,
    LiveRedis,
    MakeNode,
    MakeSdk,
    a_call,
    data_crosses,
    gets,
    outcome,
    readyz,
    room_api,
    roster,
    rosters_agree,
    soon,
    undisturbed,
)  # fmt: skip

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


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


async def test_redis_is_full(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """It refuses to write (maxmemory): leases run out, nobody is declared gone, people come, their claims follow."""
    a, b = await make_node(), await make_node()
    ann, bob = await a_call(make_sdk, ann=a, bob=b)
    client = aioredis.Redis(port=redis.port)
    await client.config_set("maxmemory", 1)
    await soon(lambda: readyz("out of memory", a, b), 10)
    cyd = await make_sdk()
    await cyd.do("connect", url=a.url, token=token("demo", "cyd"))
    await cyd.until(lambda s: gets("ann")(s) and gets("bob")(s), 20)
    await bob.until(lambda s: s["remote"] == ["ann", "cyd"], 10)
    async with room_api(b) as lk:
        assert await outcome(lk.room.create_room(api.CreateRoomRequest(name="other")), 8) == "unavailable"
        assert await outcome(lk.room.list_rooms(api.ListRoomsRequest()), 8) == "ok"

    async def leases_ran_out() -> bool:
        return not await client.keys("tertulia:*:node:*")

    await soon(leases_ran_out, 10)
    await client.config_set("maxmemory", 0)
    await soon(lambda: readyz("ready", a, b), 10)

    async def claims_are_back() -> bool:
        (key,) = await client.keys("tertulia:*:claims:{demo}")
        return sorted(await client.hkeys(key)) == [b"ann", b"bob", b"cyd"]

    await soon(claims_are_back, 15)
    await client.aclose()
    await data_crosses(bob, cyd, 7)
    assert await rosters_agree(a, b, names="ann bob cyd")
    await undisturbed([ann, bob])


async def test_a_wrong_password_is_named(make_node: MakeNode, redis: LiveRedis) -> None:
    client = aioredis.Redis(port=redis.port)
    await client.config_set("requirepass", "a-password-of-redis")
    node = await make_node(redis_keys=f"address: 127.0.0.1:{redis.port}\n  password: wrong-password-here")
    assert "Redis refuses the user name or the password" in await node.get("/readyz")
    assert "wrong-password-here" not in node.log()
    await client.config_set("requirepass", "wrong-password-here")
    await soon(lambda: readyz("ready", node), 10)
    await client.aclose()


async def test_a_replica_is_named(make_node: MakeNode, redis: LiveRedis) -> None:
    """It reads and hears and does not write, as after a failover that nobody told us of."""
    client = aioredis.Redis(port=redis.port)
    node = await make_node()
    await soon(lambda: readyz("ready", node), 10)
    await client.replicaof("127.0.0.1", str(free_port()))
    await soon(lambda: readyz("Redis is a replica and refuses to write", node), 10)
    await client.replicaof("NO", "ONE")
    await soon(lambda: readyz("ready", node), 10)
    await client.aclose()


async def test_nodes_start_before_redis(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """They say so, refuse newcomers with a reason, and find one another when it comes."""
    await redis.stop()
    a, b = await make_node(), await make_node()
    assert "Redis is not reachable" in await a.get("/readyz")
    ann = await make_sdk()
    with pytest.raises(RuntimeError, match=r"503|not reachable"):
        await ann.do("connect", url=a.url, token=token("demo", "ann"))
    await redis.start()
    await soon(lambda: readyz("ready", a, b), 10)
    await a_call(make_sdk, bob=a, cyd=b)
    assert await rosters_agree(a, b, names="bob cyd")


@pytest.mark.long
@pytest.mark.parametrize("elsewhere", [False, True], ids=["its people wait", "its people went to another node"])
async def test_a_node_stands_still_for_20_s(make_node: MakeNode, make_sdk: MakeSdk, elsewhere: bool) -> None:
    """The others go on without it; when it goes on it finds its lease lost, and there is one of everybody."""
    a, b = await make_node(), await make_node()
    async with Balancer(b.port, a.port) as front:
        ann, ben = await a_call(make_sdk, ann=a, ben=a)
        bob = await make_sdk()
        await bob.do("connect", url=front.url, token=token("demo", "bob"))
        await bob.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        await ann.until(gets("bob"), 20)
        os.kill(b.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        await ann.until(lambda s: s["remote"] == ["ben"], 15)
        for client in (ann, ben):
            await client.do("reset")
        if elsewhere:
            front.cut((a.port,))
            await ann.until(gets("bob"), 30)
            assert await roster(a)
        await asyncio.sleep(max(0.0, 20 - (time.monotonic() - stopped)))
        at_a = await roster(a)
        os.kill(b.pid, signal.SIGCONT)
        await ann.until(gets("bob"), 30)
        await soon(lambda: rosters_agree(a, b, names="ann ben bob"), 10)
        if elsewhere:
            assert await roster(a) == at_a, "who came back elsewhere is not disturbed"
        rivals = [event for event in (await ann.do("state"))["events"] if event[1] == "bob"]
        await asyncio.sleep(10)  # ghosts would show by now
        assert await rosters_agree(a, b, names="ann ben bob")
        again = [event for event in (await ann.do("state"))["events"] if event[1] == "bob"]
        assert again == rivals, "once back, nothing moves"
        for client, other in ((ann, "ben"), (ben, "ann")):
            assert (await client.do("state"))["media"][f"{other}/video"]["max_gap_s"] < 1.0
        await bob.until(lambda s: gets("ann")(s) and gets("ben")(s), 20)


def an_hour(away: str) -> dict[str, str]:
    """The time of day of a process, `+1h` or `-1h`; durations stay what they are."""
    ahead = {"+1h": "+3600", "-1h": "-3600"}[away]
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": ahead, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def timeless(identity: str) -> str:
    """A token that says only until when it is valid."""
    grant = {"roomJoin": True, "room": "demo"}
    return jwt.encode({"iss": KEY, "sub": identity, "exp": time.time() + 3600, "video": grant}, SECRET, "HS256")


@pytest.mark.skipif(not shutil.which("faketime"), reason="faketime is missing: `make test` installs it")
async def test_clocks_an_hour_apart(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Nobody is gone, last claims win, and a token given out by a node that is ahead is good on one that is behind."""
    a, b, c = (
        await make_node(),
        await make_node(environment=an_hour("+1h")),
        await make_node(environment=an_hour("-1h")),
    )
    hours = [re.search(r'"timestamp": "([^:]+)', node.log()) for node in (a, b, c)]
    assert len({found[1] for found in hours if found}) == 3, "each node shows another hour"
    async with Balancer(b.port, c.port) as front:
        ann, ben, cyd = [await make_sdk() for _ in range(3)]
        await ann.do("connect", url=a.url, token=timeless("ann"))
        await ben.do("connect", url=front.url, token=timeless("ben"))
        await cyd.do("connect", url=c.url, token=timeless("cyd"))
        for client in (ann, ben, cyd):
            await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        for client, others in ((ann, ("ben", "cyd")), (ben, ("ann", "cyd")), (cyd, ("ann", "ben"))):
            await client.until(lambda s, others=others: all(gets(name)(s) for name in others), 20)
        async with room_api(a) as lk:
            await lk.room.update_participant(
                api.UpdateParticipantRequest(room="demo", identity="ben", metadata="a reason for a new token")
            )
        last = await make_sdk()
        await last.do("connect", url=a.url, token=timeless("cyd"))
        await cyd.until(lambda s: not s["connected"], 10)
        await ann.do("reset")
        front.cut((c.port,))
        await ann.until(gets("ben"), 20)
        await soon(lambda: rosters_agree(a, b, names="ann ben cyd"), 10)
        assert not [event for event in (await ann.do("state"))["events"] if event[0] == "disconnected"]
