"""A thread of its own for an output that writes files: a slow or hanging disk holds up nobody else.

Decides how much may wait for the disk (then the output has failed, clearly) and that every failure ends in words, not
in an exception. What is written is the subclass's business: `_begin`, `_take`, `_finish` run in the lane's thread only.
"""

import asyncio
import contextlib
import errno
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult, StreamSpec
from tertulia.protocol.errors import RequestError

log = logging.getLogger(__name__)

BACKLOG_BYTES = 64 << 20
"""What may wait for the disk: two minutes at 4 Mbit/s."""
FINISH_LIMIT_S = 30.0
"""How long a disk may take to finish a file before the output is declared failed and left behind."""
NICENESS = 10
"""Writing must not take the CPU from forwarding; the same as the encoder threads'."""


def words(error: BaseException) -> str:
    """A failed write as EgressInfo.error tells it."""
    if isinstance(error, RequestError):
        return error.message
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk is full"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return "the recordings' directory cannot be written to"
        return f"writing failed: {os.strerror(error.errno).lower() if error.errno else type(error).__name__}"
    return f"writing failed: {type(error).__name__}"


class LaneOutput(ABC):
    """Base of file-writing outputs; satisfies `api.Output` with what subclasses fill in."""

    key_frame_interval_s: float | None = None

    def __init__(self, name: str, hooks: Hooks) -> None:
        """On the loop."""
        self._loop = asyncio.get_running_loop()
        self._hooks = hooks
        self._name = name
        self._failed: str | None = None
        self._broken = False
        """What is still queued cannot be written; unlike after an `abort`."""
        self._work: deque[tuple[int, Callable[[], None]]] = deque()
        self._work_bytes = 0
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._stopping = False
        self._closing: asyncio.Task[None] | None = None

    # What a subclass fills in; the first three in the lane's thread.

    @abstractmethod
    def _begin(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None: ...

    @abstractmethod
    def _take(self, packet: EncodedPacket) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Leave behind what is readable; also after `_begin` or `_take` raised."""

    @abstractmethod
    async def _stored(self, *, upload: bool) -> None:
        """On the loop, after `_finish`."""

    @abstractmethod
    def result(self) -> OutputResult: ...

    # The shared life.

    @property
    def failed(self) -> str | None:
        return self._failed

    def open(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        with self._ready:
            if self._thread is not None or self._stopping:
                return
            self._thread = threading.Thread(target=self._run, name=f"egress {self._name}"[:60], daemon=True)
            self._work.append((0, lambda: self._begin(streams, epoch_ns)))
        self._thread.start()

    def write(self, packet: EncodedPacket) -> None:
        self._submit(len(packet.data), lambda: self._take(packet))

    def _submit(self, size: int, work: Callable[[], None]) -> None:
        with self._ready:
            if self._stopping or self._broken or self._thread is None:
                return
            if self._work_bytes + size > BACKLOG_BYTES:
                self._fail("the disk is too slow for the recording")
                return
            self._work.append((size, work))
            self._work_bytes += size
            self._ready.notify()

    def _fail(self, why: str) -> None:
        """Any thread. The first reason stays."""
        self._broken = True
        if self._failed is None:
            self._failed = why
            self._post(self._hooks.changed)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *arguments)

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while self._step():
            pass
        try:
            self._finish()
        except Exception as error:
            self._note(error)
        self._post(self._ended.set)

    def _step(self) -> bool:
        with self._ready:
            while not self._work and not self._stopping:
                self._ready.wait()
            if not self._work:
                return False
            size, work = self._work.popleft()
            self._work_bytes -= size
        if not self._broken:
            try:
                work()
            except Exception as error:
                self._note(error)
        return True

    def _note(self, error: Exception) -> None:
        if not isinstance(error, OSError | RequestError):  # not the disk's fault, so ours
            log.error("egress output %s failed", self._name, exc_info=error)
        self._fail(words(error))

    async def close(self) -> None:
        await self._end(upload=True)

    async def abort(self, why: str) -> None:
        self._failed = self._failed or why
        await self._end(upload=False)

    async def _end(self, *, upload: bool) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end_once(upload=upload), name=f"close {self._name}")
        await asyncio.shield(self._closing)

    async def _end_once(self, *, upload: bool) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread is not None:
            try:
                async with asyncio.timeout(FINISH_LIMIT_S):
                    await self._ended.wait()
            except TimeoutError:
                self._fail("the disk did not finish the recording in time")
                upload = False
        await self._stored(upload=upload)
