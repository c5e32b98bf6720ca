"""Words of one moment share messages; what is wrong in one is named when it is reached."""

import pytest

from tertulia.protocol import bus
from tertulia.protocol.errors import PeerError


def for_room(number: int, size: int = 10) -> bytes:
    return bus.encode(bus.ForRoom(room=f"room {number}", room_sid="RM_x", word=b"x" * size))


def test_words_of_one_moment_keep_their_order_and_share_a_message() -> None:
    words = [for_room(number) for number in range(50)]
    (message,) = bus.together(words)
    assert [bus.encode(word) for word in bus.decode_node(message)] == words


def test_one_word_is_its_own_message() -> None:
    assert list(bus.together([for_room(1)])) == [for_room(1)]
    assert list(bus.together([])) == []


def test_large_words_go_in_several_messages() -> None:
    words = [for_room(number, bus.TOGETHER_BYTES // 3) for number in range(7)]
    messages = list(bus.together(words))
    assert len(messages) == 4
    assert [bus.encode(word) for message in messages for word in bus.decode_node(message)] == words


def test_several_are_never_within_several() -> None:
    inner = bus.encode(bus.Several(words=(for_room(1),)))
    words = bus.decode_node(bus.encode(bus.Several(words=(for_room(0), inner))))
    assert next(words)
    with pytest.raises(PeerError, match="bus_malformed"):
        next(words)
