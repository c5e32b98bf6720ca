"""Redis with Sentinels and Redis Cluster below two nodes: what `redis.sentinel_*` and `redis.cluster_addresses` do.

Their servers die, too; the rooms do not notice, and the nodes find the new primary by themselves.
"""

import asyncio
import signal
from pathlib import Path

import pytest
from livekit import api
from redis import asyncio as aioredis

from tests.interop.live import free_port, token
from tests.interop.nodes import (
    LiveRedis,
    MakeNode,
    MakeSdk,
    a_call,
    data_crosses,
    gets,
    readyz,
    room_api,
    rosters_agree,
    soon,
    undisturbed,
)  # fmt: skip

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


class Sentinels:
    """A primary, its replica and one Sentinel that decides alone."""

    def __init__(self, folder: Path) -> None:
        self.primary = LiveRedis(folder, "--repl-diskless-sync-delay", "0")
        self.replica = LiveRedis(folder, "--replicaof", "127.0.0.1", str(self.primary.port))
        rules = folder / "sentinel.conf"
        rules.write_text(
            f"sentinel monitor calls 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds calls 1000\nsentinel failover-timeout calls 5000\n"
        )
        self.sentinel = LiveRedis(folder, config=rules)

    async def __aenter__(self) -> "Sentinels":
        for server in (self.primary, self.replica, self.sentinel):
            await server.start()
        await soon(self._is_whole, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in (self.sentinel, self.replica, self.primary):
            await server.stop(signal.SIGKILL)

    async def _is_whole(self) -> bool:
        async with aioredis.Redis(port=self.sentinel.port) as client:
            replicas = await client.execute_command("SENTINEL", "REPLICAS", "calls")
        async with aioredis.Redis(port=self.replica.port) as client:
            return bool(replicas) and (await client.info("replication"))["master_link_status"] == "up"

    async def primary_port(self) -> int:
        async with aioredis.Redis(port=self.sentinel.port) as client:
            return int((await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "calls"))[1])

    @property
    def keys(self) -> str:
        """As in a `redis:` block; the first Sentinel named does not exist."""
        return (
            "sentinel_master_name: calls\n"
            f"  sentinel_addresses: ['127.0.0.1:{free_port()}', '127.0.0.1:{self.sentinel.port}']"
        )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["it dies", "it hangs"])
async def test_the_primary_fails(tmp_path: Path, make_node: MakeNode, make_sdk: MakeSdk, how: signal.Signals) -> None:
    async with Sentinels(tmp_path) as sentinels:
        a, b = await make_node(redis_keys=sentinels.keys), await make_node(redis_keys=sentinels.keys)
        ann, bob = await a_call(make_sdk, ann=a, bob=b)
        sentinels.primary.send(how)
        await soon(lambda: readyz("not reachable", a, b), 10)

        async def is_promoted() -> bool:
            return await sentinels.primary_port() == sentinels.replica.port

        await soon(is_promoted, 20)
        await soon(lambda: readyz("ready", a, b), 15)
        cyd = await make_sdk()
        await cyd.do("connect", url=b.url, token=token("demo", "cyd"))
        await cyd.until(lambda s: gets("ann")(s) and gets("bob")(s), 20)
        await data_crosses(ann, bob, 7)
        async with room_api(a) as one, room_api(b) as two:
            made = await asyncio.gather(
                *(lk.room.create_room(api.CreateRoomRequest(name="other")) for lk in (one, two))
            )
        assert made[0].sid == made[1].sid
        await soon(lambda: rosters_agree(a, b, names="ann bob cyd"), 10)
        await undisturbed([ann, bob])


class RedisCluster:
    """Three masters with a replica each."""

    def __init__(self, folder: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
        self.servers: list[LiveRedis] = []
        self.buses: list[int] = []
        for number in range(6):
            bus = free_port()
            own = ("--cluster-port", str(bus), "--cluster-config-file", f"nodes-{number}.conf")
            self.servers.append(LiveRedis(folder, *options, *own))
            self.buses.append(bus)

    async def __aenter__(self) -> "RedisCluster":
        clients = []
        for server in self.servers:
            await server.start()
            clients.append(aioredis.Redis(port=server.port))
        self._clients = clients
        for number, client in enumerate(clients[:3]):
            last = 16_383 if number == 2 else (number + 1) * 5461 - 1
            await client.execute_command("CLUSTER ADDSLOTSRANGE", number * 5461, last)
        for number, client in enumerate(clients):
            await client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server, bus in zip(self.servers[1:], self.buses[1:], strict=True):
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
        await soon(lambda: self._all_know(6), 20)
        for number in range(3):
            master = await clients[number].execute_command("CLUSTER MYID")
            await clients[3 + number].execute_command("CLUSTER REPLICATE", master)
        await soon(self._is_whole, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()
        for server in self.servers:
            await server.stop(signal.SIGKILL)

    async def _all_know(self, count: int) -> bool:
        seen = [await client.execute_command("CLUSTER INFO") for client in self._clients]
        return all(int(info["cluster_known_nodes"]) == count for info in seen)

    async def _is_whole(self) -> bool:
        infos = [await client.execute_command("CLUSTER INFO") for client in self._clients]
        links = [(await client.info("replication")).get("master_link_status") for client in self._clients]
        return all(info["cluster_state"] == "ok" for info in infos) and links[3:] == ["up"] * 3

    async def has_taken_over(self, number: int) -> bool:
        """The replica of this master is one itself."""
        client = self._clients[3 + number]
        info = await client.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and (await client.info("replication"))["role"] == "master"

    @property
    def keys(self) -> str:
        """As in a `redis:` block; two of the six are enough to find the others."""
        return f"cluster_addresses: ['127.0.0.1:{self.servers[0].port}', '127.0.0.1:{self.servers[4].port}']"


async def test_a_redis_cluster(tmp_path: Path, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Two nodes meet over it, rooms of all slots work; each master in turn dies, and its replica takes over."""
    async with RedisCluster(tmp_path) as cluster:
        a, b = await make_node(redis_keys=cluster.keys), await make_node(redis_keys=cluster.keys)
        await soon(lambda: readyz("ready", a, b), 10)
        ann, bob = await a_call(make_sdk, ann=a, bob=b)
        await data_crosses(ann, bob, 7)
        async with room_api(a) as one, room_api(b) as two:
            for name in [f"room{number}" for number in range(20)] + ["{braces}", "a{b}c", "}{", "{}"]:
                request = api.CreateRoomRequest(name=name)
                made = await asyncio.gather(*(lk.room.create_room(request) for lk in (one, two)))
                assert made[0].sid == made[1].sid
            for lk in (one, two):
                assert len((await lk.room.list_rooms(api.ListRoomsRequest())).rooms) == 25
        for number, killed in enumerate(cluster.servers[:3]):
            await killed.stop(signal.SIGKILL)
            await soon(lambda number=number: cluster.has_taken_over(number), 20)
            await soon(lambda: readyz("ready", a, b), 15)
            await data_crosses(ann, bob, 100 + number)
            await data_crosses(bob, ann, 200 + number)
        async with room_api(b) as lk:
            assert len((await lk.room.list_rooms(api.ListRoomsRequest())).rooms) == 25
        await soon(lambda: rosters_agree(a, b, names="ann bob"), 10)
        await undisturbed([ann, bob])
