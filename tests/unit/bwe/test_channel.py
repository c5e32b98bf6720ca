"""Probes and division against paths whose rate changes."""

import pytest

from tertulia.protocol.machine import SECOND, Nanos
from tertulia.sfu.bwe.allocator import Demand
from tertulia.sfu.bwe.channel import Channel
from tertulia.sfu.bwe.prober import FIRST_WAIT_NS, LONGEST_WAIT_NS, MOST_BPS, Outcome, Prober
from tests.unit.bwe.path import BEGIN, Path, report

LAYERS = ((0, 125_000), (1, 490_000), (2, 1_700_000))
AUDIO_BPS = 40_000


class Viewer:
    """One camera over one path."""

    def __init__(self, bps: int, **more: bool) -> None:
        self.path = Path(bps)
        self.channel = Channel(**more)
        self.channel.other_bps = AUDIO_BPS
        self.channel.begin(BEGIN)
        self.layers: list[int] = []
        self.divide(BEGIN)

    def divide(self, now: Nanos) -> None:
        share = self.channel.division.shares.get("cam")
        self.layer = (
            self.channel.divide(now, [Demand("cam", LAYERS, shown=-1 if share is None else share.layer)])
            .shares["cam"]
            .layer
        )

    def run(self, seconds: float) -> list[int]:
        seen = []
        end = self.path.now + int(seconds * SECOND)
        while self.path.now < end:
            bytes_due = self.channel.prober.take(self.path.now) or 0
            media = AUDIO_BPS + (dict(LAYERS)[self.layer] if self.layer >= 0 else 0)
            (one,) = self.path.offer(media, 0.1, load_bps=bytes_due * 80)
            self.channel.feed(one, media)
            self.divide(one.now)
            seen.append(self.layer)
        return seen


@pytest.mark.parametrize(("bps", "fits"), [(300_000, 0), (800_000, 1), (4_000_000, 2)])
def test_the_layer_that_fits_is_found_and_kept(bps: int, fits: int) -> None:
    viewer = Viewer(bps)
    viewer.run(4)
    assert set(viewer.run(40)) == {fits}, viewer.channel.snapshot()


def test_a_path_that_carries_everything_is_not_managed_any_more() -> None:
    viewer = Viewer(10_000_000)
    viewer.run(8)
    assert viewer.channel.snapshot().phase == "open"
    assert not viewer.channel.is_managed
    viewer.path.bps = 800_000
    viewer.run(3)
    assert viewer.channel.is_managed
    assert viewer.layer == 1


def test_a_wider_path_is_found_by_probes() -> None:
    viewer = Viewer(300_000)
    viewer.run(40)
    assert viewer.channel.counters["probe_failed"] >= 3
    assert viewer.channel.counters["probe_won"] == 0
    viewer.path.bps = 4_000_000
    assert viewer.run(15)[-1] == 2
    assert viewer.channel.counters["probe_won"] == 2


def test_probes_never_fill_the_queue() -> None:
    viewer = Viewer(600_000)
    viewer.run(4)
    queued = []
    for _ in range(300):
        viewer.run(0.1)
        queued.append(viewer.channel.estimate.recent_ns)
    assert viewer.channel.counters["probe_started"] >= 3
    assert max(queued) < SECOND // 5


def test_a_snapshot_says_why() -> None:
    viewer = Viewer(300_000)
    viewer.run(5)
    snapshot = viewer.channel.snapshot()
    assert snapshot.shares == {"cam": (0, "budget")}
    assert (snapshot.phase, snapshot.last_cut, snapshot.video_bps) == ("limited", "delay", 125_000)
    assert snapshot.next_step_bps > 365_000


def test_a_division_is_due_when_the_estimate_moved_and_now_and_then() -> None:
    viewer = Viewer(10_000_000)
    assert not viewer.channel.is_division_due(BEGIN)
    assert viewer.channel.is_division_due(Nanos(BEGIN + SECOND))
    viewer.channel.cap(300_000)
    assert viewer.channel.is_division_due(BEGIN)


def test_what_happened_is_told_once() -> None:
    viewer = Viewer(300_000)
    viewer.run(5)
    assert viewer.channel.news() == viewer.channel.counters
    assert not viewer.channel.news()


