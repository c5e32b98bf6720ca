"""An event loop whose clock jumps to the next timer: asyncio code in virtual time, without waiting."""

import asyncio
import selectors
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import aiortc.rtcsctptransport
import pytest

import tertulia.sfu.transport.association
import tertulia.sfu.transport.sctp

ResultT = TypeVar("ResultT")


class _Selector(selectors.SelectSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits and nobody has a timer"
        self.loop.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now_s = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    @property
    def pending_timers(self) -> int:
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]


@contextmanager
def virtual_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualLoop]:
    """A loop of which the SCTP modules take the time as well."""
    loop = VirtualLoop()
    clock = SimpleNamespace(time=loop.time, monotonic=loop.time)
    monkeypatch.setattr(aiortc.rtcsctptransport, "time", clock)
    monkeypatch.setattr(tertulia.sfu.transport.sctp, "time", clock)
    monkeypatch.setattr(tertulia.sfu.transport.association, "time", clock)
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert errors == []


def run_for(loop: VirtualLoop, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    return loop.run_until_complete(coroutine)
