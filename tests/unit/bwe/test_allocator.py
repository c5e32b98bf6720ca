"""Who gets which layer of what a path carries."""

import pytest

from tertulia.sfu.bwe.allocator import PAUSED, SCREEN_PRIORITY, Demand, Division, Reason, divide

LAYERS = ((0, 100), (1, 400), (2, 1600))


def demand(key: str, shown: int = PAUSED, **more: object) -> Demand:
    return Demand(key, **{"layers": LAYERS, "shown": shown, **more})  # type: ignore[arg-type]


def layers(division: Division) -> dict[str, int]:
    return {key: share.layer for key, share in division.shares.items()}


@pytest.mark.parametrize(
    ("budget", "layer", "reason"),
    [
        (10_000, 2, Reason.WANTED),
        (1760, 2, Reason.WANTED),
        (1700, 1, Reason.BUDGET),
        (440, 1, Reason.BUDGET),
        (430, 0, Reason.BUDGET),
        (100, 0, Reason.BUDGET),
        (50, 0, Reason.LEAST),
    ],
)
def test_one_track_gets_what_fits_with_a_margin(budget: int, layer: int, reason: Reason) -> None:
    share = divide([demand("a")], budget, allow_pause=False).shares["a"]
    assert (share.layer, share.reason) == (layer, reason)


def test_what_is_shown_stays_until_the_budget_is_below_95_percent_of_it() -> None:
    assert layers(divide([demand("a", shown=2)], 1530, allow_pause=False)) == {"a": 2}
    assert layers(divide([demand("a", shown=2)], 1510, allow_pause=False)) == {"a": 1}
    assert layers(divide([demand("a", shown=1)], 1530, allow_pause=False)) == {"a": 1}


def test_everybody_gets_a_lowest_layer_before_anybody_gets_more() -> None:
    demands = [demand(key) for key in "abcd"]
    assert set(layers(divide(demands, 500, allow_pause=False)).values()) == {0}
    assert sorted(layers(divide(demands, 760, allow_pause=False)).values()) == [0, 0, 0, 1]
    assert sorted(layers(divide(demands, 2000, allow_pause=False)).values()) == [1, 1, 1, 1]


def test_a_screen_is_raised_before_cameras() -> None:
    demands = [demand("camera", shown=2), demand("screen", priority=SCREEN_PRIORITY)]
    assert layers(divide(demands, 1900, allow_pause=False)) == {"camera": 0, "screen": 2}


def test_the_next_step_says_what_is_missing() -> None:
    division = divide([demand("a", shown=0)], 300, allow_pause=False)
    assert division.is_deficient
    assert layers(divide([demand("a", shown=0)], division.used_bps + division.next_step_bps, allow_pause=False)) == {
        "a": 1
    }
    assert not divide([demand("a")], 10_000, allow_pause=False).is_deficient


def test_pausing_takes_the_least_important_and_only_when_it_is_allowed() -> None:
    demands = [demand("a"), demand("b", priority=5), demand("c")]
    assert layers(divide(demands, 230, allow_pause=True)) == {"b": 0, "a": 0, "c": PAUSED}
    assert layers(divide(demands, 230, allow_pause=False)) == {"a": 0, "b": 0, "c": 0}
    paused = divide(demands, 0, allow_pause=True)
    assert {share.reason for share in paused.shares.values()} == {Reason.PAUSED}
    assert paused.used_bps == 0
    assert paused.next_step_bps == 110


def test_a_screen_of_one_layer_is_never_paused() -> None:
    screen = demand("screen", layers=((0, 900),), priority=SCREEN_PRIORITY, pausable=False)
    assert layers(divide([demand("a"), screen], 200, allow_pause=True)) == {"screen": 0, "a": PAUSED}


def test_nothing_is_divided_among_nobody() -> None:
    assert divide([], 1000, allow_pause=True) == Division({}, 0, 0)