def test_a_pause_ends_with_a_reset() -> None:
    viewer = Viewer(60_000, allow_pause=True)
    viewer.run(10)
    assert viewer.layer == -1
    viewer.channel.reset()
    viewer.channel.begin(viewer.path.now)
    viewer.divide(viewer.path.now)
    assert viewer.layer >= 0


def test_a_peer_that_gives_no_feedback_is_let_go() -> None:
    channel = Channel()
    channel.begin(BEGIN)
    demand = Demand("cam", LAYERS, shown=-1)
    assert channel.divide(BEGIN, [demand]).shares["cam"].layer == 1
    channel.divide(Nanos(BEGIN + 5 * SECOND), [demand])
    assert channel.divide(Nanos(BEGIN + 6 * SECOND), [demand]).shares["cam"].layer == 2
    assert channel.counters["silent"] == 1


def test_a_peer_with_remb_alone_tries_the_next_layer_for_a_while() -> None:
    channel = Channel()
    demands = [Demand("cam", LAYERS, shown=2)]
    channel.divide(BEGIN, demands)
    assert not channel.feed(report(BEGIN, remb_bps=2_000_000), 1_700_000)
    assert channel.feed(report(BEGIN + SECOND, remb_bps=600_000), 1_700_000)
    assert channel.divide(Nanos(BEGIN + SECOND), demands).shares["cam"].layer == 1
    later = Nanos(BEGIN + 5 * SECOND)
    assert not channel.feed(report(later, remb_bps=600_000), 490_000)
    channel.divide(later, demands)
    assert channel.divide(later, demands).shares["cam"].layer == 2
    assert not channel.feed(report(later + SECOND, remb_bps=650_000), 1_700_000), "it may follow"
    assert channel.feed(report(later + 4 * SECOND, remb_bps=650_000), 1_700_000), "it was too much"
    assert channel.prober.wait_ns > FIRST_WAIT_NS


# ------------------------------------------------------------------------------------------ prober


def test_a_probe_rises_in_stages_up_to_its_goal() -> None:
    prober = Prober()
    assert prober.take(BEGIN) is None
    prober.start(BEGIN, 1_000_000, 0.0)
    now, rates = int(BEGIN), []
    while True:
        now += SECOND // 20
        due = prober.take(Nanos(now))
        if due is None:
            break
        rates.append(round(due * 160, -3))
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(200_000, rel=0.01)
    assert rates[-1] == pytest.approx(1_000_000, rel=0.01)
    assert prober.judge(Nanos(now), 0, 0.0, 0) is None, "the last of it is still on its way"
    assert prober.judge(Nanos(now + SECOND), 0, 0.0, 0) is Outcome.WON
    assert not prober.is_running


@pytest.mark.parametrize(("queue_ns", "loss"), [(SECOND // 10, 0.0), (0, 0.1)])
def test_a_probe_ends_at_the_first_sign_and_waits_longer_each_time(queue_ns: int, loss: float) -> None:
    prober, now, waits = Prober(), BEGIN, []
    for _ in range(6):
        assert prober.is_due(now)
        prober.start(now, 300_000, 0.02)
        assert not prober.is_due(now)
        assert prober.judge(now, 0, 0.03, 0) is None
        assert prober.judge(now, queue_ns, loss, 0) is Outcome.FAILED
        assert prober.take(now) is None
        begin = now
        while not prober.is_due(now):
            now = Nanos(now + SECOND // 10)
        waits.append(now - begin)
    assert waits[0] == FIRST_WAIT_NS
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_NS


def test_a_gain_that_does_not_hold_counts_as_a_failure() -> None:
    prober = Prober()
    prober.put_on_trial(BEGIN)
    prober.was_cut(Nanos(BEGIN + SECOND))
    assert prober.wait_ns > FIRST_WAIT_NS
    prober.put_on_trial(Nanos(BEGIN + 20 * SECOND))
    prober.review(Nanos(BEGIN + 40 * SECOND))
    assert prober.wait_ns == FIRST_WAIT_NS
    prober.was_cut(Nanos(BEGIN + 41 * SECOND))
    assert prober.wait_ns == FIRST_WAIT_NS


def test_a_probe_has_an_upper_bound() -> None:
    prober = Prober()
    prober.start(BEGIN, 90_000_000, 0.0)
    assert prober.goal_bps == MOST_BPS
