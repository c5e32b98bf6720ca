"""node_selector as tables: who comes first among these nodes, with these words of the operator."""

from collections import Counter
from random import Random

import pytest

from tertulia.node.cluster.api import NodeRecord
from tertulia.node.cluster.selector import UNKNOWN_M, Selector

PLACES = {"oslo": (59.91, 10.75), "paris": (48.86, 2.35), "sydney": (-33.87, 151.21), "quito": (-0.18, -78.47)}
NODES = {
    "a": NodeRecord(
        id="a", epoch=1, region="oslo", cpu_load=0.5, sys_load=0.1, rooms=3, participants=9, tracks=2, bytes_per_s=700
    ),
    "b": NodeRecord(
        id="b", epoch=1, region="paris", cpu_load=0.1, sys_load=0.95, rooms=1, participants=12, tracks=5, bytes_per_s=80
    ),
    "c": NodeRecord(
        id="c", epoch=1, region="sydney", cpu_load=0.92, sys_load=0.3, rooms=2, participants=1, tracks=9, bytes_per_s=9
    ),
    "gone": NodeRecord(id="gone", epoch=1, region="oslo", draining=True),
}


def order(selector: Selector, here: str = "a", seed: int = 1) -> str:
    return "".join(record.id for record in selector.ranked(list(NODES.values()), NODES[here], Random(seed)))


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        ("cpuload", "bac"),
        ("sysload", "acb"),
        ("rooms", "bca"),
        ("clients", "cab"),
        ("tracks", "abc"),
        ("bytespersec", "cba"),
    ],
)
def test_lowest_of_each_figure(sort_by: str, expected: str) -> None:
    assert order(Selector(sort_by=sort_by)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        # c has the fewest bytes, but is over its limit of the processor; b over that of the system
        (Selector(kind="cpuload", sort_by="bytespersec"), "bac"),
        (Selector(kind="sysload", sort_by="bytespersec"), "cab"),
        (Selector(kind="cpuload", sort_by="bytespersec", cpu_load_limit=0.95), "cba"),
        (Selector(kind="cpuload", sort_by="bytespersec", cpu_load_limit=0.05), "cba"),  # all of them: as without
        (Selector(kind="sysload", sort_by="clients", sysload_limit=0.2), "acb"),
        (Selector(kind="regionaware", places=PLACES, sysload_limit=2), "abc"),
        (Selector(kind="regionaware", places=PLACES), "acb"),  # near, but busy
    ],
)
def test_limits_and_regions_set_back(selector: Selector, expected: str) -> None:
    assert order(selector) == expected


def test_regionaware_is_seen_from_the_asked_node() -> None:
    selector = Selector(kind="regionaware", sysload_limit=2, places=PLACES)
    assert [order(selector, here) for here in "abc"] == ["abc", "bac", "cab"]


def test_a_region_without_coordinates_comes_last_and_one_region_needs_none() -> None:
    known = {name: PLACES[name] for name in ("oslo", "sydney")}
    some = Selector(kind="regionaware", sort_by="rooms", sysload_limit=2, places=known)
    assert [order(some, here) for here in "abc"] == ["acb", "bca", "cab"]
    assert order(Selector(kind="regionaware", sort_by="rooms", sysload_limit=2), "a") == "abc"


def test_what_the_caller_prefers_goes_before_figures_but_not_before_limits() -> None:
    selector = Selector(kind="cpuload")
    ranked = selector.ranked(list(NODES.values()), NODES["a"], Random(1), lambda record: record.id != "c")
    assert [record.id for record in ranked] == ["b", "a", "c"]
    ranked = Selector().ranked(list(NODES.values()), NODES["a"], Random(1), lambda record: record.id != "c")
    assert [record.id for record in ranked] == ["c", "b", "a"]


def test_of_two_alike_the_asked_one_comes_first() -> None:
    twins = [NodeRecord(id=name, epoch=1, cpu_load=0.2 + index / 100) for index, name in enumerate("xyz")]
    for here in twins:
        for seed in range(20):
            assert Selector().ranked(twins, here, Random(seed))[0] == here


@pytest.mark.parametrize("selector", [Selector(kind="random", sort_by="rooms"), Selector(sort_by="random")])
def test_random_is_even(selector: Selector) -> None:
    firsts = Counter(order(selector, seed=seed)[0] for seed in range(600))
    assert set(firsts) == {"a", "b", "c"}
    assert min(firsts.values()) > 130


def test_two_choices_never_begin_with_the_worst_and_spread() -> None:
    selector = Selector(sort_by="rooms", algorithm="twochoice")
    firsts = Counter(order(selector, seed=seed)[0] for seed in range(600))
    assert firsts["a"] == 0  # of any two it is the higher
    assert firsts["b"] > firsts["c"] > 100
    assert all(sorted(order(selector, seed=seed)) == ["a", "b", "c"] for seed in range(50))


@pytest.mark.parametrize("sort_by", ["cpuload", "random"])
def test_nobody_at_all(sort_by: str) -> None:
    assert Selector(sort_by=sort_by).ranked([], NODES["a"], Random(1)) == []  # type: ignore[arg-type]
    assert Selector().ranked([NODES["gone"]], NODES["a"], Random(1)) == []


def test_distances_are_those_of_the_globe() -> None:
    selector = Selector(places={**PLACES, "north": (90, 0), "south": (-90, 77)})
    assert selector.distance_m("oslo", "paris") == pytest.approx(1_344_000, rel=0.01)
    assert selector.distance_m("sydney", "quito") == pytest.approx(13_690_000, rel=0.02)
    assert selector.distance_m("north", "south") == pytest.approx(UNKNOWN_M, rel=1e-6)
    assert selector.distance_m("oslo", "oslo") == selector.distance_m("mars", "mars") == 0
    assert selector.distance_m("oslo", "mars") == UNKNOWN_M
    for one in selector.places:
        for other in selector.places:
            assert selector.distance_m(one, other) == selector.distance_m(other, one) <= UNKNOWN_M
