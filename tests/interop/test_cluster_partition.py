"""Networks that fall apart: two nodes and Redis in three network namespaces on one bridge, cut by packet filters.

Packets vanish without a word, as behind a broken switch: no connection is refused, none is reset. The clients are
outside and reach both nodes all the time.
"""

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from livekit import api

from tests.interop.live import LiveServer, free_port, token
from tests.interop.nodes import (
    LiveRedis,
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
)  # fmt: skip


def why_not() -> str:
    """What keeps this machine from having namespaces of its own; empty: nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("nft")):
        return "iproute2 or nftables is missing: `make test` installs them"
    name = "tertulia-try"
    steps = f"ip netns add {name} && {{ ip netns exec {name} true; tried=$?; ip netns del {name}; exit $tried; }}"
    tried = subprocess.run(steps, shell=True, capture_output=True)
    return "" if tried.returncode == 0 else "this machine does not allow network namespaces"


pytestmark = [pytest.mark.interop, pytest.mark.timeout(120), pytest.mark.skipif(bool(why_not()), reason=why_not())]
NUMBERS = itertools.count(1)


def run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True)


class Land:
    """One namespace with one address on the bridge."""

    def __init__(self, name: str, bridge: str, host: str) -> None:
        self.name = name
        self.host = host
        self.inside = ("ip", "netns", "exec", name)
        run(f"ip netns add {name}")
        run(f"ip link add {name} type veth peer name eth0 netns {name}")
        run(f"ip link set {name} master {bridge} up")
        for line in (f"addr add {host}/24 dev eth0", "link set eth0 up", "link set lo up"):
            run(f"ip -n {name} {line}")

    def cut(self, *others: "Land") -> None:
        """From now on nothing goes to these, nothing comes from them; without names all is well again."""
        rules = ["table inet cut", "delete table inet cut"]
        if others:
            hosts = ", ".join(land.host for land in others)
            rules.append(
                "table inet cut {\n"
                f"chain i {{ type filter hook input priority 0; ip saddr {{ {hosts} }} drop; }}\n"
                f"chain o {{ type filter hook output priority 0; ip daddr {{ {hosts} }} drop; }}\n}}"
            )
        subprocess.run([*self.inside, "nft", "-f", "-"], input="\n".join(rules).encode(), check=True)


class World:
    """Node A, node B and Redis, each in a land of its own."""

    def __init__(self, at_a: Land, at_b: Land, at_redis: Land, folder: Path) -> None:
        self.at_a, self.at_b, self.at_redis = at_a, at_b, at_redis
        self.redis = LiveRedis(folder, "--protected-mode", "no", host=at_redis.host, inside=at_redis.inside)
        self.a, self.b = self._node(at_a), self._node(at_b)

    def _node(self, land: Land) -> LiveServer:
        relay_port = free_port(socket.SOCK_DGRAM)
        where = f"redis:\n  address: {self.at_redis.host}:{self.redis.port}\ncluster:\n  relay_port: {relay_port}\n"
        return LiveServer(where, host=land.host, interface="eth0", inside=land.inside)


@pytest.fixture
def lands() -> Iterator[tuple[Land, Land, Land]]:
    number = next(NUMBERS)
    bridge = f"t{os.getpid() % 100_000}n{number}"
    net = f"10.213.{os.getpid() % 250 + 1}"
    found: list[Land] = []
    try:
        run(f"ip link add {bridge} type bridge")
        run(f"ip addr add {net}.254/24 dev {bridge}")
        run(f"ip link set {bridge} up")
        for index, letter in enumerate("abr", 1):
            found.append(Land(f"{bridge}{letter}", bridge, f"{net}.{index}"))
        yield found[0], found[1], found[2]
    finally:
        for land in found:
            subprocess.run(["ip", "netns", "del", land.name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


@pytest.fixture
async def world(lands: tuple[Land, Land, Land], tmp_path: Path) -> AsyncIterator[World]:
    live = World(*lands, tmp_path)
    await live.redis.start()
    try:
        await asyncio.gather(live.a.start(), live.b.start())
        await soon(lambda: readyz("ready", live.a, live.b), 10)
        yield live
    finally:
        for land in lands:
            land.cut()
        await asyncio.gather(live.a.stop(), live.b.stop())
        await live.redis.stop()
    for node in (live.a, live.b):
        assert "Traceback" not in node.log(), node.log()[-6000:]


async def test_nodes_do_not_reach_each_other(world: World, make_sdk: MakeSdk) -> None:
    """Redis carries the words on: nobody leaves, data arrives; media comes back when the way does."""
    a, b = world.a, world.b
    ann, bob = await a_call(make_sdk, ann=a, bob=b)
    before = await roster(a)
    world.at_a.cut(world.at_b)
    await data_crosses(ann, bob, 7)
    await data_crosses(bob, ann, 8)
    cyd = await make_sdk()
    await cyd.do("connect", url=b.url, token=token("demo", "cyd"))
    await cyd.until(gets("bob"), 20)
    await asyncio.sleep(7)  # longer than a lease
    assert await rosters_agree(a, b, names="ann bob cyd")
    world.at_a.cut()
    for client in (ann, bob):
        await client.do("reset")
    await ann.until(gets("bob"), 20)
    await bob.until(gets("ann"), 20)
    await cyd.until(gets("ann"), 20)
    assert before.items() <= (await roster(b)).items(), "nobody had to come back"


@pytest.mark.parametrize(
    "all_of_it",
    [
        pytest.param(False, id="from Redis"),
        pytest.param(True, id="from Redis and the other node", marks=pytest.mark.long),
    ],
)
async def test_a_node_is_cut_off(world: World, make_sdk: MakeSdk, all_of_it: bool) -> None:
    """Gone for the others, its own calls go on, nobody makes a second room; healed, there is one of everybody."""
    a, b = world.a, world.b
    ann, bob, ben = await a_call(make_sdk, ann=a, bob=b, ben=b)
    world.at_b.cut(world.at_redis, *([world.at_a] if all_of_it else []))
    await ann.until(lambda s: s["remote"] == [], 15)
    await soon(lambda: readyz("not reachable", b), 15)
    async with room_api(a) as one, room_api(b) as two:
        assert await outcome(one.room.create_room(api.CreateRoomRequest(name="later")), 8) == "ok"
        assert await outcome(two.room.create_room(api.CreateRoomRequest(name="later")), 8) == "unavailable"
        assert await outcome(two.room.list_participants(api.ListParticipantsRequest(room="demo")), 2) == "ok"
    # bob's phone finds the other node while his laptop still hangs on the one that is cut off
    phone = await make_sdk()
    await phone.do("connect", url=a.url, token=token("demo", "bob"))
    await ann.until(lambda s: s["remote"] == ["bob"], 10)
    sid = (await roster(a))["bob"]
    cyd = await make_sdk()
    await cyd.do("connect", url=b.url, token=token("demo", "cyd"))
    await cyd.until(lambda s: gets("bob")(s) and gets("ben")(s), 20)
    world.at_b.cut()
    await soon(lambda: readyz("ready", a, b), 15)
    for client in (ann, ben):
        await client.do("reset")
    await ann.until(gets("ben"), 30)
    await ben.until(gets("ann"), 30)
    await bob.until(lambda s: not s["connected"], 15)
    await soon(lambda: rosters_agree(a, b, names="ann ben bob cyd"), 15)
    await asyncio.sleep(10)  # ghosts would show by now
    assert await rosters_agree(a, b, names="ann ben bob cyd")
    assert (await roster(b))["bob"] == sid, "the one who came last stays"
    sids = []
    for node in (a, b):
        async with room_api(node) as lk:
            rooms = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
            sids.append(sorted((room.name, room.sid, room.num_participants) for room in rooms))
    assert sids[0] == sids[1]
    assert [name for name, _, _ in sids[0]] == ["demo", "later"]
