"""The thread of one job: takes batches from the loop, runs the engine, reports back.

Decides how much may wait for a slow encoder, and that an engine's mistake ends one job in words. The thread is nice'd
(and with it the encoder's own threads), so that encoding never takes the CPU from forwarding.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tertulia.egress.engine import Batch, Engine, TrackClosed, TrackOpened
from tertulia.protocol.machine import Nanos

log = logging.getLogger(__name__)

WAITING_PACKETS_LIMIT = 20_000
"""Packets that may wait for the worker: about ten seconds of nine cameras. Beyond, pictures are left out, and at twice
as many sound too."""
LOWEST = 19
"""The nice value that means: only what nobody else wants (sched(7), SCHED_IDLE)."""
WAITING_BATCHES_LIMIT = 3000
"""One minute at 20 ms: a worker this far behind has stopped working."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the loop learns, posted from the worker's thread."""

    started: bool = False
    key_frames: tuple[str, ...] = ()
    finished: bool = False
    failed: str | None = None


class Worker:
    """Made and called on the loop; `run` is the thread."""

    def __init__(
        self, make_engine: Callable[[], Engine], report: Callable[[Report], None], *, name: str, nice: int
    ) -> None:
        """`make_engine` runs in the thread (it imports libav and opens encoders); `report` is called from there."""
        self._make_engine = make_engine
        self._report = report
        self._nice = nice
        self._waiting: deque[Batch] = deque()
        self._packets = 0
        self._voices: set[str] = set()
        self._newest = Nanos(0)
        self._stop_at: Nanos | None = None
        self._ready = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name[:15], daemon=True)
        self._busy = False
        self.engine: Engine | None = None
        self.packets_refused = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Hand over a batch; never waits. When too much waits packets are left out, orders and time are not."""
        count = sum(len(packets) for _, packets in batch.packets)
        with self._ready:
            if self._stop_at is not None:
                return
            self._note_voices(batch)
            if self._packets + count > WAITING_PACKETS_LIMIT:
                count -= self._refuse(batch, all_of_it=self._packets + count > 2 * WAITING_PACKETS_LIMIT)
            if len(self._waiting) >= WAITING_BATCHES_LIMIT:
                self._merge_oldest()
            self._waiting.append(batch)
            self._packets += count
            self._newest = batch.now
            self._ready.notify()

    def stop(self, now: Nanos) -> None:
        """Finish what has been put, up to `now`; `Report.finished` follows. More than once is once."""
        with self._ready:
            if self._stop_at is None:
                self._stop_at = now
                self._ready.notify()

    def request_key_frame(self) -> None:
        """Any thread."""
        if self.engine is not None:
            self.engine.request_key_frame()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing waits any more: for drivers in virtual time, never on the loop."""
        with self._ready:
            return self._ready.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def _note_voices(self, batch: Batch) -> None:
        for order in batch.orders:
            if isinstance(order, TrackOpened) and order.track.mime_type.lower().startswith("audio/"):
                self._voices.add(order.track.track.sid)
            elif isinstance(order, TrackClosed):
                self._voices.discard(order.track_sid)

    def _refuse(self, batch: Batch, *, all_of_it: bool) -> int:
        """Leave out the batch's pictures, or everything; returns how many packets that is."""
        kept = [] if all_of_it else [(sid, packets) for sid, packets in batch.packets if sid in self._voices]
        refused = sum(len(packets) for _, packets in batch.packets) - sum(len(packets) for _, packets in kept)
        batch.packets = kept
        self.packets_refused += refused
        return refused

    def _merge_oldest(self) -> None:
        first, second = self._waiting.popleft(), self._waiting.popleft()
        merged = Batch(
            second.now, first.orders + second.orders, first.packets + second.packets, first.clocks + second.clocks
        )
        self._waiting.appendleft(merged)

    # the thread

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
            if self._nice:  # never wakes in front of forwarding; an idle one also leaves at once when forwarding wakes
                policy = os.SCHED_IDLE if self._nice == LOWEST else os.SCHED_BATCH
                os.sched_setscheduler(0, policy, os.sched_param(0))
        except (OSError, AttributeError):
            log.info("egress thread keeps its priority: the system does not let it be lowered")
        try:
            self.engine = self._make_engine()
            while (batch := self._next()) is not None:
                self._feed(self.engine, batch)
            assert self._stop_at is not None
            self.engine.finish(self._stop_at)
            self._report(Report(finished=True))
        except MemoryError:
            self._report(Report(finished=True, failed="out of memory"))
        except Exception as error:
            log.exception("egress worker failed")
            self._report(Report(finished=True, failed=f"internal error: {type(error).__name__}"))
        finally:
            self._leave()

    def _leave(self) -> None:
        """Nothing is taken any more."""
        with self._ready:
            self._stop_at = self._stop_at or self._newest
            self._waiting.clear()
            self._busy = False
            self._ready.notify_all()

    def _next(self) -> Batch | None:
        with self._ready:
            self._busy = False
            if not self._waiting:
                self._ready.notify_all()
            while not self._waiting:
                if self._stop_at is not None:
                    return None
                self._ready.wait()
            self._busy = True
            batch = self._waiting.popleft()
            self._packets -= sum(len(packets) for _, packets in batch.packets)
            return batch

    def _feed(self, engine: Engine, batch: Batch) -> None:
        was_started = engine.started
        engine.feed(batch, self._newest - batch.now)
        keys = engine.key_frames_wanted()
        if keys or engine.started != was_started:
            self._report(Report(started=engine.started, key_frames=tuple(keys)))
