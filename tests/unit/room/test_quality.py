"""Connection quality: scores, smoothing, and who hears of changes."""

import pytest
from livekit.protocol import models

from tertulia.sfu.quality import Ledger, Score, Window, mean_opinion, quality_of, window_score
from tests.unit.room.stage import SILENT_DOWN, SILENT_UP, Stage
from tests.unit.room.test_layers import watched

MS = 1_000_000
EXCELLENT, GOOD, POOR = (
    models.ConnectionQuality.EXCELLENT,
    models.ConnectionQuality.GOOD,
    models.ConnectionQuality.POOR,
)


@pytest.mark.parametrize(
    ("window", "score"),
    [
        (Window(1000, 0, 0, 0, 10), 100),
        (Window(990, 10, 0, 0, 10), 90),  # 1 % of video
        (Window(990, 10, 0, 0, 8), 92),
        (Window(1000, 0, 0, 160 * MS, 10), 98),  # 80 ms one way: 80/40
        (Window(1000, 0, 40 * MS, 240 * MS, 10), 92),  # 200 ms: (200-120)/10
        (Window(1000, 0, 0, 0, 10, missed_layers=1), 65),
        (Window(500, 500, 0, 0, 10), 30),
        (Window(0, 0, 0, 0, 10), 30),
    ],
)
def test_window_scores(window: Window, score: float) -> None:
    assert window_score(window) == pytest.approx(score)


def test_falls_fast_and_rises_slowly() -> None:
    score = Score()
    assert score.add(50) == pytest.approx(60)
    assert score.add(100) == pytest.approx(76)


@pytest.mark.parametrize(("score", "quality"), [(81, EXCELLENT), (80, GOOD), (41, GOOD), (40, POOR), (30, POOR)])
def test_names(score: float, quality: int) -> None:
    assert quality_of(score) == quality


def test_opinion_scale() -> None:
    assert (mean_opinion(0), mean_opinion(100)) == (1, 4.5)


def run(stage: Stage, windows: int, lost_share: float) -> None:
    for _ in range(windows):
        for up in stage.plane.ups:
            old = stage.plane.up_figures.get(up, SILENT_UP)
            stage.plane.up_figures[up] = old._replace(packets=old.packets + 1000)
        for down in stage.plane.downs:
            figures = stage.plane.down_figures.get(down, SILENT_DOWN)
            lost = int(1000 * lost_share)
            stage.plane.down_figures[down] = figures._replace(
                packets=figures.packets + 1000 - lost, lost=figures.lost + lost
            )
        stage.pass_time(5)


def test_a_lossy_viewer_is_told_and_so_are_its_watchers() -> None:
    stage, ann, ben, _ = watched()
    run(stage, 3, 0.0)
    assert {u.participant_sid: u.quality for u in ben.last("connection_quality").updates} == {
        ann.sid: EXCELLENT,
        ben.sid: EXCELLENT,
    }
    run(stage, 3, 0.08)
    told = {u.participant_sid: u.quality for u in ben.last("connection_quality").updates}
    assert told == {ben.sid: POOR}
    assert ann.all("connection_quality")[-1].updates[0].quality == EXCELLENT  # ann does not watch ben
    count = len(ben.all("connection_quality"))
    run(stage, 3, 0.08)
    assert len(ben.all("connection_quality")) == count  # only changes
    run(stage, 8, 0.0)
    assert ben.last("connection_quality").updates[0].quality == EXCELLENT


def test_silence_of_muted_tracks_is_no_loss() -> None:
    from livekit.protocol import rtc

    stage, ann, ben, cam = watched()
    run(stage, 2, 0.0)
    ann.say(mute=rtc.MuteTrackRequest(sid=cam, muted=True))
    stage.pass_time(30)
    qualities = [u.quality for guest in (ann, ben) for q in guest.all("connection_quality") for u in q.updates]
    assert set(qualities) == {EXCELLENT}


def test_sound_is_judged_by_what_comes_and_its_silence_is_no_loss() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish("mic", "audio")
    ann.ssrc("5", 50, pt=111)
    ben.offer()

    def own() -> int:
        updates = [one for update in ben.all("connection_quality") for one in update.updates]
        return [one.quality for one in updates if one.participant_sid == ben.sid][-1]

    run(stage, 3, 0.0)
    assert own() == EXCELLENT
    run(stage, 3, 0.08)
    assert own() == POOR
    run(stage, 8, 0.0)
    assert own() == EXCELLENT
    stage.pass_time(30)
    assert own() == EXCELLENT


def test_loss_in_near_silence_matters_less() -> None:
    def after(packets: int, lost: int, *, may_pause: bool) -> float:
        ledger, stats = Ledger(), SILENT_DOWN
        for more, gone in ((250, 0), (250, 0), (packets, lost)):
            stats = stats._replace(packets=stats.packets + more, lost=stats.lost + gone)
            score = ledger.judge(1, stats, 8, missed_layers=0, is_due=True, may_pause=may_pause)
        assert score is not None
        return score

    assert after(10, 1, may_pause=False) < after(10, 1, may_pause=True) < 100
    assert after(225, 25, may_pause=True) == pytest.approx(after(225, 25, may_pause=False), abs=4)
