"""Store and bus: the same stories on memory and on a real redis-server."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from tertulia.node.cluster.api import Bus, Claim, NodeRecord, RoomRecord, Store, Unavailable
from tertulia.node.cluster.memory import MemoryBus, MemoryCluster, MemoryStore
from tertulia.node.cluster.redis import RedisAddress, RedisBus, RedisStore


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("redis-server")
    assert program, "redis-server is missing: `make test` installs it"
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert any(b"Ready to accept connections" in line for line in server.stdout)
    yield port
    server.terminate()
    server.wait(10)


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Bus, Bus]]:
    if request.param == "memory":
        cluster = MemoryCluster()
        yield MemoryStore(cluster), MemoryBus(cluster), MemoryBus(cluster)
        return
    where = RedisAddress(address=f"127.0.0.1:{request.getfixturevalue('redis_port')}")
    store, one, two = RedisStore(where), RedisBus(where), RedisBus(where)
    for part in (store, one, two):
        await part.start()
    await store._client.flushall()
    yield store, one, two
    for part in (one, two, store):
        await part.stop()


Pair = tuple[Store, Bus, Bus]


async def test_of_two_creators_one_wins(pair: Pair) -> None:
    store = pair[0]
    records = [RoomRecord(name="demo", sid=f"RM_{number}") for number in range(20)]
    answers = await asyncio.gather(*(store.create_room(record) for record in records))
    assert sum(mine for _, mine in answers) == 1
    assert len({record.sid for record, _ in answers}) == 1


async def test_change_is_compare_and_set(pair: Pair) -> None:
    store = pair[0]
    first, _ = await store.create_room(RoomRecord(name="demo", sid="RM_1"))
    changed = await store.change_room(first)
    assert changed is not None
    assert changed.version == 2
    assert await store.change_room(first) is None
    present = await store.room("demo")
    assert present is not None
    assert present.version == 2


async def test_remove_spares_a_later_incarnation(pair: Pair) -> None:
    store = pair[0]
    await store.create_room(RoomRecord(name="demo", sid="RM_2"))
    await store.remove_room("demo", "RM_1")
    assert await store.room("demo") is not None
    await store.remove_room("demo", "RM_2")
    assert await store.room("demo") is None
    assert await store.rooms() == {}


async def test_many_rooms_are_read_at_once(pair: Pair) -> None:
    store = pair[0]
    names = [f"room {{{number}}}" for number in range(250)]
    for name in names:
        await store.create_room(RoomRecord(name=name, sid=f"RM_{name}"))
        await store.claim(name, Claim(identity="ann", sid=f"PA_{name[6:-1]}", node="ND_a", ticket=0), 0)
    held = await store.rooms()
    assert {name: (one.record.sid, [claim.sid for claim in one.claims]) for name, one in held.items()} == {
        name: (f"RM_{name}", [f"PA_{name[6:-1]}"]) for name in names
    }
    assert list(await store.rooms([names[7], "nobody's"])) == [names[7]]
    assert await store.rooms([]) == {}


async def test_last_claim_wins_and_names_the_displaced(pair: Pair) -> None:
    store = pair[0]
    await store.create_room(RoomRecord(name="demo", sid="RM_1"))
    one = await store.claim("demo", Claim(identity="al ice", sid="PA_1", node="ND_a", ticket=0), 0)
    two = await store.claim("demo", Claim(identity="al ice", sid="PA_2", node="ND_b", ticket=0), 0)
    assert one is not None
    assert one.displaced is None
    assert two is not None
    assert two.displaced == one.claim
    await store.release("demo", "al ice", "PA_1")
    assert [claim.sid for claim in (await store.rooms(["demo"]))["demo"].claims] == ["PA_2"]


async def test_limit_is_exact_when_many_come_at_once(pair: Pair) -> None:
    store = pair[0]
    claims = [Claim(identity=f"p{number}", sid=f"PA_{number}", node="ND_a", ticket=0) for number in range(30)]
    hidden = Claim(identity="recorder", sid="PA_r", node="ND_a", ticket=0, counted=False)
    assert await store.claim("demo", hidden, 5) is not None
    answers = await asyncio.gather(*(store.claim("demo", claim, 5) for claim in claims))
    assert sum(answer is not None for answer in answers) == 5
    again = next(answer for answer in answers if answer is not None).claim
    assert await store.claim("demo", again, 5) is not None


async def test_nodes_announce_and_withdraw(pair: Pair) -> None:
    store = pair[0]
    await store.renew(NodeRecord(id="ND_a", epoch=1))
    await store.renew(NodeRecord(id="ND_b", epoch=1, roles=("egress",)))
    assert {node.id for node in await store.nodes()} == {"ND_a", "ND_b"}
    await store.withdraw("ND_a")
    assert [node.roles for node in await store.nodes()] == [("egress",)]


async def test_bus_delivers_in_order_to_others(pair: Pair) -> None:
    _, one, two = pair
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    ready: asyncio.Event = asyncio.Event()
    two.subscribe("probe", lambda channel, data: ready.set())
    two.subscribe("room:demo", lambda channel, data: heard.put_nowait(data))
    async with asyncio.timeout(10):
        while not ready.is_set():  # a fresh subscription of pub/sub is not there at once
            one.publish("probe", b"")
            await asyncio.wait([asyncio.create_task(ready.wait())], timeout=0.05)
        for number in range(50):
            one.publish("room:demo", str(number).encode())
        assert [await heard.get() for _ in range(50)] == [str(number).encode() for number in range(50)]


async def test_garbage_in_the_store_is_skipped(pair: Pair) -> None:
    store = pair[0]
    if not isinstance(store, RedisStore):
        return
    await store._client.sadd("tertulia:nodes", b"\xff\xfe")
    await store._client.set("tertulia:node:ND_x", b"\x00garbage")
    await store._client.sadd("tertulia:nodes", "ND_x")
    await store._client.hset("tertulia:room:{demo}", mapping={"record": b"\xff", "version": 1, "sid": "x"})
    assert await store.nodes() == []
    record, mine = await store.create_room(RoomRecord(name="demo", sid="RM_1"))
    assert mine
    assert record.sid == "RM_1"


async def test_an_absent_store_says_so() -> None:
    store = RedisStore(RedisAddress(address=f"127.0.0.1:{free_port()}"))
    await store.start()
    with pytest.raises(Unavailable):
        await store.room("demo")
    await store.stop()
