"""The arithmetic of the cluster's bench."""

import pytest

from benchmarks.budget import Budget
from benchmarks.cluster import MEMBERS, meetings, per_join_ms, per_packet_us
from benchmarks.load.measure import Mark, Usage
from benchmarks.load.plan import PlanError
from benchmarks.load.scenarios import Window
from benchmarks.nodes import Between, window
from benchmarks.plane import ratio_of_turns

SECOND = 1_000_000_000


def taken(seconds: int, cpu_s: float, packets: int = 0, control_s: float = 0.0) -> Window:
    after = Mark(seconds * SECOND, {"packets_in": packets})
    return window((Mark(), Usage()), (after, Usage(exact_s=cpu_s, control_s=control_s)))


def test_a_ratio_is_that_of_neighbours() -> None:
    assert ratio_of_turns([(1.0, 1.1), (10.0, 11.0), (2.0, 20.0)]) == pytest.approx(1.1)


def test_a_packet_costs_what_the_process_used() -> None:
    assert per_packet_us(taken(2, 0.5, 100_000)) == pytest.approx(5.0)


def test_a_join_is_told_without_what_goes_on_anyway() -> None:
    quiet = (taken(2, 0.2), taken(2, 0.6))
    assert per_join_ms(taken(5, 1.5), quiet, 100) == pytest.approx(5.0)


def test_first_threads_of_all_nodes_count() -> None:
    assert Between([taken(2, 1, control_s=0.4), taken(4, 1, control_s=0.4)], 0.0).control_cores() == pytest.approx(0.3)


def test_a_node_that_is_gone_has_no_figures() -> None:
    with pytest.raises(PlanError, match="gone"):
        window((Mark(), Usage()), (Mark(SECOND), None))


@pytest.mark.parametrize("at_home", [3, MEMBERS])
def test_both_nodes_have_as_many_members_however_rooms_are_split(at_home: int) -> None:
    one, other = meetings(20, at_home)
    assert len(one) == len(other) == 20 * MEMBERS // 2
    assert sum(bool(role.publish) for role in one) == sum(bool(role.publish) for role in other) == 10
    shared = {role.room for role in one} & {role.room for role in other}
    assert len(shared) == (20 if at_home < MEMBERS else 0)


@pytest.mark.parametrize(("measured", "at_least", "holds"), [(2, False, True), (3, False, False), (3, True, True)])
def test_a_budget_holds_on_its_side(measured: float, at_least: bool, holds: bool) -> None:
    assert Budget("x", measured, 2.5 if measured == 3 else 2, at_least=at_least).holds is holds
