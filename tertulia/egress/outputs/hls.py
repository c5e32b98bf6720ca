"""HLS: MPEG-TS segments, a playlist of all of them, and a live playlist of the last few.

Decides what is told to viewers when: a segment is listed once it can be fetched, playlists change atomically, the whole
playlist is uploaded less often the longer it gets. A storage that is away for a while costs nothing: segments wait on
the local disk and follow in order. Where segments are cut is decided in `segments`.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from livekit.protocol import egress

from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult, StoredFile, StreamSpec
from tertulia.egress.outputs.lane import LaneOutput
from tertulia.egress.outputs.playlist import LIVE_WINDOW, Entry, Playlist
from tertulia.egress.outputs.segments import Segment, SegmentCutter
from tertulia.egress.outputs.upload import Depot
from tertulia.protocol.errors import RequestError

log = logging.getLogger(__name__)

PENDING_NS = 3_600_000_000_000
"""How much recorded time may wait for the storage (LiveKit's max_upload_queue)."""
PLAYLIST_EVERY_NS = 60_000_000_000
"""The whole playlist is uploaded at least as often as this."""
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)

SEGMENT_TYPE, PLAYLIST_TYPE = "video/mp2t", "application/x-mpegurl"


@dataclass(frozen=True, slots=True)
class SegmentsPlan:
    """Names are clean paths below the storage's root. `prefix` names segments: `{prefix}_{number or time}.ts`."""

    prefix: str
    playlist: str
    live_playlist: str = ""
    segment_s: int = 4
    timestamps: bool = False


