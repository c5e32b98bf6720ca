"""Levels of all rooms come from one plane: each room gets its own, whole, however often others ask."""

from typing import cast

from tertulia.node.seat import LEVELS_NS, Handles
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import AudioWindow, Plane


class Levels:
    """The plane's side: packets heard since the last call."""

    def __init__(self) -> None:
        self.heard: list[AudioWindow] = []
        self.asked = 0

    def take_levels(self) -> list[AudioWindow]:
        self.asked += 1
        taken, self.heard = self.heard, []
        return taken


def test_a_room_gets_one_window_of_all_since_it_last_asked() -> None:
    now, levels = 1, Levels()
    handles: Handles[str] = Handles(cast("Plane", levels), lambda: Nanos(now))
    one, other = "room one", "room two"
    handles.ups.update({1: one, 2: other})
    levels.heard = [AudioWindow(1, 10, 3, 40), AudioWindow(2, 10, 0, 127), AudioWindow(9, 5, 5, 1)]
    assert handles.take_levels(one) == [AudioWindow(1, 10, 3, 40)]
    levels.heard = [AudioWindow(2, 10, 4, 30)]
    assert handles.take_levels(one) == []
    assert levels.asked == 1, "not for every room again"
    now += LEVELS_NS
    assert handles.take_levels(one) == []
    assert handles.take_levels(other) == [AudioWindow(2, 20, 4, 30)]
    assert handles.take_levels(other) == []
    assert levels.asked == 2
