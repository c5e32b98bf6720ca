"""The media of a worker process on one thread: sockets swept every few milliseconds, clips sent on time, feedback.

One tick sends what is due, reads what has come (the kernel noted when), counts it, and runs timers. It shares the
thread with the event loop of the signalling.
"""

import asyncio
import heapq
import select
import time
from collections.abc import Callable
from itertools import count

import numpy as np

from benchmarks.load import feedback
from benchmarks.load.batch import RUN, Intake, Outbox
from benchmarks.load.batch import SLOT_BYTES as SLOT
from benchmarks.load.connection import Connection
from benchmarks.load.measure import Histogram, Mark
from benchmarks.load.receiving import Tables
from benchmarks.load.sending import Layer, Sent
from tertulia.sfu.transport.dtls import DtlsIdentity

TICK_S = 0.002
FEEDBACK_NS = 100_000_000
REPORT_NS = 1_000_000_000
NACK_NS = 25_000_000
LATE_NS = 100_000_000
"""A frame sent so long after it was due was not this encoder's rhythm any more."""
MAX_READS = 4
MAX_READY = 1024
"""Sockets looked at in one tick, in rounds, so that signalling gets its turn."""


class Engine:
    """Connections, what they send and what they have received."""

    def __init__(self, allow_remote: bool) -> None:
        self.allow_remote = allow_remote
        self.identity = DtlsIdentity()
        self.tables = Tables()
        self.sent = Sent()
        self.counts: dict[str, int] = {}
        self.data_delay = Histogram()
        self.data_received = self.data_sent = self.data_expected = 0
        self.histograms: dict[str, Histogram] = {}
        self.kernel_drops: dict[int, int] = {}
        self._connections: list[Connection | None] = []
        self._free: list[int] = []
        self._twcc = np.zeros(64, np.int64)
        self._by_file: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self._intake = Intake()
        self._outbox = Outbox()
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._stopped = False
        self.on_broken: Callable[[str], None] = lambda text: None
        self.lag_ns = 0
        """Longest time between two ticks."""
        self._ticked_ns = time.monotonic_ns()

    def start(self) -> None:
        self._tick()
        self.later(NACK_NS, self._nacks)

    def stop(self) -> None:
        self._stopped = True
        if self._handle is not None:
            self._handle.cancel()
        for connection in list(self._connections):
            if connection is not None:
                connection.close()
        self._epoll.close()

    # what connections ask -----------------------------------------------------------------------

    def enlist(self, connection: Connection) -> int:
        number = self._free.pop() if self._free else len(self._connections)
        if number == len(self._connections):
            self._connections.append(None)
            if number >= len(self._twcc):
                self._twcc = np.concatenate((self._twcc, np.zeros(len(self._twcc), np.int64)))
        self._connections[number] = connection
        self._twcc[number] = 0
        return number

    def forget(self, connection: Connection) -> None:
        for stream in connection.streams.values():
            self.tables.remove(stream)
        connection.streams.clear()
        connection.layers.clear()
        if connection.swept and connection.sock is not None:
            self._epoll.unregister(connection.sock.fileno())
            self._by_file.pop(connection.sock.fileno(), None)
        if self._connections[connection.number] is connection:
            self._connections[connection.number] = None
            # its number rests until datagrams already read are counted
            self.later(1_000_000_000, lambda: self._free.append(connection.number))

    def set_twcc(self, number: int, extension: int) -> None:
        self._twcc[number] = extension

    def sweep_too(self, connection: Connection) -> None:
        assert connection.sock is not None
        self._epoll.register(connection.sock.fileno(), select.EPOLLIN)
        self._by_file[connection.sock.fileno()] = connection
        now = time.monotonic_ns()
        phase = hash((connection.number, 7)) % 97 / 97
        self.at(now + int(FEEDBACK_NS * phase), lambda: self._feedback(connection))
        self.at(now + int(REPORT_NS * phase), lambda: self._report(connection))

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def at(self, due_ns: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (due_ns, next(self._order), call))

    def later(self, delay_ns: int, call: Callable[[], None]) -> None:
        self.at(time.monotonic_ns() + delay_ns, call)

    def add_layer(self, connection: Connection, layer: Layer) -> None:
        connection.layers.append(layer)
        self.at(layer.due_ns, lambda: self._send_frame(connection, layer))

    # the tick -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic_ns()
        self.lag_ns = max(self.lag_ns, now - self._ticked_ns)
        self._ticked_ns = now
        loop = asyncio.get_running_loop()
        try:
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            self._sweep()
        except Exception as error:
            self._stopped = True
            self.on_broken(f"the bench itself failed: {type(error).__name__}: {error}")
            raise
        finally:
            if not self._stopped:
                spent = (time.monotonic_ns() - now) / 1e9
                wait = TICK_S - spent
                self._handle = loop.call_later(wait, self._tick) if wait > 0.0002 else loop.call_soon(self._tick)

    def _sweep(self) -> None:
        for _ in range(MAX_READS):
            ready = self._epoll.poll(0, MAX_READY)
            if not ready:
                break
            for file, _ in ready:
                connection = self._by_file.get(file)
                if connection is None or connection.sock is None:
                    continue
                if self._intake.room < RUN:
                    self._take()
                while self._intake.read(connection.sock, connection.number) == RUN and self._intake.room >= RUN:
                    pass
        self._take()

    def _take(self) -> None:
        intake = self._intake
        if not intake.filled:
            return
        others, slots, numbers = self.tables.take(intake, self._twcc)
        times = intake.times()
        if len(slots):
            owners = intake.owner[slots]
            edges = np.flatnonzero(np.diff(owners)) + 1
            for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(slots)], strict=True):
                connection = self._connections[int(owners[begin])]
                if connection is not None:
                    connection.arrivals.note(numbers[begin:end], times[slots[begin:end]])
        for owner, drops in intake.overflows():
            self.kernel_drops[owner] = max(drops, self.kernel_drops.get(owner, 0))
        if len(others):
            lengths = intake.lengths()
            for slot in others.tolist():
                connection = self._connections[int(intake.owner[slot])]
                if connection is not None:
                    data = bytes(intake.pool.view[slot * SLOT : slot * SLOT + int(lengths[slot])])
                    connection.on_datagram(data, int(times[slot]))
        intake.clear()

    # timers -------------------------------------------------------------------------------------

    def _send_frame(self, connection: Connection, layer: Layer) -> None:
        if connection.closed or connection.route is None:
            return
        now = time.monotonic_ns()
        if not layer.paused:
            if now - layer.due_ns > LATE_NS:
                self.sent.late += 1
            layer.send_frame(now, connection.route, self._outbox, self.sent)
        layer.due_ns += layer.clip.interval_ns
        if now - layer.due_ns > 1_000_000_000:
            layer.due_ns = now  # do not chase a second of frames
        self.at(layer.due_ns, lambda: self._send_frame(connection, layer))

    def _feedback(self, connection: Connection) -> None:
        if connection.closed:
            return
        for packet in connection.arrivals.feedback():
            connection.send_rtcp(packet)
        self.later(FEEDBACK_NS, lambda: self._feedback(connection))

    def _report(self, connection: Connection) -> None:
        if connection.closed:
            return
        now = time.time_ns()
        for layer in connection.layers:
            if not layer.paused and layer.packets:
                connection.send_rtcp(layer.sender_report(now))
        for packet in feedback.receiver_reports(list(connection.streams.values()), self.tables, now):
            connection.send_rtcp(packet)
        self.later(REPORT_NS, lambda: self._report(connection))

    def _nacks(self) -> None:
        now = time.time_ns()
        for stream in self.tables.streams:
            if stream is not None and stream.missing:
                connection = self._connections[stream.connection]
                if connection is not None and (packet := feedback.nack(stream, now)):
                    self.count("nacks_sent")
                    connection.send_rtcp(packet)
        if not self._stopped:
            self.later(NACK_NS, self._nacks)

    # figures ------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Everything so far."""
        self._take()
        tables, sent = self.tables, self.sent
        counters = {
            "packets_in": tables.packets,
            "bytes_in": tables.bytes,
            "lost": tables.total_lost(),
            "recovered": tables.recovered,
            "duplicates": tables.duplicates,
            "repairs": tables.repair_packets,
            "unannounced": tables.unannounced,
            "undecryptable": tables.undecryptable,
            "packets_out": sent.packets,
            "bytes_out": sent.bytes,
            "frames_out": sent.frames,
            "key_frames_out": sent.key_frames,
            "repeats_out": sent.repeats,
            "late_frames": sent.late,
            "kernel_drops": sum(self.kernel_drops.values()),
            "streams": sum(stream is not None for stream in tables.streams),
            "data_in": self.data_received,
            "data_out": self.data_sent,
            "data_expected": self.data_expected,
            "cpu_ns": time.process_time_ns(),
            **{f"count_{name}": value for name, value in self.counts.items()},
        }
        histograms = {f"delay_{name}": value for name, value in tables.delay.items()}
        histograms |= {"delay_data": self.data_delay, **self.histograms}
        return Mark(time.time_ns(), counters, histograms)
