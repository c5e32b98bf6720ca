"""One running egress: its job, its feed and worker, its outputs, from the request to the last upload.

Decides when the job's table is told what has happened, and in which order things are let go: taps, worker, outputs,
manifest. Runs on the loop; `tick` never waits.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livekit.protocol import egress, models

from tertulia.egress.api import EgressConfig
from tertulia.egress.engine import Batch, Engine, EngineSettings, TrackOpened
from tertulia.egress.feed import Feed
from tertulia.egress.job import EgressJob, EndReason, Happening
from tertulia.egress.naming import Facts
from tertulia.egress.outputs.api import Hooks, OutputResult
from tertulia.egress.plan import OneTrackSource, Plan, RoomSource
from tertulia.egress.stage import Stage
from tertulia.egress.targets import FileTarget, ImagesTarget, SegmentsTarget, StreamsTarget, WebSocketTarget
from tertulia.egress.worker import Report, Worker
from tertulia.protocol.errors import RequestError
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import TapRoom

if TYPE_CHECKING:
    from tertulia.egress.outlets import Outlets

log = logging.getLogger(__name__)

CHECK_NS = 500 * MILLISECOND
"""How often outputs are asked whether they are well, and how often a change of theirs is told."""
HTTP_OF = {"invalid_argument": 400, "not_found": 404, "permission_denied": 403, "unavailable": 503}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session is given by the service."""

    config: EgressConfig
    clock: Callable[[], Nanos]
    wall_ns: Callable[[], int]
    on_update: Callable[[egress.EgressInfo], None]


