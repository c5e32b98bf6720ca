"""Delay, loss and REMB against paths of known rates."""

import pytest

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.bwe.estimate import START_BPS, UNLIMITED_BPS, Cause, Estimate, Phase
from tertulia.sfu.bwe.feedback import Arrivals
from tertulia.sfu.bwe.loss import LossBound
from tests.unit.bwe.path import BEGIN, Path, report


def feed(estimate: Estimate, path: Path, bps: int, seconds: float) -> list[Cause]:
    causes = (estimate.feed(one, bps) for one in path.offer(bps, seconds))
    return [cause for cause in causes if cause is not None]


def started() -> Estimate:
    estimate = Estimate()
    estimate.start(BEGIN)
    return estimate


@pytest.mark.parametrize("bps", [300_000, 1_000_000, 5_000_000])
def test_too_much_is_seen_within_a_second_and_cut_below_the_rate_of_the_path(bps: int) -> None:
    estimate, path = started(), Path(bps)
    estimate.open()
    assert not feed(estimate, path, bps // 2, 3)
    assert feed(estimate, path, bps * 3 // 2, 1)[0] is Cause.DELAY
    assert 0.6 * bps < estimate.bps < bps
    assert estimate.phase is Phase.LIMITED


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_what_fits_is_never_cut(share: float) -> None:
    estimate, path = started(), Path(1_000_000)
    assert not feed(estimate, path, int(1_000_000 * share), 60)


def test_a_burst_that_leaves_no_queue_is_no_reason() -> None:
    estimate, path = started(), Path(1_000_000)
    for _ in range(10):
        assert not feed(estimate, path, 500_000, 2)
        assert not feed(estimate, path, 1_900_000, 0.1)  # a key frame: 90 ms of queue


def test_loss_without_a_queue_is_cut_when_it_is_much() -> None:
    estimate = started()
    assert not feed(estimate, Path(10_000_000, loss=0.05), 1_000_000, 10)
    path = Path(10_000_000, loss=0.3)
    path.now = Nanos(BEGIN + 20 * SECOND)
    assert feed(estimate, path, 1_000_000, 2)[0] is Cause.LOSS
    assert estimate.bps < 850_000


def test_only_proven_rates_raise_a_limited_estimate() -> None:
    estimate, path = started(), Path(1_000_000)
    feed(estimate, path, 1_500_000, 2)
    feed(estimate, path, 200_000, 5)
    before = estimate.bps
    assert not feed(estimate, path, 300_000, 30)
    assert estimate.bps == before
    path.bps = 5_000_000
    assert not feed(estimate, path, 1_400_000, 5)
    assert 1_300_000 < estimate.bps < 1_600_000


def test_nothing_is_known_without_feedback() -> None:
    estimate = Estimate()
    assert (estimate.bps, estimate.phase) == (UNLIMITED_BPS, Phase.UNKNOWN)
    estimate.grow(BEGIN)
    assert estimate.bps == UNLIMITED_BPS


def test_a_start_grows_in_steps_until_it_is_open() -> None:
    estimate, now = started(), BEGIN
    assert estimate.bps == START_BPS
    estimate.grow(now)
    assert estimate.bps == START_BPS
    for _ in range(8):
        now = Nanos(now + SECOND // 2)
        estimate.grow(now)
    assert (estimate.phase, estimate.bps) == (Phase.OPEN, UNLIMITED_BPS)


def test_remb_counts_only_below_the_use_and_only_without_acknowledgements() -> None:
    estimate = Estimate()
    assert estimate.feed(report(BEGIN, remb_bps=960_000), 1_000_000) is None
    assert estimate.bps == UNLIMITED_BPS
    assert estimate.feed(report(BEGIN + SECOND, remb_bps=900_000), 1_000_000) is Cause.REMB, "it falls"
    assert estimate.bps == 900_000
    assert estimate.feed(report(BEGIN + 4 * SECOND, remb_bps=1_200_000), 850_000) is None
    assert estimate.bps == 1_200_000
    estimate = Estimate()
    assert not feed(estimate, Path(10_000_000), 1_000_000, 1)
    late = report(BEGIN + 9 * SECOND, remb_bps=1)
    assert estimate.feed(late, 1_000_000) is None


def test_remb_that_grows_is_waited_for() -> None:
    estimate = Estimate()
    causes = [estimate.feed(report(BEGIN + n * SECOND, remb_bps=300_000 + n), 1_000_000) for n in range(4)]
    assert causes == [None, None, None, Cause.REMB]


def test_a_cap_limits() -> None:
    estimate = Estimate()
    estimate.cap(100_000)
    assert (estimate.bps, estimate.phase) == (100_000, Phase.LIMITED)


# ------------------------------------------------------------------------------------------ parts


def test_rate_and_loss_of_the_last_moments() -> None:
    arrivals = Arrivals()
    assert arrivals.bps() == 0
    assert arrivals.loss() == 0.0
    for step in range(20):
        arrivals.add(
            report(BEGIN + step * 100 * MILLISECOND, acknowledged_bytes=12_500, acknowledged_packets=9, lost_packets=1)
        )
    assert arrivals.bps() == 1_000_000
    assert arrivals.loss() == pytest.approx(0.1)
    arrivals.clear()
    assert arrivals.bps() == arrivals.last_bps() == 0
    for step in range(3):
        arrivals.add(report(BEGIN + step * 2 * SECOND, acknowledged_bytes=250_000, acknowledged_packets=99))
    assert (arrivals.bps(), arrivals.last_bps()) == (0, 1_000_000)


def test_packets_said_lost_that_came_later_are_taken_back() -> None:
    arrivals = Arrivals()
    arrivals.add(report(BEGIN, acknowledged_packets=30, lost_packets=10))
    arrivals.add(report(BEGIN + 1, acknowledged_packets=10, lost_packets=-10))
    assert arrivals.loss() == 0.0


def test_a_few_lost_packets_are_chance() -> None:
    arrivals = Arrivals()
    arrivals.add(report(BEGIN, acknowledged_packets=10, lost_packets=9))
    assert arrivals.loss() == 0.0


def test_a_loss_bound_is_followed_by_a_pause() -> None:
    bound = LossBound()
    assert bound.judge(BEGIN, 0.1, 900_000) is None
    assert bound.judge(BEGIN, 0.15, 850_000) == pytest.approx(925_000)
    assert bound.judge(Nanos(BEGIN + SECOND // 2), 0.15, 850_000) is None
    assert bound.judge(Nanos(BEGIN + SECOND), 0.5, 500_000) == 500_000
    assert bound.judge(Nanos(BEGIN + 3 * SECOND), 0.5, 0) is None


def test_a_path_full_of_repetitions_is_given_less_until_it_is_free() -> None:
    """All that arrives fits, half of it says again what was lost: a bound at what arrives would keep it so."""
    bound, given = LossBound(), []
    for second in range(3):
        given.append(bound.judge(Nanos(BEGIN + second * SECOND), 0.4, 400_000))
    assert given == [400_000, 300_000, 225_000]
    assert bound.judge(Nanos(BEGIN + 3 * SECOND), 0.0, 400_000) is None
    assert bound.judge(Nanos(BEGIN + 4 * SECOND), 0.4, 400_000) == 400_000, "another time"


def test_nothing_is_proven_while_much_is_lost() -> None:
    estimate = started()
    for number in range(40):
        now = Nanos(BEGIN + number * SECOND // 10)
        lost = 8 if number < 20 else 2
        estimate.feed(report(now, acknowledged_bytes=5_000, acknowledged_packets=12, lost_packets=lost), 0)
    assert estimate.phase is Phase.LIMITED
    assert estimate.bps < 400_000, "what arrives while a seventh is lost"
