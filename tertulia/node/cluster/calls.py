"""Server API calls in a cluster: answered from the replica here, or carried to the node that can.

A call about a participant goes to its node; one about a room this node does not hold goes to a node that does. Answers
have a deadline; a call is carried on at most twice.
"""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from google.protobuf import symbol_database
from google.protobuf.message import DecodeError, Message
from livekit.protocol import models, room

from tertulia.node.cluster.api import RoomRecord, Unavailable
from tertulia.protocol import bus
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId
from tertulia.sfu.calling import MAX_RESPONSE_MS, RESPONSE_MS
from tertulia.sfu.events import Happened

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster

ANSWER_S = 3.0
EGRESS_ANSWER_S = 15.0
SLOW = ("Start", "UpdateStream")
"""Beginnings of methods that may take a while: a job's start, taking leave of a stream's server."""
MAX_HOPS = 2
MAX_OPEN = 10_000
"""Questions without an answer yet."""
ROOM_MISSING = "requested room does not exist"
ANYWHERE = frozenset({"ListParticipants", "GetParticipant", "SendData", "DeleteRoom", "UpdateRoomMetadata"})
"""Methods of a room that every node that holds it can carry out."""


class Calls:
    """Questions of this node to others, and theirs to it."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._house = cluster.house
        self._number = 0
        self._open: dict[int, tuple[NodeId, asyncio.Future[bus.Answer]]] = {}
        self.counters: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ RoomService

    async def room_service(self, method: str, request: Message, hops: int = 0) -> Message:
        """One RoomService call, wherever it must be carried out."""
        if isinstance(request, room.ListRoomsRequest):
            return await self._list_rooms(request, hops)
        if isinstance(request, room.CreateRoomRequest):
            return await self._create_room(request, hops)
        name: str = request.room  # type: ignore[attr-defined]
        seat = self._house.seats.get(name)
        if seat is None:
            return await self._elsewhere(name, method, request, hops)
        if method == "UpdateRoomMetadata":
            assert isinstance(request, room.UpdateRoomMetadataRequest)
            self._house.check_metadata(request.metadata)
            return await self._cluster.rooms.change(seat, metadata=request.metadata)
        if method == "DeleteRoom":
            await self._cluster.rooms.delete(seat)
        elif method not in ANYWHERE:
            identity = getattr(request, "identity", "") or getattr(request, "destination_identity", "")
            node = seat.room.among.holds(identity)
            if node is not None and node != self._cluster.id:
                return await self.ask(node, "RoomService", method, request, hops + 1)
        return await self._house.carry_out(seat, method, request)

    async def _elsewhere(self, name: str, method: str, request: Message, hops: int) -> Message:
        """A room this node does not hold."""
        record = await self._cluster.store.room(name)
        if record is None:
            raise RequestError("not_found", ROOM_MISSING)
        node = self._holder(record)
        if node is not None:
            return await self.ask(node, "RoomService", method, request, hops + 1)
        return await self._orphan(record, method)

    def _holder(self, record: RoomRecord) -> NodeId | None:
        """Some node that holds the room and is there."""
        others = [NodeId(node) for node in record.nodes if node != self._cluster.id]
        return next((node for node in others if self._cluster.is_alive(node)), None)

    async def _orphan(self, record: RoomRecord, method: str) -> Message:
        """Every node that held the room is gone; nobody is in it."""
        if method == "ListParticipants":
            return room.ListParticipantsResponse()
        if method == "DeleteRoom":
            await self._cluster.store.remove_room(record.name, record.sid)
            self._house.tell(None, Happened("room_finished", models.Room.FromString(record.room)))
            return room.DeleteRoomResponse()
        raise RequestError("not_found", "participant does not exist")

    async def _create_room(self, request: room.CreateRoomRequest, hops: int) -> Message:
        if not request.name:
            raise RequestError("invalid_argument", "name is required")
        if (seat := self._house.seats.get(request.name)) is not None:
            return seat.room.info()
        record = await self._cluster.store.room(request.name)
        if record is not None and (node := self._holder(record)) is not None:
            return await self.ask(node, "RoomService", "CreateRoom", request, hops + 1)
        if not self._house.config.takes_calls:
            return await self._create_on_another(request, hops)
        seat = await self._house.room_for(request, strict=True)
        return seat.room.info()

    async def _create_on_another(self, request: room.CreateRoomRequest, hops: int) -> Message:
        """This node is for egress only."""
        cluster = self._cluster
        others = cluster.selector.ranked(cluster.others, cluster.describe(), self._house.rng)
        if not others:
            raise RequestError("unavailable", "no node of this cluster takes calls just now")
        return await self.ask(NodeId(others[0].id), "RoomService", "CreateRoom", request, hops + 1)

    async def _list_rooms(self, request: room.ListRoomsRequest, hops: int) -> room.ListRoomsResponse:
        """Rooms held here are told from here; the others by one of their nodes, or as their record says."""
        names = set(request.names)
        seats = [seat for seat in self._house.seats.values() if not names or seat.name in names]
        found = {seat.name: seat.room.info() for seat in seats}
        if hops == 0:
            held = await self._cluster.store.rooms(sorted(names - set(found)) if names else None)
            found.update(await self._list_elsewhere([one.record for name, one in held.items() if name not in found]))
        return room.ListRoomsResponse(rooms=list(found.values()))

    async def _list_elsewhere(self, records: list[RoomRecord]) -> dict[str, models.Room]:
        by_node: dict[NodeId, list[str]] = {}
        for record in records:
            if (node := self._holder(record)) is not None:
                by_node.setdefault(node, []).append(record.name)
        questions = [
            self.ask(node, "RoomService", "ListRooms", room.ListRoomsRequest(names=names), 1)
            for node, names in by_node.items()
        ]
        found = {record.name: models.Room.FromString(record.room) for record in records}
        for answer in await asyncio.gather(*questions, return_exceptions=True):
            if isinstance(answer, room.ListRoomsResponse):
                found.update({info.name: info for info in answer.rooms if info.name in found})
        return found

    # ------------------------------------------------------------------------------------------ questions

    async def ask(self, node: NodeId, service: str, method: str, request: Message, hops: int) -> Message:
        """Have a call carried out by another node. RequestError as it said, or `unavailable` when it says nothing."""
        if hops > MAX_HOPS or len(self._open) >= MAX_OPEN:
            self.counters["calls_refused"] += 1
            raise RequestError("unavailable", "the participant's node could not be found just now; try again")
        self._number += 1
        number = self._number
        answer: asyncio.Future[bus.Answer] = asyncio.get_running_loop().create_future()
        self._open[number] = node, answer
        word = bus.Ask(
            number=number,
            service=service,
            method=method,
            request_type=request.DESCRIPTOR.full_name,
            request=request.SerializeToString(),
            hops=hops,
        )
        self._cluster.say(node, word)
        self.counters["calls_carried"] += 1
        try:
            async with asyncio.timeout(_patience_s(method, request)):
                said = await answer
        except TimeoutError:
            self.counters["calls_unanswered"] += 1
            raise Unavailable("the node that holds this") from None
        finally:
            self._open.pop(number, None)
        if said.error_code:
            raise RequestError(said.error_code, said.error_message)
        return _message(said.response_type, said.response)

    def answered(self, node: NodeId, word: bus.Answer) -> None:
        asked = self._open.get(word.number)
        if asked is None or asked[0] != node or asked[1].done():
            self.counters["answers_late"] += 1
            return
        asked[1].set_result(word)

    def node_gone(self, node: NodeId) -> None:
        for asked, answer in list(self._open.values()):
            if asked == node and not answer.done():
                answer.set_exception(Unavailable("the node that holds this"))

    def asked(self, node: NodeId, word: bus.Ask) -> None:
        self._cluster.spawn(self._serve(node, word))

    async def _serve(self, node: NodeId, word: bus.Ask) -> None:
        try:
            request = _message(word.request_type, word.request)
            if word.service == "RoomService":
                response = await self.room_service(word.method, request, word.hops)
            elif word.service == "Egress":
                response = await self._cluster.placement.serve_here(word.method, request)
            else:
                raise RequestError("unimplemented", f"{word.service} is not served by that node")
            answer = bus.Answer(
                number=word.number,
                response_type=response.DESCRIPTOR.full_name,
                response=response.SerializeToString(),
            )
        except RequestError as error:
            answer = bus.Answer(number=word.number, error_code=error.code, error_message=error.message)
        self._cluster.say(node, answer)


def _patience_s(method: str, request: Message) -> float:
    """How long the answer of another node may take; who calls a member says itself how long that one may take."""
    if isinstance(request, room.PerformRpcRequest):
        return ANSWER_S + min(request.response_timeout_ms or RESPONSE_MS, MAX_RESPONSE_MS) / 1000
    return EGRESS_ANSWER_S if method.startswith(SLOW) else ANSWER_S


def _message(name: str, data: bytes) -> Message:
    """A LiveKit message by its name. RequestError for one we do not know."""
    try:
        if not name.startswith("livekit."):
            raise KeyError(name)
        kind = symbol_database.Default().GetSymbol(name)
        message: Message = kind.FromString(data)
    except (KeyError, DecodeError):
        raise RequestError("internal", "another node said something that is not understood here") from None
    return message
