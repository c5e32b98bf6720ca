"""Rooms that several nodes hold: found or made through the store, joined by exact claims, tidied when nodes die.

The record (who made it, metadata, limits, which nodes hold it) is changed by compare-and-set; an identity belongs to
its last claim. Everything said to the store is said again when it forgot it, so that it may be lost at any time.
"""

import asyncio
import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import structlog
from livekit.protocol import models, room

from tertulia.node.cluster.api import Claim, Held, RoomRecord, Unavailable
from tertulia.node.driver import monotonic
from tertulia.protocol import bus
from tertulia.protocol.errors import PeerError, RequestError
from tertulia.protocol.ids import NodeId, RoomSid, mint
from tertulia.protocol.token import Claims
from tertulia.sfu.events import FromNode, Happened, NodeGone, NodesHere, Renewed, ToNodes
from tertulia.sfu.joining import ROOM_FULL, is_counted
from tertulia.sfu.state import new_room

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster
    from tertulia.node.house import Seat

log = structlog.get_logger()

SNAPSHOT_S = 1.0
"""A first join waits this long for the members of other nodes; later they come as updates."""
RECONCILE_S = 10.0
CAS_TRIES = 50
ENDED_KEPT = 1000
LEFT = ("participant_left", "participant_connection_aborted")


