"""Streaming to any number of RTMP(S) addresses from one encode. Runs on the event loop; the worker only makes tags.

Decides, per address: when to connect again and when to give up, what to drop when a peer is slow (everything up to the
next key frame), what StreamInfo says. How to speak RTMP is in `rtmp_client`. One address never waits for another.
As LiveKit: an address that never worked fails at once; one that did is tried again for 30 s, then it has failed.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from livekit.protocol import egress

from tertulia.egress.outputs.addresses import AddressRules, masked_rtmp, parse_rtmp
from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult, StreamSpec
from tertulia.egress.outputs.flv import Tag, Tagger
from tertulia.egress.outputs.rtmp_client import RtmpConnection, StreamLost, StreamRefused
from tertulia.protocol.errors import RequestError

log = logging.getLogger(__name__)

STREAMS_LIMIT = 32
"""Addresses one egress may have had, removed ones included."""

_FAILED, _FINISHED = egress.StreamInfo.Status.FAILED, egress.StreamInfo.Status.FINISHED


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How patient we are with a peer."""

    key_frame_interval_s: float = 4.0
    connect_timeout_s: float = 5.0
    stall_s: float = 10.0
    """A peer that reads nothing for so long is gone."""
    outage_s: float = 30.0
    """How long an address that worked is tried again."""
    proof_s: float = 2.0
    """How long the first connection must hold to count as one that worked: servers take a wrong key, then hang up."""
    stable_s: float = 10.0
    """How long a connection must hold to end an outage; a peer that closes every 3 s stays in one."""
    first_backoff_s: float = 0.5
    most_backoff_s: float = 5.0
    queue_bytes: int = 4 << 20
    close_s: float = 1.0


