"""What the cluster's secret lets in and keeps out."""

import pytest

from tertulia.node.cluster.seal import Seal, mark_of, secret_of_keys
from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId

A, B = NodeId("ND_a"), NodeId("ND_b")


def test_a_sealed_word_arrives_with_its_sender() -> None:
    one, two = Seal("secret", A, 5), Seal("secret", B, 0)
    assert two.open("node:ND_b", one.close("node:ND_b", b"hello")) == (A, b"hello")


@pytest.mark.parametrize("position", range(0, 40, 3))
def test_any_changed_byte_is_noticed(position: int) -> None:
    message = bytearray(Seal("secret", A, 5).close("c", b"a word of some length"))
    message[position] ^= 1
    with pytest.raises(PeerError, match="bus_forged"):
        Seal("secret", B, 0).open("c", bytes(message))


def test_other_channels_other_secrets_and_stumps_are_refused() -> None:
    message = Seal("secret", A, 5).close("c", b"word")
    for seal, channel, data in (
        (Seal("secret", B, 0), "d", message),
        (Seal("other", B, 0), "c", message),
        *((Seal("secret", B, 0), "c", message[:length]) for length in range(len(message))),
    ):
        with pytest.raises(PeerError, match="bus_forged"):
            seal.open(channel, data)


def test_what_was_said_before_is_refused_on_its_channel() -> None:
    one, two = Seal("secret", A, 5), Seal("secret", B, 0)
    first, second, aside = one.close("c", b"1"), one.close("c", b"2"), one.close("d", b"3")
    two.open("d", aside)
    two.open("c", second)
    for message in (first, second):
        with pytest.raises(PeerError, match="bus_repeated"):
            two.open("c", message)
    assert two.open("c", Seal("secret", A, 100).close("c", b"after a restart"))[1] == b"after a restart"


def test_link_keys_fit_each_other_and_nothing_else() -> None:
    one, two = Seal("secret", A, 0), Seal("secret", B, 0)
    rx, tx = one.link_keys(B, b"mine" * 4, b"your" * 4)
    assert two.link_keys(A, b"your" * 4, b"mine" * 4) == (tx, rx)
    assert rx != tx
    assert len(rx) == len(tx) == 28
    assert Seal("other", B, 0).link_keys(A, b"your" * 4, b"mine" * 4) != (tx, rx)
    assert one.link_keys(B, b"mine" * 4, b"then" * 4) != (rx, tx)


def test_keys_of_the_api_stand_in_for_a_secret() -> None:
    assert secret_of_keys({"b": "2", "a": "1"}) == secret_of_keys({"a": "1", "b": "2"})
    assert mark_of("one") != mark_of("two")
    assert "one" not in mark_of("one")
