"""Members who only signal: they join, are seen joining by those who are there, and leave. No media, hardly any CPU."""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from urllib.parse import urlencode

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.load.measure import Histogram
from benchmarks.load.plan import PlanError, Target
from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant

WAIT_S = 5.0
STAY_S = 0.3
"""A newcomer stays so long, so that rooms stay small."""


class Signaller:
    """One participant's WebSocket. `seen` notes when (monotonic ns) others were first shown to it, by identity."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.changed = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def join(self, target: Target, room: str, identity: str) -> int:
        """When the answer was here; PlanError when it is no welcome."""
        claims = Claims(api_key=target.api_key, identity=identity, video=VideoGrant(room_join=True, room=room))
        token = build_token(claims, target.api_secret, now_s=int(time.time()), lifetime_s=600)
        query = urlencode({"sdk": "go", "version": "2.0.0", "protocol": "16", "auto_subscribe": "1"})
        try:
            async with asyncio.timeout(WAIT_S):
                self._socket = await connect(
                    f"{target.url}/rtc?{query}", additional_headers={"Authorization": f"Bearer {token}"},
                    compression=None, proxy=None, ping_interval=None, close_timeout=1,
                )  # fmt: skip
                first = rtc.SignalResponse.FromString(_bytes(await self._socket.recv()))
        except (OSError, TimeoutError, WebSocketException, DecodeError) as error:
            raise PlanError(f"a join failed: {error or type(error).__name__}") from None
        now = time.monotonic_ns()
        if first.WhichOneof("message") != "join":
            raise PlanError(f"a join was answered with `{first.WhichOneof('message')}`")
        self._note(first.join.other_participants, now)
        self._reader = asyncio.create_task(self._read(self._socket))
        return now

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(WebSocketException, DecodeError):
            async for data in socket:
                now = time.monotonic_ns()
                message = rtc.SignalResponse.FromString(_bytes(data))
                if message.WhichOneof("message") == "update":
                    self._note(message.update.participants, now)

    def _note(self, infos: Sequence[models.ParticipantInfo], now: int) -> None:
        for info in infos:
            if info.state != models.ParticipantInfo.DISCONNECTED:
                self.seen.setdefault(info.identity, now)
        self.changed.set()

    async def until_seen(self, identity: str) -> int:
        async with asyncio.timeout(WAIT_S):
            while identity not in self.seen:
                self.changed.clear()
                await self.changed.wait()
        return self.seen[identity]

    async def leave(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                goodbye = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
                await self._socket.send(rtc.SignalRequest(leave=goodbye).SerializeToString())
                await asyncio.wait_for(self._socket.close(), WAIT_S)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


async def joins_seen(here: Target, there: Target, rooms: int, joins: int, per_second: float) -> Histogram:
    """From the answer to a join at one node to the update at a member of the same room on the other."""
    found = Histogram()
    watchers = [Signaller() for _ in range(rooms)]

    async def visit(number: int) -> None:
        watcher, newcomer = watchers[number % rooms], Signaller()
        identity = f"newcomer-{number}"
        try:
            answered = await newcomer.join(here, f"seen-{number % rooms}", identity)
            try:
                seen = await watcher.until_seen(identity)
            except TimeoutError:
                raise PlanError(f"{identity} was not seen on the other node within {WAIT_S:.0f} s") from None
            found.add([seen - answered])
            await asyncio.sleep(STAY_S)
        finally:
            await newcomer.leave()

    try:
        for number, watcher in enumerate(watchers):
            await watcher.join(there, f"seen-{number}", f"watcher-{number}")
        begun, rng = time.monotonic(), random.Random(1)
        async with asyncio.TaskGroup() as group:
            for number in range(joins):
                # not in step with anything that happens once a second
                due = begun + (number + rng.random()) / per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(visit(number))
    except* PlanError as errors:
        raise PlanError(str(errors.exceptions[0])) from None
    finally:
        await asyncio.gather(*(watcher.leave() for watcher in watchers))
    return found
