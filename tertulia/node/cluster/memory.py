"""The cluster of one process: no Redis, nothing to wait for. Several nodes of a test may share one `MemoryCluster`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tertulia.node.cluster.api import Claim, Claimed, Held, NodeRecord, RoomRecord


class MemoryCluster:
    """What Redis would hold."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[[str, bytes], None]]] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.rooms: dict[str, RoomRecord] = {}
        self.claims: dict[str, dict[str, Claim]] = {}
        self.tickets: dict[str, int] = {}


class MemoryBus:
    """`Bus` inside one process; delivery is never synchronous, as with a real bus."""

    available = True

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._mine: dict[str, Callable[[str, bytes], None]] = {}

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        for channel in list(self._mine):
            self.unsubscribe(channel)

    def subscribe(self, channel: str, on_message: Callable[[str, bytes], None]) -> None:
        self.unsubscribe(channel)
        self._mine[channel] = on_message
        self._cluster.listeners.setdefault(channel, []).append(on_message)

    def unsubscribe(self, channel: str) -> None:
        if (listener := self._mine.pop(channel, None)) is None:
            return
        listeners = self._cluster.listeners[channel]
        listeners.remove(listener)
        if not listeners:
            del self._cluster.listeners[channel]

    def publish(self, channel: str, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._cluster.listeners.get(channel, ()):
            loop.call_soon(listener, channel, data)


def _bump(record: RoomRecord, **changes: Any) -> RoomRecord:
    return msgspec.structs.replace(record, version=record.version + 1, **changes)


class MemoryStore:
    """`Store` inside one process. Leases do not run out here: the process is the lease."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def renew(self, node: NodeRecord) -> None:
        self._cluster.nodes[node.id] = node

    async def withdraw(self, node_id: str) -> None:
        self._cluster.nodes.pop(node_id, None)

    async def nodes(self) -> list[NodeRecord]:
        return list(self._cluster.nodes.values())

    async def room(self, name: str) -> RoomRecord | None:
        return self._cluster.rooms.get(name)

    async def rooms(self, names: Sequence[str] | None = None) -> dict[str, Held]:
        records, claims = self._cluster.rooms, self._cluster.claims
        asked = records if names is None else names
        return {name: Held(records[name], list(claims.get(name, {}).values())) for name in asked if name in records}

    async def create_room(self, record: RoomRecord) -> tuple[RoomRecord, bool]:
        present = self._cluster.rooms.setdefault(record.name, record)
        return present, present is record

    async def change_room(self, record: RoomRecord) -> RoomRecord | None:
        present = self._cluster.rooms.get(record.name)
        if present is None or (present.sid, present.version) != (record.sid, record.version):
            return None
        changed = self._cluster.rooms[record.name] = _bump(record)
        return changed

    async def remove_room(self, name: str, sid: str, version: int = 0) -> None:
        present = self._cluster.rooms.get(name)
        if present is not None and present.sid == sid and version in (0, present.version):
            del self._cluster.rooms[name]
            self._cluster.claims.pop(name, None)
            self._cluster.tickets.pop(name, None)

    async def claim(self, room: str, claim: Claim, limit: int) -> Claimed | None:
        held = self._cluster.claims.setdefault(room, {})
        displaced = held.get(claim.identity)
        counted = sum(1 for other in held.values() if other.counted and other.identity != claim.identity)
        if limit > 0 and claim.counted and counted >= limit:
            return None
        ticket = self._cluster.tickets[room] = max(self._cluster.tickets.get(room, 0), claim.ticket) + 1
        mine = held[claim.identity] = msgspec.structs.replace(claim, ticket=ticket)
        return Claimed(mine, displaced)

    async def restore_claim(self, room: str, claim: Claim) -> None:
        held = self._cluster.claims.setdefault(room, {})
        if (present := held.get(claim.identity)) is None or present.ticket < claim.ticket:
            held[claim.identity] = claim
            self._cluster.tickets[room] = max(self._cluster.tickets.get(room, 0), claim.ticket)

    async def release(self, room: str, identity: str, sid: str) -> None:
        held = self._cluster.claims.get(room, {})
        if (present := held.get(identity)) is not None and present.sid == sid:
            del held[identity]
