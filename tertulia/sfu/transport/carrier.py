"""What aiortc's SCTP sees of DTLS and of asyncio: a way out for packets, and nobody who waits."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


def run(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine that never really waits (all of the association's are such) without a task."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("an SCTP coroutine waited")


class Carrier:
    """What the association sees of DTLS."""

    state = "connected"

    def __init__(self, send: Callable[[bytes], None], server: bool) -> None:
        self._send = send
        self._role = "server" if server else "client"
        self.open = True

    def _register_data_receiver(self, receiver: object) -> None: ...

    def _unregister_data_receiver(self, receiver: object) -> None: ...

    def send(self, data: bytes) -> None:
        if self.open:
            self._send(data)

    async def _send_data(self, data: bytes) -> None:
        self.send(data)
