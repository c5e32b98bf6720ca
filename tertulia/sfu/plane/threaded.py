"""The interpreted plane on real sockets: one thread that polls them all, for machines without the compiled life.

It has a socket, a thread and a clock; it decides nothing. `fileno` becomes readable when reports wait.
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from tertulia.protocol.machine import MILLISECOND
from tertulia.sfu.plane.api import Report
from tertulia.sfu.plane.interpreted import Interpreted, Place
from tertulia.sfu.plane.orders import Orders
from tertulia.sfu.plane.sizes import DATAGRAM_BYTES

BATCH = 64
LONGEST_WAIT_NS = 100 * MILLISECOND


class Threaded(Orders):
    """`LivePlane`, interpreted."""

    def __init__(self, ports: Sequence[Sequence[socket.socket]], rng: Random, reason: str) -> None:
        self.reason = reason
        """Why this is not the compiled life; empty when interpreted was asked for."""
        self._sockets = [sock for row in ports for sock in row]
        self._families = [sock.family for sock in self._sockets]
        self._readable, self._writable = os.pipe()
        for end in (self._readable, self._writable):
            os.set_blocking(end, False)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._plumbing = Interpreted(self._transmit, time.monotonic_ns)
        super().__init__(self._plumbing, rng)

    def fileno(self) -> int:
        return self._readable

    def start(self) -> None:
        for sock in self._sockets:
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="plane", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the sockets stay the caller's."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for end in (self._readable, self._writable):
            if end >= 0:
                os.close(end)
        self._readable = self._writable = -1
        self._sockets = []

    def reports(self) -> list[Report]:
        with suppress(OSError):  # asked without being told, or after the end
            os.read(self._readable, 4096)
        return super().reports()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, sock in enumerate(self._sockets):
                selector.register(sock, selectors.EVENT_READ, index)
            while not self._stopping:
                ready = selector.select(self._wait_s())
                batch = [packet for key, _ in ready for packet in self._received(key.data)]
                self._plumbing.step(time.monotonic_ns(), batch)
                if self._plumbing.has_reports():
                    self._ring()

    def _wait_s(self) -> float:
        due = self._plumbing.engine.due
        wait = min(LONGEST_WAIT_NS, due - time.monotonic_ns()) if due else LONGEST_WAIT_NS
        return max(0, wait) / 1e9

    def _received(self, index: int) -> list[tuple[Place, bytes]]:
        batch: list[tuple[Place, bytes]] = []
        while len(batch) < BATCH:
            try:
                data, address = self._sockets[index].recvfrom(DATAGRAM_BYTES)
            except OSError:
                break  # nothing more; an ICMP error of an earlier send is no news either
            batch.append(((index, address[0], address[1]), data))
        return batch

    def _ring(self) -> None:
        with suppress(OSError):  # rung often enough already
            os.write(self._writable, b"!")

    def _transmit(self, place: Place, data: bytes) -> bool:
        try:
            self._sockets[place[0]].sendto(data, (place[1], place[2]))
        except (OSError, IndexError):
            return False
        return True