class _Stream:
    """One address: its connection, its queue, its StreamInfo."""

    def __init__(self, url: str, rules: AddressRules, policy: StreamPolicy, hooks: Hooks) -> None:
        self.url = url
        self.info = egress.StreamInfo(url=masked_rtmp(url))
        self.dropped_tags = 0
        self._address = parse_rtmp(url)
        self._rules, self._policy, self._hooks = rules, policy, hooks
        self._queue: deque[Tag] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._connected = self._gated = False
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def active(self) -> bool:
        return self.info.status == egress.StreamInfo.Status.ACTIVE

    def start(self) -> None:
        if self._task is None and self.active:
            self._task = asyncio.create_task(self._guarded(), name="rtmp stream")

    def deliver(self, tags: Sequence[Tag], preamble: Sequence[Tag], has_video: bool) -> None:
        """Queue tags; from the first key frame on, and again from the next one after the queue ran over."""
        if not self._connected:
            return
        for tag in tags:
            if self._gated:
                if tag.header or (has_video and not tag.key_frame):
                    continue
                self._gated = False
                for header in preamble:
                    self._push(header._replace(time_ms=tag.time_ms))
            self._push(tag)
        if self._queued_bytes > self._policy.queue_bytes:
            self.dropped_tags += len(self._queue)
            self._clear()
            self._hooks.request_key_frame()
        self._wake.set()

    def _push(self, tag: Tag) -> None:
        self._queue.append(tag)
        self._queued_bytes += len(tag.body)

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._gated = True

    async def stop(self) -> None:
        """End as asked: FINISHED, within the time a goodbye takes."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=self._policy.close_s + 1)
            for task in late:
                task.cancel()
        self.ended(_FINISHED)

    def ended(self, status: int, error: str = "") -> None:
        if not self.active:
            return
        self.info.status = status  # type: ignore[assignment]  # protobuf types its enums as classes of their own
        self.info.error, self.info.ended_at = error, time.time_ns()
        if self.info.started_at:
            self.info.duration = self.info.ended_at - self.info.started_at

    async def _guarded(self) -> None:
        try:
            await self._run()
        except Exception:  # a mistake of ours ends this stream, and is seen
            log.exception("stream to %s failed", self.info.url)
            self.ended(_FAILED, "internal error")
            self._hooks.changed()

    async def _run(self) -> None:
        outage_since, backoff_s, proven = 0.0, self._policy.first_backoff_s, False
        while not self._stopping.is_set():
            connection = RtmpConnection(self._address, self._rules)
            connected_at = 0.0
            try:
                if not await self._unless_stopping(connection.connect(self._policy.connect_timeout_s)):
                    break
                connected_at = time.monotonic()
                await self._publish(connection)
            except (StreamRefused, StreamLost) as error:
                problem = str(error)
            else:
                break
            finally:
                self._connected = False
                await connection.close(self._policy.close_s if self._stopping.is_set() else 0.1)
            now = time.monotonic()
            held_s = now - connected_at if connected_at else 0.0
            if held_s >= self._policy.stable_s:
                outage_since, backoff_s = 0.0, self._policy.first_backoff_s
            outage_since = outage_since or now
            if not proven and connected_at and held_s < self._policy.proof_s:
                problem = f"the stream ended as it began, is its key right? ({problem})"
            proven = proven or held_s >= self._policy.proof_s
            if not proven or now - outage_since >= self._policy.outage_s:
                self.ended(_FAILED, problem)
                self._hooks.changed()
                return
            await self._back_off(backoff_s)
            backoff_s = min(backoff_s * 2, self._policy.most_backoff_s)

    async def _unless_stopping(self, work: Coroutine[object, object, None]) -> bool:
        """Do `work` unless a stop comes first; False then."""
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            doing.result()
            return True
        finally:
            for task in (doing, stopping):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StreamLost, StreamRefused):
                await doing

    async def _back_off(self, backoff_s: float) -> None:
        self.info.retries += 1
        self.info.last_retry_at = time.time_ns()
        if self.info.retries == 1:
            self._hooks.changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff_s * random.uniform(0.7, 1.3)):
                await self._stopping.wait()

    async def _publish(self, connection: RtmpConnection) -> None:
        """Send what is queued until stopped. Raises StreamLost."""
        self._clear()
        self._connected = True
        self._hooks.request_key_frame()
        if not self.info.started_at:
            self.info.started_at = time.time_ns()
        self._hooks.changed()
        connection.lost.add_done_callback(lambda _: self._wake.set())
        origin_ms: int | None = None
        while not self._stopping.is_set() or self._queue:
            if connection.lost.done():
                raise StreamLost(connection.lost.result())
            if connection.unread_s() > self._policy.stall_s:
                raise StreamLost(f"the other side has read nothing for {self._policy.stall_s:g} s")
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            tag = self._queue.popleft()
            self._queued_bytes -= len(tag.body)
            origin_ms = tag.time_ms if origin_ms is None else origin_ms
            try:
                patience_s = self._policy.close_s if self._stopping.is_set() else self._policy.stall_s
                async with asyncio.timeout(patience_s):
                    await connection.send(tag, max(0, tag.time_ms - origin_ms))
            except TimeoutError:
                raise StreamLost(f"the other side has read nothing for {patience_s:g} s") from None


class StreamsOutput:
    """The stream group of one egress. Satisfies `api.Output`."""

    def __init__(
        self,
        urls: Sequence[str],
        rules: AddressRules = AddressRules(),  # noqa: B008 (frozen)
        hooks: Hooks = Hooks(),  # noqa: B008 (frozen)
        policy: StreamPolicy = StreamPolicy(),
    ) -> None:
        """On the loop. Raises RequestError for an address that cannot be taken."""
        self._loop = asyncio.get_running_loop()
        self._rules, self._hooks, self._policy = rules, hooks, policy
        self._streams: list[_Stream] = []
        self._tagger: Tagger | None = None  # the worker's
        self._preamble: tuple[Tag, ...] = ()  # the worker's
        self._opened = self._closed = False
        self._failed: str | None = None
        for url in urls:
            self.add(url)

    @property
    def key_frame_interval_s(self) -> float | None:
        return self._policy.key_frame_interval_s

    @property
    def active(self) -> int:
        """How many addresses are being streamed to, or may be again."""
        return sum(stream.active for stream in self._streams)

    @property
    def dropped_tags(self) -> int:
        return sum(stream.dropped_tags for stream in self._streams)

    @property
    def failed(self) -> str | None:
        """Over when every address is, and not because callers took them away."""
        if self._failed is None and self._streams and not self.active and not self._closed:
            errors = [stream.info.error for stream in self._streams if stream.info.status == _FAILED]
            if errors:
                return f"no stream is left: {errors[-1]}"
        return self._failed

    def add(self, url: str) -> None:
        """Also while streaming (UpdateStream). Raises RequestError."""
        if any(stream.active and stream.url == url for stream in self._streams):
            raise RequestError("already_exists", f"stream {masked_rtmp(url)} is already there")
        if len(self._streams) >= STREAMS_LIMIT:
            raise RequestError("resource_exhausted", f"an egress takes at most {STREAMS_LIMIT} stream addresses")
        stream = _Stream(url, self._rules, self._policy, self._hooks)
        self._streams.append(stream)
        if self._opened and not self._closed:
            stream.start()

    async def remove(self, url: str) -> None:
        """Raises RequestError(not_found)."""
        for stream in self._streams:
            if stream.active and stream.url == url:
                await stream.stop()
                self._hooks.changed()
                return
        raise RequestError("not_found", f"stream {masked_rtmp(url)} is not there")

    def open(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        del epoch_ns  # a stream's clock is its peer's
        try:
            self._tagger = Tagger(streams)
        except ValueError as error:
            self._on_loop(self._fail, str(error))
            return
        self._on_loop(self._start)

    def write(self, packet: EncodedPacket) -> None:
        tagger = self._tagger
        if tagger is None or self._closed:
            return
        tags = tagger.tags(packet)
        if not self._preamble or any(tag.header for tag in tags):
            self._preamble = tuple(tagger.preamble)
        if tags:
            self._on_loop(self._deliver, tags, self._preamble, tagger.has_video)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *arguments)

    def _start(self) -> None:
        if not self._closed:
            self._opened = True
            for stream in self._streams:
                stream.start()

    def _deliver(self, tags: Sequence[Tag], preamble: Sequence[Tag], has_video: bool) -> None:
        for stream in self._streams:
            stream.deliver(tags, preamble, has_video)

    def _fail(self, why: str) -> None:
        self._failed = self._failed or why
        for stream in self._streams:
            stream.ended(_FAILED, why)
        self._hooks.changed()

    async def close(self) -> None:
        await asyncio.sleep(0)  # what the worker said before is heard first
        if not self._closed:
            self._failed = self.failed
            self._closed = True
            await asyncio.gather(*(stream.stop() for stream in self._streams))

    async def abort(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            for stream in self._streams:
                stream.ended(_FAILED, why)
            self._failed = self._failed or why
            await asyncio.gather(*(stream.stop() for stream in self._streams))

    def result(self) -> OutputResult:
        infos = []
        for stream in self._streams:
            info = egress.StreamInfo()
            info.CopyFrom(stream.info)
            infos.append(info)
        return OutputResult(streams=infos)
