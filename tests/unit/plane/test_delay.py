"""What the delay of packet groups tells of a path, and when the estimator must hear of it."""

from collections.abc import Iterator

from tertulia.protocol.machine import MILLISECOND, SECOND
from tertulia.sfu.plane import delay
from tertulia.sfu.plane.delay import RECENT_NS, STANDING_NS, is_pressing, passed, queued, usage
from tertulia.sfu.plane.rows import Transport
from tertulia.sfu.plane.words import BASES, U_NORMAL, U_OVER, U_UNDER

GROUP_NS = 20 * MILLISECOND


def flow(t: Transport, seconds: float, *, growth: float = 0.0) -> Iterator[int]:
    """Groups every GROUP_NS whose delay grows by this share of the time; what the plane makes of each."""
    for _ in range(int(seconds * SECOND) // GROUP_NS):
        passed(t, GROUP_NS, GROUP_NS + int(growth * GROUP_NS))
        yield usage(t)


def test_nothing_is_known_of_a_path_without_feedback() -> None:
    t = Transport()
    assert (usage(t), queued(t, STANDING_NS), is_pressing(t)) == (U_NORMAL, 0, 0)


def test_a_queue_that_grows_is_seen_and_one_that_drains_is_no_overuse() -> None:
    t = Transport()
    assert set(flow(t, 3)) == {U_NORMAL}
    assert list(flow(t, 0.7, growth=0.4))[-1] == U_OVER
    assert queued(t, RECENT_NS) > queued(t, STANDING_NS) > 60 * MILLISECOND
    assert U_UNDER in set(flow(t, 0.5, growth=-0.56))
    assert set(flow(t, 2)) == {U_NORMAL, U_UNDER}
    assert queued(t, STANDING_NS) < 10 * MILLISECOND
    assert queued(t, RECENT_NS) < 10 * MILLISECOND


def test_a_queue_that_stands_is_overuse_even_when_it_grows_no_more() -> None:
    t = Transport()
    list(flow(t, 1))
    passed(t, GROUP_NS, GROUP_NS + 150 * MILLISECOND)
    assert list(flow(t, 1))[-1] == U_OVER
    assert queued(t, STANDING_NS) == 150 * MILLISECOND


def test_a_burst_that_leaves_no_queue_is_none() -> None:
    t = Transport()
    list(flow(t, 1))
    passed(t, GROUP_NS, GROUP_NS + 90 * MILLISECOND)
    passed(t, GROUP_NS, GROUP_NS - 90 * MILLISECOND)
    assert U_OVER not in set(flow(t, 1))


def test_the_emptiest_moment_is_forgotten_in_time() -> None:
    t = Transport()
    list(flow(t, 1))
    passed(t, GROUP_NS, GROUP_NS + 150 * MILLISECOND)
    window = BASES * delay.BASE_NS // SECOND
    list(flow(t, window - 2))
    assert queued(t, STANDING_NS) == 150 * MILLISECOND, "a longer way looks like a queue"
    list(flow(t, 4))
    assert queued(t, STANDING_NS) == 0


def test_a_long_silence_leaves_nothing_of_the_past() -> None:
    t = Transport()
    list(flow(t, 1))
    passed(t, 3600 * SECOND, 3600 * SECOND + 80 * MILLISECOND)
    assert queued(t, STANDING_NS) == 0


def test_a_clock_that_runs_differently_is_no_queue() -> None:
    t = Transport()
    assert set(flow(t, 100, growth=1e-4)) == {U_NORMAL}
    assert not is_pressing(t)


def test_the_estimator_hears_of_a_queue_before_it_is_overuse() -> None:
    t = Transport()
    list(flow(t, 3))
    for said in flow(t, 1, growth=0.3):
        if is_pressing(t):
            assert said != U_OVER
            return
    raise AssertionError("nobody heard")


def test_the_estimator_hears_of_loss() -> None:
    t = Transport()
    t.f_packets, t.f_lost = 18, 1
    assert not is_pressing(t), "of so few that is chance"
    t.f_packets, t.f_lost = 95, 4
    assert not is_pressing(t)
    t.f_lost = 6
    assert is_pressing(t)
