"""Egress anywhere: a job starts on the node with the lowest load that takes it, and is found again wherever it runs.

Load is what each node said with its lease, at most a second ago; the node itself has the last word: one that is full
or leaving refuses, and the next is asked. The room is fetched to the node that records it, its tracks over the relay.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import Message
from livekit.protocol import egress, room

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster
    from tertulia.node.house import Seat

log = structlog.get_logger()

ELSEWHERE = frozenset({"resource_exhausted", "unavailable", "deadline_exceeded", "unimplemented"})
"""Refusals that say nothing about the request: another node may take it."""
MAX_ASKED = 8
AUTOMATIC = "StartAutomatic"
"""Between nodes only: start what the CreateRoomRequest of a room asks for."""


class Placement:
    """The Twirp service `Egress` of a cluster."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._house = cluster.house

    async def serve(self, method: str, request: Message) -> Message:
        """One call, from the API."""
        if method.startswith("Start"):
            return await self._start(method, request)
        if isinstance(request, egress.ListEgressRequest):
            return await self._list(request)
        return await self._find(method, request)

    async def automatic(self, seat: "Seat") -> None:
        """The room was made here with an egress block, and this node takes no jobs: another one starts them."""
        if seat.created.HasField("egress"):
            await self._start(AUTOMATIC, seat.created)

    async def serve_here(self, method: str, request: Message) -> Message:
        """One call that was meant for this node."""
        serve = self._house.services.get("Egress")
        if serve is None:
            raise RequestError("unimplemented", "this node takes no egress jobs")
        if method == AUTOMATIC and isinstance(request, room.CreateRoomRequest):
            await self._fetch(request.name)
            return await self._house.services["AutomaticEgress"](method, request)
        if method.startswith("Start") and (name := getattr(request, "room_name", "")):
            await self._fetch(name)
        return await serve(method, request)

    async def _fetch(self, name: str) -> None:
        """A room that other nodes hold gets its replica here."""
        if name in self._house.seats:
            return
        if await self._cluster.store.room(name) is None:
            raise RequestError("not_found", "requested room does not exist")
        await self._cluster.rooms.open_existing(name)

    def _candidates(self) -> list[NodeId]:
        """Nodes for egress, the idlest first; of two alike those that take no calls."""
        cluster = self._cluster
        records = [cluster.describe(), *cluster.directory.nodes.values()]
        takers = [record for record in records if "egress" in record.roles and not record.draining]
        takers.sort(key=lambda record: ("sfu" in record.roles, round(record.cpu_load, 1), record.id != cluster.id))
        return [NodeId(record.id) for record in takers[:MAX_ASKED]]

    async def _ask(self, node: NodeId, method: str, request: Message) -> Message:
        if node == self._cluster.id:
            return await self.serve_here(method, request)
        return await self._cluster.calls.ask(node, "Egress", method, request, 1)

    async def _start(self, method: str, request: Message) -> Message:
        refusal = RequestError("unavailable", "no node of this cluster takes egress jobs just now")
        for node in self._candidates():
            try:
                return await self._ask(node, method, request)
            except RequestError as error:
                if error.code not in ELSEWHERE:
                    raise
                self._cluster.counters["egress_refused_by_node"] += 1
                log.info("egress.refused_by_node", node=node, error=error.message)
                refusal = error
        raise refusal

    async def _list(self, request: egress.ListEgressRequest) -> egress.ListEgressResponse:
        """What all nodes have; one that does not answer is left out."""
        merged = egress.ListEgressResponse()
        for answer in await self._everywhere("ListEgress", request):
            if isinstance(answer, egress.ListEgressResponse):
                merged.items.extend(answer.items)
        merged.items.sort(key=lambda info: info.started_at)
        return merged

    async def _find(self, method: str, request: Message) -> Message:
        """Change or stop a job: the node that runs it knows it."""
        refusal = RequestError("not_found", "egress does not exist")
        for answer in await self._everywhere(method, request):
            if isinstance(answer, Message):
                return answer
            if isinstance(answer, RequestError) and answer.code != "not_found":
                refusal = answer
        raise refusal

    async def _everywhere(self, method: str, request: Message) -> "list[Message | BaseException]":
        return await asyncio.gather(
            *(self._ask(node, method, request) for node in self._candidates()), return_exceptions=True
        )
