"""Every egress of this node: started, listed, changed, stopped. Satisfies `api.Egress`.

Decides admission and what callers are answered; one ticker serves all sessions. Nothing here waits for media.
"""

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Literal

from livekit.protocol import egress, models
from livekit.protocol import room as room_messages

from tertulia.egress.api import EgressConfig
from tertulia.egress.automatic import Automatic
from tertulia.egress.budget import Budget
from tertulia.egress.job import EndReason
from tertulia.egress.plan import Request, make_plan
from tertulia.egress.session import Session, Surroundings
from tertulia.egress.targets import stream_urls
from tertulia.protocol.errors import RequestError
from tertulia.protocol.machine import Nanos
from tertulia.protocol.tap import TapRoom

log = logging.getLogger(__name__)

TICK_S = 0.02
LAYOUT_LIMIT = 256


@dataclass(slots=True)
class _Entry:
    session: Session
    cores: float


class EgressService:
    """See `api` for what the arguments are. `pause` is `asyncio.sleep`, or a simulation's."""

    def __init__(
        self,
        rooms: Callable[[str], TapRoom],
        config: EgressConfig,
        *,
        on_update: Callable[[egress.EgressInfo], None],
        new_id: Callable[[], str],
        clock: Callable[[], Nanos],
        wall_ns: Callable[[], int],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rooms = rooms
        self._new_id = new_id
        self._clock = clock
        self._pause = pause
        self._around = Surroundings(config, clock, wall_ns, on_update)
        self._budget = Budget(config.cpu_cores, config.max_cpu_utilization, config.jobs_limit, config.video_preset)
        self._running: dict[str, _Entry] = {}
        self._ended: dict[str, egress.EgressInfo] = {}
        self._automatic: dict[str, Automatic] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # LiveKit's Egress service

    async def start(self, request: Request) -> egress.EgressInfo:
        config = self._around.config
        plan = make_plan(request, root=str(config.root))
        await asyncio.to_thread(_load)
        from tertulia.egress.outlets import check_storage

        check_storage(plan, config)
        if self._closing:
            raise RequestError("unavailable", "this server is going down")
        room = self._rooms(plan.room_name)
        try:
            cores = self._budget.take(plan)
        except RequestError:
            room.leave()
            raise
        try:
            session = Session(self._new_id(), plan, room, self._around)
            session.begin()
        except BaseException:
            self._budget.give_back(cores)
            room.leave()
            raise
        self._running[session.job.egress_id] = _Entry(session, cores)
        self._spawn(self._see_off(session, cores))
        self._wake_ticker()
        return session.job.info()

    async def start_room_composite(self, request: egress.RoomCompositeEgressRequest) -> egress.EgressInfo:
        return await self.start(request)

    async def start_participant(self, request: egress.ParticipantEgressRequest) -> egress.EgressInfo:
        return await self.start(request)

    async def start_track_composite(self, request: egress.TrackCompositeEgressRequest) -> egress.EgressInfo:
        return await self.start(request)

    async def start_track(self, request: egress.TrackEgressRequest) -> egress.EgressInfo:
        return await self.start(request)

    async def start_automatic(self, room: models.Room, wish: room_messages.RoomEgress) -> None:
        if wish.HasField("room"):
            request = egress.RoomCompositeEgressRequest()
            request.CopyFrom(wish.room)
            request.room_name = room.name
            await self.start(request)
        if not wish.HasField("participant") and not wish.HasField("tracks"):
            return
        if room.name in self._automatic:
            return
        self._automatic[room.name] = Automatic(self._rooms(room.name), wish, self._start_later)
        self._wake_ticker()

    async def update_layout(self, request: egress.UpdateLayoutRequest) -> egress.EgressInfo:
        session = self._find(request.egress_id, "updated")
        if len(request.layout) > LAYOUT_LIMIT:
            raise RequestError("invalid_argument", "request has missing or invalid field: layout (too long)")
        session.set_layout(request.layout)
        return session.job.info()

    async def update_stream(self, request: egress.UpdateStreamRequest) -> egress.EgressInfo:
        session = self._find(request.egress_id, "updated")
        adds = [*request.add_output_urls, *(destination.url for destination in request.add_destinations)]
        add = stream_urls(adds, "add_output_urls")
        remove = stream_urls(request.remove_output_urls, "remove_output_urls")
        if not add and not remove:
            raise RequestError("invalid_argument", "request has missing or invalid field: add_output_urls (missing)")
        await session.update_streams(add, remove)
        return session.job.info()

    async def list(self, request: egress.ListEgressRequest) -> egress.ListEgressResponse:
        infos = [*self._ended.values(), *(entry.session.job.info() for entry in self._running.values())]
        if request.egress_id:
            infos = [info for info in infos if info.egress_id == request.egress_id]
        elif request.room_name:
            infos = [info for info in infos if info.room_name == request.room_name]
        if request.active:
            infos = [info for info in infos if info.status < egress.EGRESS_COMPLETE]
        return egress.ListEgressResponse(items=infos)

    async def stop(self, request: egress.StopEgressRequest) -> egress.EgressInfo:
        session = self._find(request.egress_id, "stopped")
        session.stop(EndReason.API)
        return session.job.info()

    # the node

    def is_recording(self, room_name: str) -> bool:
        return any(
            entry.session.plan.room_name == room_name and not entry.session.job.over for entry in self._running.values()
        )

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(entry.session for entry in self._running.values())

    @property
    def budget(self) -> Budget:
        """For metrics and `doctor`."""
        return self._budget

    async def close(self) -> None:
        self._closing = True
        for automatic in self._automatic.values():
            automatic.close()
        self._automatic.clear()
        sessions = self.sessions
        for session in sessions:
            session.stop(EndReason.SERVER_CLOSED)
        await asyncio.gather(*(session.done.wait() for session in sessions))
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ticker is not None:
            self._ticker.cancel()

    # inside

    def _find(self, egress_id: str, verb: Literal["stopped", "updated"]) -> Session:
        if not egress_id:
            raise RequestError("invalid_argument", "request has missing or invalid field: egress_id (missing)")
        entry = self._running.get(egress_id)
        if entry is not None:
            entry.session.job.refuse_if_over(verb)
            return entry.session
        ended = self._ended.get(egress_id)
        if ended is None:
            raise RequestError("not_found", "egress does not exist")
        status = egress.EgressStatus.Name(ended.status)
        raise RequestError("failed_precondition", f"egress with status {status} cannot be {verb}")

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_off(self, session: Session, cores: float) -> None:
        await session.done.wait()
        self._budget.give_back(cores)
        del self._running[session.job.egress_id]
        self._ended[session.job.egress_id] = session.job.info()
        while len(self._ended) > self._around.config.ended_kept:
            del self._ended[next(iter(self._ended))]

    def _start_later(self, request: Request) -> None:
        self._spawn(self._start_quietly(request))

    async def _start_quietly(self, request: Request) -> None:
        """An automatic egress that cannot start is told like one that failed."""
        try:
            await self.start(request)
        except RequestError as error:
            log.warning("automatic egress of room %s not started: %s", request.room_name, error.message)  # type: ignore[union-attr]
            info = egress.EgressInfo(status=egress.EGRESS_FAILED, error=error.message, ended_at=self._around.wall_ns())
            info.room_name = request.room_name  # type: ignore[union-attr]
            self._around.on_update(info)

    def _wake_ticker(self) -> None:
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick(), name="egress ticker")

    async def _tick(self) -> None:
        while self._running or self._automatic:
            now = self._clock()
            for session in self.sessions:
                session.tick(now)
            for name, automatic in list(self._automatic.items()):
                if not self._goes_on(name, automatic):
                    del self._automatic[name]
            await self._pause(TICK_S)

    @staticmethod
    def _goes_on(name: str, automatic: Automatic) -> bool:
        try:
            return automatic.tick()
        except Exception:  # one room's standing wish, not the other rooms' recordings
            log.exception("automatic egress of room %s ends", name)
            return False


def _load() -> None:
    """libav, numpy and obstore take a while to load: the first egress does it, beside the loop."""
    for name in ("outlets", "composite", "passthrough"):
        importlib.import_module(f"tertulia.egress.{name}")
