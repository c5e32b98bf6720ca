"""Whose address it is: the last one it was allowed to, until it goes, and no more than the newest few of each."""

from random import Random

from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Address, Datagram, TransportId
from tertulia.sfu.plane.orders import MAX_ADDRESSES
from tertulia.sfu.plane.simulated import Simulated

HELLO = b"\x16\xfe\xfd hello"
PLACES = [Address(0, "192.0.2.1", 1000 + i) for i in range(MAX_ADDRESSES + 1)]


def owner(plane: Simulated, place: Address) -> TransportId | None:
    plane.receive(Nanos(1), place, HELLO)
    (report,) = plane.reports()
    assert isinstance(report, Datagram)
    return report.transport


def test_an_address_is_the_last_ones() -> None:
    plane = Simulated(Random(1))
    first, second, third = (plane.add_transport() for _ in range(3))
    assert owner(plane, PLACES[0]) is None
    for transport in (first, second, second):
        plane.allow(transport, PLACES[0])
        assert owner(plane, PLACES[0]) == transport
    plane.remove_transport(first)
    assert owner(plane, PLACES[0]) == second
    plane.remove_transport(second)
    assert owner(plane, PLACES[0]) is None
    plane.allow(second, PLACES[0])
    assert owner(plane, PLACES[0]) is None
    plane.allow(third, PLACES[0])
    assert owner(plane, PLACES[0]) == third


def test_the_oldest_address_makes_room_and_may_be_somebody_elses() -> None:
    plane = Simulated(Random(1))
    first, second = plane.add_transport(), plane.add_transport()
    for place in PLACES:
        plane.allow(first, place)
    assert owner(plane, PLACES[0]) is None
    assert owner(plane, PLACES[1]) == first
    plane.allow(second, PLACES[0])
    plane.remove_transport(first)
    assert owner(plane, PLACES[0]) == second
    assert owner(plane, PLACES[1]) is None
