"""The interpreted plane in virtual time: datagrams go in and out by call, the clock is what the caller last said."""

from collections import deque
from random import Random

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Address
from tertulia.sfu.plane.interpreted import Interpreted, Place
from tertulia.sfu.plane.orders import Orders


class Simulated(Orders):
    """`SimulatedPlane`. Datagrams that nobody polls are kept without limit: the simulator polls after each call."""

    def __init__(self, rng: Random) -> None:
        self._now = Nanos(0)
        self._sent: deque[tuple[Address, bytes]] = deque()
        self._plumbing = Interpreted(self._transmit, lambda: self._now)
        super().__init__(self._plumbing, rng)

    def receive(self, now: Nanos, address: Address, data: bytes) -> None:
        self._now = now
        self._plumbing.step(now, [((address.socket, address.host, address.port), data)])

    def feed(self, now: Nanos, transport: TransportId, data: bytes) -> None:
        self._now = now
        super().feed(now, transport, data)

    def wake(self, now: Nanos) -> None:
        self._now = now
        self._plumbing.step(now, [])

    def next_wake(self) -> Nanos | None:
        due = self._plumbing.engine.due
        return Nanos(due) if due else None

    def poll_datagram(self) -> tuple[Address, bytes] | None:
        return self._sent.popleft() if self._sent else None

    def _transmit(self, place: Place, data: bytes) -> bool:
        self._sent.append((Address(*place), data))
        return True
