"""The cluster over Redis: plain, Sentinel or Cluster, with the reference's `redis:` keys. Sockets live here.

The bus is pub/sub (best effort by nature: versions and digests above it repair what is lost). While Redis is away the
bus drops, the store raises `Unavailable`, and both come back by themselves.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from tertulia.node.cluster import scripts
from tertulia.node.cluster.api import (
    BUS_MESSAGE_BYTES,
    LEASE_MS,
    Claim,
    Claimed,
    Held,
    NodeRecord,
    RoomRecord,
    Unavailable,
)
from tertulia.node.cluster.redis_client import CALL_S, FAILURES, Client, RedisAddress, connect, listener, reason

__all__ = ["RedisAddress", "RedisBus", "RedisStore", "connect"]

log = structlog.get_logger()

OUTBOX = 10_000
"""Messages waiting for Redis; more are dropped (`bus_overflow`)."""
FLUSH_S = 0.5
"""Last words may take this long."""
RETRY_S = (0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to come back, the last one repeated."""
READ_S = 0.25
"""One look for messages."""
PING_LOOKS, DEAF_LOOKS = 4, 12
"""After so many looks without a message we ask whether somebody is there, and dial again when nobody is."""
ROOMS_AT_ONCE = 100
"""So many are read with one question: others wait no longer than for these."""
PREFIX = "tertulia"


