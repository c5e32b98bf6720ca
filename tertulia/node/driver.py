"""Runs one machine on the real clock: handle or wake, poll until empty, re-arm one timer.

A machine that raises is our bug: the driver stops it and tells `on_crash`; nothing else on the node notices.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from tertulia.protocol.machine import MILLISECOND, Machine, Nanos

EventT = TypeVar("EventT")
OutputT = TypeVar("OutputT")


def monotonic() -> Nanos:
    """The clock every machine of this node is driven by."""
    return Nanos(time.monotonic_ns())


class Driver(Generic[EventT, OutputT]):
    """One machine, its timer and where its outputs go."""

    def __init__(
        self,
        machine: Machine[EventT, OutputT],
        on_output: Callable[[OutputT], None],
        on_crash: Callable[[Exception], None],
    ) -> None:
        self.machine = machine
        self._on_output = on_output
        self._on_crash = on_crash
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due: Nanos | None = None
        self._busy = False
        self.stopped = False

    def handle(self, event: EventT) -> None:
        """Feed one event, then drain."""
        self.run(lambda now: self.machine.handle(now, event))

    def run(self, change: Callable[[Nanos], None]) -> None:
        """One change, then drain (also for calls with an answer, which keep it in a closure).

        A change made while draining is its own turn, after the present one.
        """
        if self.stopped:
            return
        if self._busy:
            self._loop.call_soon(self.run, change)
            return
        self._busy = True
        try:
            change(monotonic())
            self._drain()
        except Exception as error:
            self.stop()
            self._on_crash(error)
        finally:
            self._busy = False

    def drain(self) -> None:
        """Hand out what a direct call on the machine left behind."""
        self.run(lambda now: None)

    def stop(self) -> None:
        """No more events, timers or outputs."""
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drain(self) -> None:
        while not self.stopped and (output := self.machine.poll()) is not None:
            self._on_output(output)
        if not self.stopped:
            self._arm()

    def _arm(self) -> None:
        due = self.machine.next_wake()
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is not None:
            # the loop's timers have whole milliseconds: rounded down they would expire early and be set again at once
            delay_ms = max(0, due - monotonic()) // MILLISECOND + 1
            self._timer = self._loop.call_later(delay_ms / 1e3, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._due = None
        self.run(self.machine.wake)
