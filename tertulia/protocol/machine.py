"""The one shape of everything that decides: four verbs, driven by a real clock or by a simulator.

A machine never reads a clock, a socket or dice. After each `handle` or `wake` the driver polls until `None`
and re-arms one timer at `next_wake`.
"""

from typing import NewType, Protocol, TypeVar

Nanos = NewType("Nanos", int)
"""Monotonic time in integer nanoseconds (exact; fits a signed 64-bit integer)."""

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000

EventT = TypeVar("EventT", contravariant=True)
OutputT = TypeVar("OutputT", covariant=True)


class Machine(Protocol[EventT, OutputT]):
    """`handle` what happened, `wake` when due, `poll` what follows."""

    def handle(self, now: Nanos, event: EventT) -> None: ...

    def wake(self, now: Nanos) -> None: ...

    def next_wake(self) -> Nanos | None: ...

    def poll(self) -> OutputT | None: ...