class RedisBus:
    """`Bus` over Redis pub/sub: one connection that listens, one that speaks."""

    def __init__(self, where: RedisAddress, space: str = "") -> None:
        """`space` keeps clusters apart that share a Redis."""
        self._where = where
        self._prefix = f"{PREFIX}:{space}" if space else PREFIX
        self._client: Client = None
        self._listeners: dict[str, Callable[[str, bytes], None]] = {}
        self._outbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(OUTBOX)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._speaking = False
        self._listening = False
        self.on_return: Callable[[], None] = lambda: None
        """Called when the bus is back after an absence: publish your state again."""
        self.counters: Counter[str] = Counter()

    @property
    def available(self) -> bool:
        return self._speaking and self._listening

    async def start(self) -> None:
        self._client = connect(self._where)
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]

    async def stop(self) -> None:
        if self._speaking:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outbox.join(), FLUSH_S)
        pending = set(self._tasks)
        while pending:  # a cancellation may be lost in a timeout of the client library that fires at the same moment
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.3)
        if self._client is not None:
            with contextlib.suppress(*FAILURES):
                await self._client.aclose()

    def subscribe(self, channel: str, on_message: Callable[[str, bytes], None]) -> None:
        self._listeners[channel] = on_message
        self._changed.set()

    def unsubscribe(self, channel: str) -> None:
        if self._listeners.pop(channel, None) is not None:
            self._changed.set()

    def publish(self, channel: str, data: bytes) -> None:
        if len(data) > BUS_MESSAGE_BYTES:
            self.counters["bus_oversize"] += 1
            return
        try:
            self._outbox.put_nowait((channel, data))
        except asyncio.QueueFull:
            self.counters["bus_overflow"] += 1

    def _note(self, error: Exception) -> None:
        if not isinstance(error, FAILURES):  # the client library is not certain of what it raises
            self.counters["bus_surprised"] += 1
            log.error("bus.surprised", exc_info=error)

    async def _speak(self) -> None:
        failures = 0
        while True:
            channel, data = await self._outbox.get()
            try:
                await self._client.publish(f"{self._prefix}:{channel}", data)
                self.counters["bus_sent"] += 1
                self._speaking, failures = True, 0
            except Exception as error:
                self._note(error)
                # what was meant for an absent bus is stale when it returns: digests repair
                self._speaking = False
                self.counters["bus_lost"] += 1
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
                while not self._outbox.empty():
                    self._outbox.get_nowait()
                    self._outbox.task_done()
                    self.counters["bus_lost"] += 1
                self.publish("ping", b"")
            self._outbox.task_done()

    async def _listen(self) -> None:
        """Hears, and dials again whenever that ends, whatever the client library ends it with."""
        failures, absent = 0, False
        while True:
            pubsub: Any = None
            try:
                pubsub = await listener(self._client)
                await pubsub.subscribe(f"{self._prefix}:ping")
                subscribed: set[str] = set()
                self._changed.set()
                self.publish("ping", b"")
                await self._read(pubsub, subscribed, absent)
            except Exception as error:
                self._note(error)
                if self._listening:
                    log.warning("bus.away", reason=reason(error))
                    failures = 0
                self._listening, absent = False, True
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
            finally:
                if pubsub is not None:
                    with contextlib.suppress(Exception):
                        await pubsub.aclose()

    async def _read(self, pubsub: Any, subscribed: set[str], absent: bool) -> None:
        quiet = 0
        while True:
            if self._changed.is_set():
                self._changed.clear()
                await self._align(pubsub, subscribed)
                if not self._listening:
                    self._listening = True
                    if absent:
                        log.info("bus.back")
                        self.on_return()
                        absent = False
            message = await pubsub.get_message(
                ignore_subscribe_messages=True, timeout=0.02 if self._changed.is_set() else READ_S
            )
            if message is not None:
                quiet = 0
                if message["type"] == "message":
                    self._dispatch(message)
                continue
            quiet += 1
            if quiet >= DEAF_LOOKS:
                raise TimeoutError
            if quiet % PING_LOOKS == 0:
                await pubsub.ping()

    async def _align(self, pubsub: Any, subscribed: set[str]) -> None:
        wanted = set(self._listeners)
        if fresh := wanted - subscribed:
            await pubsub.subscribe(*(f"{self._prefix}:{channel}" for channel in fresh))
        if stale := subscribed - wanted:
            await pubsub.unsubscribe(*(f"{self._prefix}:{channel}" for channel in stale))
        subscribed.clear()
        subscribed.update(wanted)

    def _dispatch(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode("utf-8", "replace").removeprefix(f"{self._prefix}:")
        data = message["data"]
        if (listener := self._listeners.get(channel)) is None:
            return
        if not isinstance(data, bytes) or len(data) > BUS_MESSAGE_BYTES:
            self.counters["bus_oversize"] += 1
            return
        self.counters["bus_received"] += 1
        listener(channel, data)


def _room_keys(prefix: str, name: str) -> tuple[str, str, str]:
    """Record, claims and ticket counter of a room; one hash tag keeps them in one Cluster slot."""
    tag = "{" + name.replace("}", "%7D").replace("{", "%7B") + "}"
    return f"{prefix}:room:{tag}", f"{prefix}:claims:{tag}", f"{prefix}:ticket:{tag}"


def _claim(identity: str, text: str) -> Claim | None:
    parts = text.split(" ")
    if len(parts) != 4 or not parts[3].isdigit():
        return None
    return Claim(identity=identity, sid=parts[0], node=parts[1], counted=parts[2] == "1", ticket=int(parts[3]))


def _claims(held: dict[bytes, bytes]) -> list[Claim]:
    found = (_claim(key.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for key, value in held.items())
    return [claim for claim in found if claim is not None]


class RedisStore:
    """`Store` over Redis."""

    def __init__(self, where: RedisAddress, space: str = "") -> None:
        """`space` keeps clusters apart that share a Redis."""
        self._where = where
        self._prefix = f"{PREFIX}:{space}" if space else PREFIX
        self._client: Client = None
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        self._client = connect(self._where)

    async def stop(self) -> None:
        if self._client is not None:
            with contextlib.suppress(*FAILURES):
                await self._client.aclose()

    async def _ask(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(CALL_S):
                return await call
        except FAILURES as error:
            self.counters["store_unavailable"] += 1
            raise Unavailable("the shared store", reason(error)) from error

    def _room_keys(self, name: str) -> tuple[str, str, str]:
        return _room_keys(self._prefix, name)

    def _decode(self, data: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.counters["store_garbage"] += 1
            return None

    async def _ask_all(self, commands: Callable[[Any], None]) -> list[Any]:
        """Several commands in one go; each is answered, none waits for another's answer."""
        pipeline = self._client.pipeline(transaction=False)
        commands(pipeline)
        answers: list[Any] = await self._ask(pipeline.execute())
        return answers

    async def renew(self, node: NodeRecord) -> None:
        def commands(pipeline: Any) -> None:
            pipeline.set(f"{self._prefix}:node:{node.id}", msgspec.msgpack.encode(node), px=LEASE_MS)
            pipeline.sadd(f"{self._prefix}:nodes", node.id)

        await self._ask_all(commands)

    async def withdraw(self, node_id: str) -> None:
        await self._ask(self._client.delete(f"{self._prefix}:node:{node_id}"))
        await self._ask(self._client.srem(f"{self._prefix}:nodes", node_id))

    async def nodes(self) -> list[NodeRecord]:
        ids = [
            raw.decode("utf-8", "replace") for raw in await self._ask(self._client.smembers(f"{self._prefix}:nodes"))
        ]

        def commands(pipeline: Any) -> None:
            for node_id in ids:
                pipeline.get(f"{self._prefix}:node:{node_id}")

        found: list[NodeRecord] = []
        for node_id, data in zip(ids, await self._ask_all(commands) if ids else [], strict=True):
            if data is None:
                await self._ask(self._client.srem(f"{self._prefix}:nodes", node_id))
            elif (record := self._decode(data, NodeRecord)) is not None:
                found.append(record)
        return found

    async def room(self, name: str) -> RoomRecord | None:
        held = await self._ask(self._client.hmget(self._room_keys(name)[0], "record", "version"))
        return self._record(held[0], held[1])

    def _record(self, data: bytes | None, version: bytes | None) -> RoomRecord | None:
        if data is None or version is None:
            return None
        record: RoomRecord | None = self._decode(data, RoomRecord)
        return record

    async def rooms(self, names: Sequence[str] | None = None) -> dict[str, Held]:
        if names is None:
            members = await self._ask(self._client.smembers(f"{self._prefix}:rooms"))
            names = sorted(raw.decode("utf-8", "replace") for raw in members)
        found: dict[str, Held] = {}
        for start in range(0, len(names), ROOMS_AT_ONCE):
            found.update(await self._rooms(names[start : start + ROOMS_AT_ONCE]))
        return found

    async def _rooms(self, names: Sequence[str]) -> dict[str, Held]:
        def commands(pipeline: Any) -> None:
            for name in names:
                record, claims, _ = self._room_keys(name)
                pipeline.hmget(record, "record", "version")
                pipeline.hgetall(claims)

        answers = await self._ask_all(commands)
        found: dict[str, Held] = {}
        for name, held, claims in zip(names, answers[::2], answers[1::2], strict=True):
            if (record := self._record(held[0], held[1])) is not None:
                found[name] = Held(record, _claims(claims))
        return found

    async def create_room(self, record: RoomRecord) -> tuple[RoomRecord, bool]:
        keys = self._room_keys(record.name)
        data = msgspec.msgpack.encode(record)
        stored, mine = await self._ask(
            self._client.eval(scripts.CREATE_ROOM, 1, keys[0], data, record.sid, record.version)
        )
        await self._ask(self._client.sadd(f"{self._prefix}:rooms", record.name))
        if (present := self._decode(stored, RoomRecord)) is None:
            await self._ask(self._client.delete(*keys))
            return await self.create_room(record)
        return present, bool(mine)

    async def change_room(self, record: RoomRecord) -> RoomRecord | None:
        changed: RoomRecord = msgspec.structs.replace(record, version=record.version + 1)
        won = await self._ask(
            self._client.eval(
                scripts.CHANGE_ROOM,
                1,
                self._room_keys(record.name)[0],
                msgspec.msgpack.encode(changed),
                record.sid,
                record.version,
                changed.version,
            )
        )
        return changed if won else None

    async def remove_room(self, name: str, sid: str, version: int = 0) -> None:
        if await self._ask(self._client.eval(scripts.REMOVE_ROOM, 3, *self._room_keys(name), sid, version)):
            await self._ask(self._client.srem(f"{self._prefix}:rooms", name))

    async def claim(self, room: str, claim: Claim, limit: int) -> Claimed | None:
        _, claims, ticket = self._room_keys(room)
        counted = "1" if claim.counted else "0"
        answer = await self._ask(
            self._client.eval(
                scripts.CLAIM,
                *(2, claims, ticket),
                *(claim.identity, claim.sid, claim.node, counted, limit, claim.ticket),
            )
        )
        if answer[0] == b"full":
            return None
        held = answer[2].decode("utf-8", "replace")
        mine = msgspec.structs.replace(claim, ticket=int(answer[1]))
        return Claimed(mine, _claim(claim.identity, held) if held else None)

    async def restore_claim(self, room: str, claim: Claim) -> None:
        _, claims, ticket = self._room_keys(room)
        counted = "1" if claim.counted else "0"
        await self._ask(
            self._client.eval(
                scripts.RESTORE_CLAIM,
                *(2, claims, ticket),
                *(claim.identity, claim.sid, claim.node, counted, claim.ticket),
            )
        )

    async def release(self, room: str, identity: str, sid: str) -> None:
        await self._ask(self._client.eval(scripts.RELEASE, 1, self._room_keys(room)[1], identity, sid))
