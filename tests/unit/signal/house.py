"""A small house behind the real door: enough room keeping to answer official clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import SessionId
from tertulia.signal.backend import Command, JoinAttempt, Outlet, Place, Readiness, Refused
from tertulia.signal.server import FrontDoor
from tertulia.signal.settings import DoorSettings

KEY, SECRET = "devkey", "secret"
KEYS = {KEY: SECRET, "second": "another secret that is long enough to be one"}


class House:
    """Implements `Backend`: every join is answered with a JoinResponse, rooms live in a dict."""

    def __init__(self) -> None:
        self.attempts: list[JoinAttempt] = []
        self.requests: list[tuple[SessionId, rtc.SignalRequest]] = []
        self.closed: asyncio.Queue[tuple[SessionId, str]] = asyncio.Queue()
        self.outlets: dict[SessionId, Outlet] = {}
        self.rooms: dict[str, models.Room] = {}
        self.commands: list[Command] = []
        self.refusal: Exception | None = None
        self.silent = False
        self.hanging = False
        self.cancelled = 0
        self.ready = Readiness(True)

    async def _maybe_hang(self) -> None:
        try:
            if self.hanging:
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def validate(self, attempt: JoinAttempt) -> None:
        await self._maybe_hang()
        if self.refusal:
            raise self.refusal

    async def join(self, attempt: JoinAttempt, outlet: Outlet) -> None:
        await self._maybe_hang()
        if self.refusal:
            raise self.refusal
        self.attempts.append(attempt)
        self.outlets[attempt.session] = outlet
        if self.silent:
            return
        # Out of order on purpose: the session must put `join` first.
        outlet.send(rtc.SignalResponse(refresh_token="later"))
        outlet.send(rtc.SignalResponse(join=self.welcome(attempt)))

    def welcome(self, attempt: JoinAttempt) -> rtc.JoinResponse:
        return rtc.JoinResponse(
            room=models.Room(sid="RM_a", name=attempt.room),
            participant=models.ParticipantInfo(sid="PA_a", identity=attempt.claims.identity),
            ping_interval=5,
            ping_timeout=15,
        )

    def request(self, session: SessionId, message: rtc.SignalRequest) -> None:
        self.requests.append((session, message))
        if message.WhichOneof("message") == "leave":
            self.outlets.pop(session).end()
        if message.WhichOneof("message") == "simulate":
            raise RuntimeError("the house has a bug")

    def session_closed(self, session: SessionId, reason: str) -> None:
        self.outlets.pop(session, None)
        self.closed.put_nowait((session, reason))

    async def command(self, command: Command) -> Message:
        self.commands.append(command)
        request: Any = command.request
        match command.method:
            case "CreateRoom":
                created = models.Room(sid="RM_a", name=request.name, max_participants=request.max_participants)
                return self.rooms.setdefault(request.name, created)
            case "ListRooms":
                return room.ListRoomsResponse(rooms=self.rooms.values())
            case "GetParticipant":
                raise RequestError("not_found", "participant does not exist")
            case "RemoveParticipant":
                raise ZeroDivisionError("a bug")
            case "SendData":
                await asyncio.sleep(3600)
        raise RequestError("unimplemented", f"{command.method} is not implemented")

    def readiness(self) -> Readiness:
        return self.ready

    def place(self) -> Place:
        return Place("ND_tea", "söul\r\nx: y")

    def regions(self, asked_at: str) -> rtc.RegionSettings:
        here = rtc.RegionInfo(region="here", url=asked_at, distance=0)
        return rtc.RegionSettings(regions=[here, rtc.RegionInfo(region="there", url="wss://there", distance=7)])

    def metrics(self) -> bytes:
        return b"tertulia_rooms 0\n"


class Street:
    """A running front door and the house behind it."""

    def __init__(self, house: House, front: FrontDoor) -> None:
        self.house = house
        self.front = front
        self.host, self.port = front.addresses[0]

    @property
    def http(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://{self.host}:{self.port}"

    async def gone(self) -> str:
        """Why the next session ended."""
        return (await asyncio.wait_for(self.house.closed.get(), 10))[1]


@asynccontextmanager
async def open_street(settings: DoorSettings | None = None, **kwargs: Any) -> AsyncIterator[Street]:
    house = House()
    front = FrontDoor(house, KEYS, settings, **kwargs)
    await front.start(["127.0.0.1"], 0)
    try:
        yield Street(house, front)
    finally:
        await front.stop(grace_s=0)


__all__ = ["KEY", "KEYS", "SECRET", "House", "Refused", "Street", "open_street"]