class SegmentsOutput(LaneOutput):
    """One HLS recording. Satisfies `api.Output`."""

    def __init__(self, plan: SegmentsPlan, depot: Depot, hooks: Hooks = Hooks()) -> None:  # noqa: B008
        """On the loop. Raises RequestError for names that cannot be."""
        super().__init__(plan.playlist, hooks)
        if plan.live_playlist == plan.playlist:
            raise RequestError("invalid_argument", "request has missing or invalid field: live_playlist_name")
        self._plan, self._depot = plan, depot
        self.key_frame_interval_s = float(plan.segment_s)
        for name in filter(None, (plan.playlist, plan.live_playlist, plan.prefix)):
            depot.local(name)
        self._cutter: SegmentCutter | None = None
        self._epoch_ns = 0
        self._main = Playlist(plan.playlist, plan.segment_s)
        self._live = Playlist(plan.live_playlist, plan.segment_s, LIVE_WINDOW) if plan.live_playlist else None
        self._pending: deque[tuple[str, Segment]] = deque()
        self._pending_ns = 0
        self._more = asyncio.Event()
        self._uploader: asyncio.Task[None] | None = None
        self._ending = False
        self._stored_files: list[StoredFile] = []
        self._info = egress.SegmentsInfo(playlist_name=plan.playlist, live_playlist_name=plan.live_playlist)
        self._first_ns: int | None = None
        self._told_ns = 0

    # In the lane's thread.

    def _begin(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        self._epoch_ns = epoch_ns
        try:
            self._cutter = SegmentCutter(streams, self._plan.segment_s * 1_000_000_000, self._part)
        except ValueError as error:
            raise RequestError("invalid_argument", str(error)) from None

    def _part(self, index: int) -> Path:
        return self._depot.local(f"{self._plan.prefix}_{index:05d}.ts.part")

    def _take(self, packet: EncodedPacket) -> None:
        assert self._cutter is not None
        if (segment := self._cutter.take(packet)) is not None:
            self._publish(segment)
        if self._cutter.wants_key_frame:
            self._cutter.wants_key_frame = False
            self._hooks.request_key_frame()

    def _publish(self, segment: Segment) -> None:
        """Give the segment its name; from here on it is whole."""
        begun_ns = self._epoch_ns + segment.first_ns
        if self._plan.timestamps:
            moment = datetime.fromtimestamp(begun_ns // 1_000_000_000, UTC)
            suffix = f"{moment:%Y%m%d%H%M%S}{begun_ns // 1_000_000 % 1000:03d}"
        else:
            suffix = f"{segment.index:05d}"
        name = f"{self._plan.prefix}_{suffix}.ts"
        os.replace(segment.path, self._depot.local(name))
        self._post(self._finished, name, segment)

    def _finish(self) -> None:
        if self._cutter is not None and (segment := self._cutter.finish(broken=self._broken)) is not None:
            self._publish(segment)

    # On the loop.

    def _finished(self, name: str, segment: Segment) -> None:
        if self._first_ns is None:
            self._first_ns = segment.first_ns
            self._info.started_at = self._epoch_ns + segment.first_ns
            self._hooks.changed()
        self._info.ended_at = self._epoch_ns + segment.first_ns + segment.duration_ns
        self._info.duration = self._info.ended_at - self._info.started_at
        self._info.size += segment.size
        self._pending.append((name, segment))
        self._pending_ns += segment.duration_ns
        if self._pending_ns > PENDING_NS:
            self._fail("the storage has been away for too long; the segments are kept locally")
        self._more.set()
        if self._uploader is None:
            self._uploader = asyncio.create_task(self._guarded(), name="hls uploader")

    async def _guarded(self) -> None:
        try:
            await self._upload()
        except Exception:  # a mistake of ours ends this output, and is seen
            log.exception("hls upload failed")
            self._fail("internal error")

    async def _upload(self) -> None:
        """Store segments in order; one that cannot be stored holds back the others until it can."""
        failures = 0
        while self._pending or not self._ending:
            if not self._pending:
                self._more.clear()
                await self._more.wait()
                continue
            name, segment = self._pending[0]
            stored = await self._depot.store(name, SEGMENT_TYPE)
            if stored.error:
                if self._ending:
                    return
                failures += 1
                log.warning("hls segment %s waits for the storage (%d tries)", name, failures)
                await self._pause(RETRY_S[min(failures, len(RETRY_S)) - 1])
                continue
            failures = 0
            self._pending.popleft()
            self._pending_ns -= segment.duration_ns
            await self._list(stored, segment)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the recording."""
        try:
            async with asyncio.timeout(seconds):
                while not self._ending:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            pass

    async def _list(self, stored: StoredFile, segment: Segment) -> None:
        self._stored_files.append(stored)
        self._info.segment_count += 1
        begun_ns = self._epoch_ns + segment.first_ns
        entry = Entry(stored.name, segment.duration_ns, begun_ns, segment.discontinuity)
        self._main.add(entry)
        if self._live is not None:
            self._live.add(entry)
            await self._write(self._live)
        # Every n-th segment, n growing by one each hour: a playlist of hours is long (LiveKit does the same).
        recorded_ns = segment.first_ns - (self._first_ns or 0)
        every = recorded_ns // 3_600_000_000_000 + 1
        if self._info.segment_count % every == 0 or segment.first_ns - self._told_ns >= PLAYLIST_EVERY_NS:
            self._told_ns = segment.first_ns
            await self._write(self._main)

    async def _write(self, playlist: Playlist, *, ended: bool = False) -> StoredFile:
        text = playlist.text(ended=ended).encode()
        return await self._depot.write(playlist.name, text, PLAYLIST_TYPE, last=ended)

    async def _stored(self, *, upload: bool) -> None:
        self._ending = True
        self._more.set()
        if self._uploader is not None:
            if not upload and self._depot.uploads:
                self._uploader.cancel()
            await asyncio.wait([self._uploader])
        if self._first_ns is None:
            return
        if self._pending:
            self._keep_locally()
        if self._info.segment_count:
            await self._end_playlists()

    def _keep_locally(self) -> None:
        names = [name for name, _ in self._pending]
        where = self._depot.local(names[0]).parent
        self._fail(f"upload failed: {len(names)} segments are kept in {where}")
        for name, segment in self._pending:
            self._stored_files.append(
                StoredFile(name, str(self._depot.local(name)), segment.size, error="not uploaded")
            )

    async def _end_playlists(self) -> None:
        main = await self._write(self._main, ended=True)
        self._info.playlist_location = main.location
        self._stored_files.append(main)
        if self._live is not None:
            live = await self._write(self._live, ended=True)
            self._info.live_playlist_location = live.location
            self._stored_files.append(live)
        if main.error:
            self._fail(main.error)

    def result(self) -> OutputResult:
        info = egress.SegmentsInfo()
        info.CopyFrom(self._info)
        return OutputResult(
            segments=[info], stored=list(self._stored_files), backup_storage_used=self._depot.backup_used
        )