class SharedRooms:
    """The rooms of this node as the cluster sees them."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._house = cluster.house
        self._opening: dict[str, asyncio.Lock] = {}
        self._claiming: set[str] = set()
        """Sids whose claim is on its way."""
        self._orphans: dict[tuple[str, str], float] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        """Sids of rooms that were ended for everybody here, with the reason."""
        self._house.happened.append(self._on_happened)

    # ------------------------------------------------------------------------------------------ coming in

    async def open(self, request: room.CreateRoomRequest) -> "tuple[Seat, bool]":
        """The room at its place on this node, and whether this call made the room. May raise Unavailable."""
        lock = self._opening.setdefault(request.name, asyncio.Lock())
        try:
            async with lock:
                if (seat := self._house.seats.get(request.name)) is not None:
                    return seat, False
                return await self._open(self._house.prepared(request))
        finally:
            if not lock.locked():
                self._opening.pop(request.name, None)

    async def open_existing(self, name: str) -> "Seat":
        """A room of other nodes, for who reads it here; RequestError when it just ended."""
        seat, is_new = await self.open(room.CreateRoomRequest(name=name))
        if is_new:
            seat.driver.run(seat.room.shut_down)
            raise RequestError("not_found", "requested room does not exist")
        return seat

    async def _open(self, request: room.CreateRoomRequest) -> "tuple[Seat, bool]":
        record, mine = await self._enlist(request)
        creation = room.CreateRoomRequest.FromString(record.creation)
        seat = self._house.seat_room(creation, models.Room.FromString(record.room), is_new=mine)
        self._meet(seat, record)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SNAPSHOT_S):
                while not seat.room.among.is_complete():
                    seat.snapshot_heard.clear()
                    await seat.snapshot_heard.wait()
        return seat, mine

    async def _enlist(self, request: room.CreateRoomRequest) -> tuple[RoomRecord, bool]:
        """Create the record, or put this node into the one there is."""
        sid = RoomSid(mint("RM_", self._house.rng))
        now_ns = monotonic() + self._house.wall_offset_ns
        fresh = RoomRecord(
            name=request.name,
            sid=sid,
            room=new_room(request, self._house.config.room, sid, now_ns).SerializeToString(),
            creation=request.SerializeToString(),
            nodes=(self._cluster.id,),
        )
        store = self._cluster.store
        for _ in range(CAS_TRIES):
            record, mine = await store.create_room(fresh)
            if mine:
                return record, True
            if (joined := await store.change_room(self._with_us(record))) is not None:
                return joined, False
        raise Unavailable("the room's record")

    def _with_us(self, record: RoomRecord) -> RoomRecord:
        alive = [node for node in record.nodes if node != self._cluster.id and self._cluster.is_alive(node)]
        return msgspec.structs.replace(record, nodes=(*alive, self._cluster.id))

    def _meet(self, seat: "Seat", record: RoomRecord) -> None:
        others = frozenset(
            NodeId(node) for node in record.nodes if node != self._cluster.id and self._cluster.is_alive(node)
        )
        if others:
            seat.driver.handle(NodesHere(others))

    async def claim(self, seat: "Seat", claims: Claims) -> tuple[str, int]:
        """Take the identity: participant sid and ticket. RequestError when the room is full."""
        sid = mint("PA_", self._house.rng)
        claim = Claim(
            identity=claims.identity,
            sid=sid,
            node=self._cluster.id,
            ticket=seat.room.among.latest_ticket(),
            counted=is_counted(claims),
        )
        self._claiming.add(sid)
        try:
            claimed = await self._cluster.store.claim(seat.name, claim, seat.room.info().max_participants)
        except Unavailable:
            self._cluster.counters["claims_without_store"] += 1
            return sid, claim.ticket + 1
        finally:
            self._claiming.discard(sid)
        if claimed is None:
            raise RequestError("permission_denied", ROOM_FULL)
        return sid, claimed.claim.ticket

    def give_back(self, name: str, identity: str, sid: str) -> None:
        """A claim that is not needed any more."""
        self._cluster.spawn(self._cluster.store.release(name, identity, sid))

    def _on_happened(self, seat: "Seat | None", event: Happened) -> None:
        if seat is not None and event.name in LEFT and event.participant is not None:
            self.give_back(seat.name, event.participant.identity, event.participant.sid)

    # ------------------------------------------------------------------------------------------ words

    def to_nodes(self, seat: "Seat", output: ToNodes) -> None:
        word = bus.ForRoom(room=seat.name, room_sid=seat.room.sid, word=output.data)
        for node in (output.node,) if output.node is not None else seat.room.among.other_nodes():
            self._cluster.say(node, word)

    def heard(self, node: NodeId, word: bus.ForRoom) -> None:
        seat = self._house.seats.get(word.room)
        if seat is None or seat.room.sid != word.room_sid:
            self._answer_stranger(node, word)
            return
        seat.driver.handle(FromNode(node, word.word))
        if seat.room.among.is_complete():
            seat.snapshot_heard.set()

    def _answer_stranger(self, node: NodeId, word: bus.ForRoom) -> None:
        """A word for a room this node does not hold."""
        try:
            inner = bus.decode_room(word.word)
        except PeerError as error:
            self._cluster.counters[str(error)] += 1
            return
        if isinstance(inner, bus.Hello | bus.Change | bus.Digest):
            reason = self._ended.get(word.room_sid)
            answer = bus.Goodbye(instance=0) if reason is None else bus.Ended(reason=reason)
            self._cluster.say(node, bus.ForRoom(room=word.room, room_sid=word.room_sid, word=bus.encode(answer)))

    def node_gone(self, node: NodeId) -> None:
        for seat in list(self._house.seats.values()):
            seat.driver.handle(NodeGone(node))
            seat.snapshot_heard.set()
        self._cluster.spawn(self._sweep())

    # ------------------------------------------------------------------------------------------ the record

    async def change(self, seat: "Seat", **changes: object) -> models.Room:
        """Change fields of the room's record; every node that holds it hears of it."""
        store = self._cluster.store
        for _ in range(CAS_TRIES):
            record = await store.room(seat.name)
            if record is None or record.sid != seat.room.sid:
                raise RequestError("not_found", "requested room does not exist")
            shared = models.Room.FromString(record.room)
            for name, value in changes.items():
                setattr(shared, name, value)
            changed = await store.change_room(msgspec.structs.replace(record, room=shared.SerializeToString()))
            if changed is not None:
                seat.driver.handle(Renewed(shared))
                word = bus.RecordChanged(room=seat.name, room_sid=seat.room.sid, version=changed.version)
                for node in seat.room.among.other_nodes():
                    self._cluster.say(node, word)
                return seat.room.info()
        raise Unavailable("the room's record")

    def set_recording(self, seat: "Seat", active: bool) -> None:
        async def work() -> None:
            with contextlib.suppress(RequestError):  # the room has ended meanwhile
                await self.change(seat, active_recording=active)

        self._cluster.spawn(work())

    def record_changed(self, node: NodeId, word: bus.RecordChanged) -> None:
        seat = self._house.seats.get(word.room)
        if seat is not None and seat.room.sid == word.room_sid:
            self._cluster.spawn(self._renew(seat))

    async def _renew(self, seat: "Seat") -> None:
        record = await self._cluster.store.room(seat.name)
        if record is not None and record.sid == seat.room.sid and record.version > seat.record_version:
            seat.record_version = record.version
            seat.driver.handle(Renewed(models.Room.FromString(record.room)))

    # ------------------------------------------------------------------------------------------ the end

    def closed(self, seat: "Seat", finished: Happened | None, reason: int) -> None:
        """The room ended on this node; whoever is last says that it is finished."""
        if reason == models.DisconnectReason.ROOM_DELETED:
            self._ended[seat.room.sid] = reason
            if len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
        self._cluster.spawn(self._leave(seat, finished))

    def crashed(self, seat: "Seat", finished: Happened) -> None:
        """The room is gone here without a word of its own."""
        word = bus.encode(bus.Goodbye(instance=0))
        for node in seat.room.among.other_nodes():
            self._cluster.say(node, bus.ForRoom(room=seat.name, room_sid=seat.room.sid, word=word))
        self._cluster.spawn(self._leave(seat, finished))

    async def _leave(self, seat: "Seat", finished: Happened | None) -> None:
        store, sid = self._cluster.store, seat.room.sid
        for _ in range(CAS_TRIES):
            record = await store.room(seat.name)
            if record is None or record.sid != sid or seat.name in self._house.seats:
                return
            rest = tuple(node for node in record.nodes if node != self._cluster.id and self._cluster.is_alive(node))
            changed = await store.change_room(msgspec.structs.replace(record, nodes=rest))
            if changed is None:
                continue
            if not rest:
                await store.remove_room(seat.name, sid, changed.version)
                if finished is not None:
                    self._house.tell(seat, finished)
            return

    async def delete(self, seat: "Seat") -> None:
        """Take the record away first, so that nobody comes in any more."""
        await self._cluster.store.remove_room(seat.name, seat.room.sid)
        seat.is_deleter = True

    # ------------------------------------------------------------------------------------------ reconciliation

    async def run(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_S)
            with contextlib.suppress(Unavailable):
                await self.reconcile()
                await self._sweep()

    async def reconcile(self) -> None:
        """Make the store say what is true here: records with this node in them, claims of our members."""
        seats = list(self._house.seats.values())  # of before the answer: a room that comes meanwhile is not in it
        held = await self._cluster.store.rooms([seat.name for seat in seats])
        for seat in seats:
            if not seat.driver.stopped and seat.name not in self._opening:
                await self._reconcile(seat, held.get(seat.name))

    async def _reconcile(self, seat: "Seat", held: Held | None) -> None:
        store = self._cluster.store
        record = held.record if held is not None else None
        if record is None:
            record, _ = await store.create_room(
                RoomRecord(
                    name=seat.name,
                    sid=seat.room.sid,
                    room=seat.room.among.record().SerializeToString(),
                    creation=seat.created.SerializeToString(),
                    nodes=(self._cluster.id,),
                )
            )
        if record.sid != seat.room.sid:
            log.warning("room.split", room=seat.name, ours=seat.room.sid, kept=record.sid)
            self._cluster.counters["rooms_given_up"] += 1
            seat.driver.run(seat.room.give_up)
            return
        if self._cluster.id not in record.nodes:
            record = await store.change_room(self._with_us(record)) or record
        if seat.driver.stopped:
            return
        self._meet(seat, record)
        await self._reconcile_claims(seat, held.claims if held is not None else [])

    async def _reconcile_claims(self, seat: "Seat", claims: list[Claim]) -> None:
        """`claims` may be a moment old: saying one again or giving one back does no harm where a later one stands."""
        store = self._cluster.store
        held = {claim.sid for claim in claims if claim.node == self._cluster.id}
        for who in seat.room.among.members_here():
            if who.sid not in held:
                claim = Claim(
                    identity=who.identity,
                    sid=who.sid,
                    node=self._cluster.id,
                    ticket=who.ticket,
                    counted=not who.is_dependent,
                )
                await store.restore_claim(seat.name, claim)
        for claim in claims:
            present = self._claiming | {who.sid for who in seat.room.among.members_here()}
            if claim.node == self._cluster.id and claim.sid not in present:
                await store.release(seat.name, claim.identity, claim.sid)

    async def _sweep(self) -> None:
        """The node with the lowest id tidies up after nodes that died: their claims, rooms nobody holds any more."""
        cluster = self._cluster
        directory = cluster.directory
        if not directory.is_trusted or cluster.id != min([cluster.id, *directory.nodes]):
            return
        seen = set()
        for record, claims in (await cluster.store.rooms()).values():
            dead = {node for node in record.nodes if not cluster.is_alive(node)}
            for claim in claims:
                if not cluster.is_alive(claim.node):
                    await cluster.store.release(record.name, claim.identity, claim.sid)
            alive = tuple(node for node in record.nodes if node not in dead)
            if dead and alive:
                await cluster.store.change_room(msgspec.structs.replace(record, nodes=alive))
            if not alive:
                seen.add((record.name, record.sid))
                await self._orphan(record)
        for key in set(self._orphans) - seen:
            del self._orphans[key]

    async def _orphan(self, record: RoomRecord) -> None:
        """Nobody holds this room: it waits for people to come back, then it is finished."""
        now = asyncio.get_running_loop().time()
        since = self._orphans.setdefault((record.name, record.sid), now)
        info = models.Room.FromString(record.room)
        if now - since < max(info.departure_timeout, 1) or record.name in self._opening:
            return
        del self._orphans[record.name, record.sid]
        emptied = await self._cluster.store.change_room(msgspec.structs.replace(record, nodes=()))
        if emptied is not None:
            await self._cluster.store.remove_room(record.name, record.sid, emptied.version)
            self._house.tell(None, Happened("room_finished", info))
