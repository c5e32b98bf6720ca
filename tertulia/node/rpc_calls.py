"""RoomService.PerformRpc at its place on this node: the request goes into the room, the caller waits for its end.

The room answers every call exactly once (`sfu.rpc`); if it ends or crashes first, its calls end here.
"""

import asyncio
import itertools
from typing import TYPE_CHECKING

from livekit.protocol import room

from tertulia.protocol.errors import RequestError
from tertulia.sfu.events import PerformRpc, RpcAnswered

if TYPE_CHECKING:
    from tertulia.node.house import Seat


class RpcCalls:
    """Calls of this node that wait for a member's answer."""

    def __init__(self) -> None:
        self._tickets = itertools.count(1)
        self._waiting: dict[int, tuple[Seat, asyncio.Future[room.PerformRpcResponse]]] = {}

    async def perform(self, seat: "Seat", request: room.PerformRpcRequest) -> room.PerformRpcResponse:
        """The member's answer, or RequestError. A caller that goes away does not stop the member."""
        ticket = next(self._tickets)
        answer: asyncio.Future[room.PerformRpcResponse] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = (seat, answer)
        try:
            seat.driver.handle(PerformRpc(ticket, request))
            if seat.driver.stopped and not answer.done():
                raise RequestError("internal", "the room ended while it carried this out")
            return await answer
        finally:
            del self._waiting[ticket]

    def answered(self, output: RpcAnswered) -> None:
        _, answer = self._waiting.get(output.ticket, (None, None))
        if answer is None or answer.done():
            return
        if output.error is not None:
            answer.set_exception(output.error)
        else:
            answer.set_result(room.PerformRpcResponse(payload=output.payload))

    def room_ended(self, seat: "Seat") -> None:
        """What the room did not answer it never will."""
        for whose, answer in self._waiting.values():
            if whose is seat and not answer.done():
                answer.set_exception(RequestError("internal", "the room ended while it carried this out"))
