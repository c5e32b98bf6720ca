"""Media links find their keys whatever gets lost, and take nothing from strangers."""

from random import Random

import pytest

from tertulia.node.cluster.links import Links, RelaySocket
from tertulia.node.cluster.seal import Seal
from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.sfu.plane import simulated_plane
from tertulia.sfu.plane.api import Codec

A, B = NodeId("ND_a"), NodeId("ND_b")


class Side:
    """One node's links over a plane of its own."""

    def __init__(self, name: NodeId, port: int, secret: str = "secret") -> None:
        self.name = name
        self.plane = simulated_plane(Random(port))
        self.said: list[bus.LinkHello] = []
        relay = RelaySocket(0, 0, "10.0.0.1", port)
        self.links = Links(self.plane, Seal(secret, name, 0), relay, lambda node, word: self.said.append(word))


def exchange(one: Side, two: Side, lost: int = 0) -> None:
    """Carry what both said until nothing is left; the first `lost` words do not arrive."""
    for _ in range(10):
        for side, other in ((one, two), (two, one)):
            words, side.said[:] = list(side.said), []
            for word in words:
                if lost:
                    lost -= 1
                else:
                    other.links.heard(side.name, word)


def media_crosses(one: Side, two: Side) -> bool:
    """A packet that `one` protects is taken by `two`."""
    before = two.plane.totals()["drop_unbound_ssrc"] + sum(bool(r) for r in two.plane.reports())
    track = one.plane.add_track(Codec.OPUS, 48_000)
    source = one.plane.add_transport()
    one.plane.set_keys(source, 0, b"", b"")  # type: ignore[arg-type]
    one.plane.add_up(track, source, 7, 0, payload_type=96, nack=False, twcc=False)
    down = one.plane.add_down(track, one.links.open(two.name), 9, payload_type=96, raw=True)
    one.plane.set_target(down, 0)
    one.plane.feed(1, source, bytes([0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7]) + b"sound")  # type: ignore[arg-type]
    sent = one.plane.poll_datagram()
    assert sent is not None
    address, data = sent
    two.plane.receive(2, address._replace(host="10.0.0.1", port=one.links._relay.udp_port), data)  # type: ignore[arg-type]
    return bool(two.plane.reports()) or two.plane.totals()["drop_unbound_ssrc"] > before


@pytest.mark.parametrize("lost", range(4))
def test_both_sides_agree(lost: int) -> None:
    one, two = Side(A, 5001), Side(B, 5002)
    one.links.open(B)
    exchange(one, two, lost)
    for _ in range(2):
        one.links.remind()
        two.links.remind()
        exchange(one, two)
    assert one.links.links[B].is_up
    assert two.links.links[A].is_up
    assert media_crosses(one, two)
    one.links.remind()
    assert one.said == []


def test_a_side_that_restarts_is_keyed_anew() -> None:
    one, two = Side(A, 5001), Side(B, 5002)
    one.links.open(B)
    exchange(one, two)
    again = Side(B, 5002)
    again.links.open(A)
    exchange(one, again)
    assert one.links.links[B].is_up
    assert again.links.links[A].is_up
    assert media_crosses(one, again)


def test_another_secret_gets_no_media_across() -> None:
    one, two = Side(A, 5001), Side(B, 5002, "other")
    one.links.open(B)
    exchange(one, two)
    assert not media_crosses(one, two)
    assert two.plane.totals()["drop_authentication"] == 1


def test_malformed_halves_are_counted() -> None:
    side = Side(A, 5001)
    side.links.heard(B, bus.LinkHello(nonce=b"short", heard=b"", host="x", port=1))
    side.links.heard(B, bus.LinkHello(nonce=b"x" * 16, heard=b"", host="x", port=0))
    assert side.links.counters["link_malformed"] == 2
    assert side.links.links == {}