class Session:
    """Made on the loop by `service`; `done` is set when nothing of it is left."""

    def __init__(self, egress_id: str, plan: Plan, room: TapRoom, around: Surroundings) -> None:
        self.plan = plan
        self._around = around
        self._loop = asyncio.get_running_loop()
        now = around.clock()
        self._started_at = now
        self._checked_at = now
        self._active_at: Nanos | None = None
        self._room_sid = room.info.sid
        self.job = EgressJob(egress_id, self._room_sid, plan, around.wall_ns(), self._results)
        size = (plan.video.width, plan.video.height) if plan.video else None
        self._stage = Stage(plan.source, size, audio=plan.audio is not None)
        self._feed = Feed(room, self._stage, self._put, opened=self._track_opened, muted=self._muted)
        self._worker: Worker | None = None
        self._outlets: Outlets | None = None
        self._worker_done = asyncio.Event()
        self._changed = False
        self._ending: asyncio.Task[None] | None = None
        self.done = asyncio.Event()

    def begin(self) -> None:
        """Tell the caller that the job exists. Raises RequestError when its outputs cannot be."""
        if isinstance(self.plan.source, RoomSource):
            self._open_outlets(self._facts(None), "")
        self._emit()

    # what others tell us

    def tick(self, now: Nanos) -> None:
        """Every 20 ms or so, until `stopping`."""
        if self.job.stopping:
            return
        try:
            self._feed.tick(now)
            self._watch(now)
        except RequestError as error:
            self._fail(error.message, HTTP_OF.get(error.code, 500))
        except Exception as error:  # ends this recording, not the others
            log.exception("egress %s failed", self.job.egress_id)
            self._fail(f"internal error: {type(error).__name__}", 500)

    def stop(self, reason: EndReason) -> None:
        """End in order; more than once is once."""
        self._happen(Happening.STOP, reason=reason)

    def set_layout(self, layout: str) -> None:
        if not isinstance(self.plan.source, RoomSource) or self.plan.video is None:
            raise RequestError("failed_precondition", "only room composites with video have a layout")
        self._stage.set_layout(self._around.clock(), layout)
        self.job.wear(layout)
        self.job.touch(self._around.wall_ns())

    async def update_streams(self, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
        """Raises RequestError; addresses before the one that fails have been changed."""
        streams = self._outlets.streams if self._outlets is not None else None
        if streams is None:
            raise RequestError("failed_precondition", "this egress was started without a stream output")
        for url in add:
            streams.add(url)
        for url in remove:
            await streams.remove(url)
        self.job.touch(self._around.wall_ns())
        self._emit()

    @property
    def worker(self) -> Worker | None:
        return self._worker

    # watching over the job

    def _watch(self, now: Nanos) -> None:
        if self._feed.ended:
            self._happen(Happening.STOP, reason=EndReason.SOURCE_CLOSED)
            return
        self._watch_source(now)
        if now - self._checked_at < CHECK_NS:
            return
        self._checked_at = now
        limit_s = self._limit_s()
        if limit_s and self._active_at is not None and now - self._active_at >= limit_s * SECOND:
            self._happen(Happening.LIMIT, reason=EndReason.LIMIT)
        elif self._outlets is not None and self._outlets.all_failed:
            code = 503 if self._outlets.streams is not None or self._outlets.sockets else 500
            self._fail(next(output.failed or "" for output in self._outlets.outputs), code)
        elif self._outlets is not None and self._outlets.all_streams_removed:
            self._happen(Happening.STOP, reason=EndReason.STREAMS_STOPPED)
        elif self._changed and self.job.status == egress.EGRESS_ACTIVE:
            self._changed = False
            self.job.touch(self._around.wall_ns())
            self._emit()

    def _watch_source(self, now: Nanos) -> None:
        """What shall be recorded must come in time, and be something that can be recorded."""
        if isinstance(self.plan.source, RoomSource):
            return
        mistake = self._stage.casting.mistake
        if mistake:
            self._fail(mistake, 400)
        elif now - self._started_at > self._around.config.track_wait_s * SECOND:
            missing = self._stage.casting.missing()
            if missing:
                self._fail(f"{missing} not found", 404)

    def _limit_s(self) -> float:
        config = self._around.config
        limits = []
        for target in self.plan.targets:
            match target:
                case FileTarget():
                    limits.append(config.file_max_duration_s)
                case SegmentsTarget():
                    limits.append(config.segment_max_duration_s)
                case StreamsTarget() | WebSocketTarget():
                    limits.append(config.stream_max_duration_s)
                case ImagesTarget():
                    limits.append(config.image_max_duration_s)
        return min((limit for limit in limits if limit), default=0.0)

    # tracks, outputs, worker

    def _put(self, batch: Batch) -> None:
        if self._worker is not None:
            self._worker.put(batch)

    def _track_opened(self, order: TrackOpened) -> None:
        if self._outlets is None:
            from tertulia.egress.passthrough import file_ending

            if isinstance(self.plan.targets[0], WebSocketTarget) and order.track.track.type != models.AUDIO:
                raise RequestError(
                    "invalid_argument", f"format websocket incompatible with codec {order.track.mime_type}"
                )
            target = self.plan.targets[0]
            wish = target.template if isinstance(target, FileTarget) else ""
            self._open_outlets(self._facts(order), file_ending(order.track.mime_type, wish))

    def _muted(self, muted: bool) -> None:
        for socket in self._outlets.sockets if self._outlets is not None else ():
            socket.muted(muted)

    def _facts(self, order: TrackOpened | None) -> Facts:
        base = (self.plan.room_name, self._room_sid, self.job.egress_id, self.job.accepted_wall_ns)
        if order is None:
            return Facts(*base)
        track = order.track.track
        return Facts(
            *base,
            publisher_identity=order.track.participant.identity,
            track_id=track.sid,
            track_type=models.TrackType.Name(track.type).lower(),
            track_source=models.TrackSource.Name(track.source).lower(),
        )

    def _open_outlets(self, facts: Facts, ending: str) -> None:
        from tertulia.egress.outlets import open_outlets

        hooks = Hooks(self._note_change, self._request_key_frame)
        outlets = open_outlets(self.plan, self._around.config, facts, hooks, ending=ending)
        self._outlets = outlets
        name = f"eg {self.job.egress_id[-12:]}"
        self._worker = Worker(
            lambda: self._make_engine(outlets), self._report, name=name, nice=self._around.config.nice
        )
        self._worker.start()

    def _make_engine(self, outlets: "Outlets") -> Engine:
        """In the worker's thread."""
        config = self._around.config
        settings = EngineSettings(
            config.latency_ms * MILLISECOND,
            self._around.wall_ns() - self._around.clock(),
            config.video_preset,
            config.encoder_threads,
        )
        if not isinstance(self.plan.source, OneTrackSource):
            from tertulia.egress.composite import Composite

            return Composite(self.plan, outlets.outputs, settings, outlets.images)
        from tertulia.egress.passthrough import Pcm, Remux

        return (Pcm if outlets.sockets else Remux)(outlets.outputs, settings)

    # from other threads

    def _note_change(self) -> None:
        self._changed = True

    def _request_key_frame(self) -> None:
        if self._worker is not None:
            self._worker.request_key_frame()

    def _report(self, report: Report) -> None:
        try:
            self._loop.call_soon_threadsafe(self._reported, report)
        except RuntimeError:
            log.info("egress %s ended after the event loop", self.job.egress_id)

    def _reported(self, report: Report) -> None:
        if report.key_frames and not self.job.stopping:
            self._feed.ask_key_frames(report.key_frames, self._around.clock())
        if report.started and self._active_at is None:
            self._active_at = self._around.clock()
            self._happen(Happening.FIRST_MEDIA)
        if report.finished:
            self._worker_done.set()
            if report.failed:
                self._fail(report.failed, 500)

    # the job's table

    def _happen(self, what: Happening, *, reason: EndReason | None = None, error: str = "", code: int = 0) -> None:
        if self.job.happen(self._around.wall_ns(), what, reason=reason, error=error, code=code):
            if self.job.stopping:
                self._begin_ending()
            if not self.job.over or self._ending is None:
                self._emit()

    def _fail(self, error: str, code: int) -> None:
        self._happen(Happening.FAILURE, error=error, code=code)

    def _emit(self) -> None:
        try:
            self._around.on_update(self.job.info())
        except Exception:  # whoever listens must not end the recording
            log.exception("egress %s: nobody could be told of its state", self.job.egress_id)

    def _results(self) -> list[OutputResult]:
        return [output.result() for output in self._outlets.outputs] if self._outlets is not None else []

    # the end

    def _begin_ending(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._end(), name=f"egress end {self.job.egress_id}")

    async def _end(self) -> None:
        aborted = self.job.over
        try:
            await self._end_worker()
            if self._outlets is not None:
                await self._end_outputs(self._outlets, aborted=aborted)
                await self._tidy()
        except Exception as error:
            log.exception("egress %s did not end well", self.job.egress_id)
            self._fail(f"internal error: {type(error).__name__}", 500)
        finally:
            self.job.happen(self._around.wall_ns(), Happening.FINISHED)
            self._emit()
            self.done.set()

    async def _end_worker(self) -> None:
        now = self._around.clock()
        try:
            if not self._feed.ended:
                self._feed.tick(now)  # what has come since the last tick
        finally:
            self._feed.close()
        if self._worker is None:
            return
        self._worker.stop(now)
        try:
            async with asyncio.timeout(self._around.config.drain_timeout_s):
                await self._worker_done.wait()
        except TimeoutError:
            self._fail("the encoder did not finish in time", 500)
        engine = self._worker.engine
        if engine is not None:
            self.job.notes += engine.tally.notes()
        self.job.notes += [f"{sid} left out: {why}" for sid, why in self._stage.casting.unrecordable.items()]
        if engine is not None:
            log.info("egress %s encoded: %s", self.job.egress_id, engine.tally)

    async def _end_outputs(self, outlets: "Outlets", *, aborted: bool) -> None:
        closing = [output.abort("aborted") if aborted else output.close() for output in outlets.outputs]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("egress %s: an output did not close", self.job.egress_id, exc_info=result)
                self._fail(f"internal error: {type(result).__name__}", 500)
        if aborted:
            return
        for error in outlets.failed_for_good:
            self._fail(error, 500)
        if outlets.manifest is not None and not outlets.failed_for_good:  # where a recording could not go, nor can it
            depot, directory = outlets.manifest
            name = f"{directory}/{self.job.egress_id}.json" if directory else f"{self.job.egress_id}.json"
            stored = await depot.write(name, self._manifest(), "application/json")
            self.job.manifest_location = stored.location

    async def _tidy(self) -> None:
        from tertulia.egress.outlets import tidy

        await asyncio.to_thread(tidy, self._around.config, self.job.egress_id)

    def _manifest(self) -> bytes:
        """LiveKit's manifest (egress-features 4.6)."""
        results = self._results()
        info = self.job.info()
        manifest = {
            "egress_id": info.egress_id,
            "room_id": info.room_id,
            "room_name": info.room_name,
            "started_at": info.started_at,
            "ended_at": self._around.wall_ns(),
            "files": [{"filename": file.filename, "location": file.location} for file in info.file_results],
            "playlists": [{"location": segments.playlist_location} for segments in info.segment_results],
            "stored": [
                {"filename": stored.name, "location": stored.location, "size": stored.size}
                for result in results
                for stored in result.stored
            ],
        }
        return json.dumps(manifest, indent=1).encode()
