"""Which layer a viewer gets: sizes, qualities, hiding, layers that come and go."""

from typing import Any

import pytest
from livekit.protocol import models, rtc

from tertulia.protocol.machine import Nanos
from tertulia.sfu.media.forwarder import Forwarder, ViewerSettings
from tertulia.sfu.media.layers import LayerTracker
from tertulia.sfu.plane.api import KeyFrame
from tests.unit.room.stage import SILENT_UP, Guest, Stage

HEIGHTS = (180, 360, 720)
LOW, MEDIUM, HIGH, OFF = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH, 3)


@pytest.mark.parametrize(
    ("settings", "layer"),
    [
        (ViewerSettings(), 2),
        (ViewerSettings(quality=LOW), 0),
        (ViewerSettings(quality=MEDIUM), 1),
        (ViewerSettings(quality=OFF), -1),
        (ViewerSettings(disabled=True, height=720), -1),
        (ViewerSettings(width=160, height=90), 0),
        (ViewerSettings(width=320, height=180), 0),
        (ViewerSettings(width=355, height=200), 0),  # 180 >= 0.9 * 200
        (ViewerSettings(width=357, height=201), 1),
        (ViewerSettings(width=640, height=400), 1),
        (ViewerSettings(width=713, height=401), 2),
        (ViewerSettings(width=1920, height=1080), 2),
    ],
)
def test_the_smallest_layer_that_is_enough(settings: ViewerSettings, layer: int) -> None:
    assert Forwarder(settings).wanted_layer(3, HEIGHTS) == layer


@pytest.mark.parametrize(
    ("wanted", "live", "chosen"),
    [(HIGH, {0, 1, 2}, 2), (HIGH, {0, 1}, 1), (MEDIUM, {0, 2}, 0), (LOW, {1, 2}, 1), (HIGH, set(), 2), (OFF, {0}, -1)],
)
def test_the_best_living_layer_below_else_the_lowest_above(wanted: int, live: set[int], chosen: int) -> None:
    assert Forwarder(ViewerSettings(quality=wanted)).choose(3, HEIGHTS, live) == chosen


def test_single_streams_have_one_layer_whatever_is_asked() -> None:
    assert Forwarder(ViewerSettings(quality=HIGH)).wanted_layer(1, (720,)) == 0
    assert Forwarder(ViewerSettings(height=90)).wanted_layer(1, (720,)) == 0


def test_the_allocator_has_the_last_word() -> None:
    forwarder = Forwarder(ViewerSettings())
    forwarder.ceiling = 1
    assert forwarder.choose(3, HEIGHTS, {0, 1, 2}) == 1
    forwarder.ceiling = -1
    assert forwarder.choose(3, HEIGHTS, {0, 1, 2}) == -1


@pytest.mark.parametrize(("fps", "temporal"), [(0, 7), (30, 7), (16, 1), (15, 1), (8, 0), (5, 0)])
def test_frame_rates_choose_temporal_layers(fps: int, temporal: int) -> None:
    assert Forwarder(ViewerSettings(fps=fps)).temporal(30.0) == temporal


def test_a_layer_dies_after_a_silent_cycle_and_is_trusted_again_slowly() -> None:
    tracker = LayerTracker(screen=False)
    assert tracker.appear(0)
    assert tracker.appear(2)
    assert not tracker.appear(2)
    tracker.measure({0: 10, 2: 100})
    assert not tracker.measure({0: 20, 2: 200})
    assert tracker.measure({0: 30, 2: 201})  # one packet is not enough for the high layer
    assert tracker.live == {0}
    assert not tracker.appear(2)  # one key frame is no proof
    packets = 201
    for _ in range(19):
        packets += 50
        assert not tracker.measure({0: packets, 2: packets})
    assert tracker.measure({0: packets + 50, 2: packets + 50})
    assert tracker.live == {0, 2}


def test_a_layer_that_was_not_asked_for_is_trusted_at_once_when_it_is() -> None:
    tracker = LayerTracker(screen=False)
    tracker.appear(2)
    tracker.measure({2: 0})
    tracker.expect({0})
    assert tracker.measure({2: 0})
    tracker.expect({0, 1, 2})
    assert tracker.appear(2)


def test_an_encoder_may_take_its_time_to_send_what_was_asked_for_again() -> None:
    tracker = LayerTracker(screen=False)
    tracker.appear(2)
    tracker.measure({2: 0})
    tracker.expect({0})
    tracker.expect({0, 1, 2})  # before the silence was noticed
    assert tracker.measure({2: 0})
    assert tracker.appear(2)


def test_a_layer_that_fails_after_its_grace_is_not_trusted() -> None:
    tracker = LayerTracker(screen=False)
    tracker.expect({0})
    tracker.expect({0, 1, 2})
    tracker.appear(2)
    for cycle in range(8):
        tracker.measure({2: 10 * cycle})
    assert tracker.measure({2: 70})
    assert not tracker.appear(2)


def test_screens_may_stand_still() -> None:
    tracker = LayerTracker(screen=True)
    tracker.appear(0)
    tracker.measure({0: 1})
    for _ in range(3):
        assert not tracker.measure({0: 1})
    assert tracker.measure({0: 1})
    assert not tracker.live


# ------------------------------------------------------------------------------------------ in a room


def watched(seed: int = 1, **more: Any) -> tuple[Stage, Guest, Guest, str]:
    """ann sends three layers, ben watches."""
    stage = Stage(seed)
    ann = stage.join("ann")
    ben = stage.join("ben", **more)
    cam = ann.publish()
    for ssrc, rid in ((11, "q"), (22, "h"), (33, "f")):
        ann.ssrc("5", ssrc, rid)
    ben.offer()
    return stage, ann, ben, cam.sid


def target(stage: Stage) -> int:
    (value,) = stage.plane.targets.values()
    return value[0]


def settings(guest: Guest, sid: str, **more: Any) -> None:
    guest.say(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], **more))


def test_viewers_begin_high_and_adaptive_ones_low() -> None:
    assert target(watched()[0]) == 2
    assert target(watched(adaptive_stream=True)[0]) == 0


def test_sizes_are_debounced_and_becoming_visible_is_not() -> None:
    stage, _, ben, cam = watched()
    settings(ben, cam, width=160, height=90)
    assert target(stage) == 2
    stage.pass_time(0.11)
    assert target(stage) == 0
    settings(ben, cam, disabled=True)
    stage.pass_time(0.11)
    assert target(stage) == -1
    settings(ben, cam, width=640, height=360)
    assert target(stage) == 1


def test_the_last_of_many_sizes_counts() -> None:
    stage, _, ben, cam = watched()
    for height in (90, 180, 360, 720, 90):
        settings(ben, cam, width=height * 2, height=height)
    stage.pass_time(0.2)
    assert target(stage) == 0


def test_settings_said_before_the_track_flows() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.add_track("cam")
    sid = ann.last("track_published").track.sid
    settings(ben, sid, quality=LOW)
    ann.add_section("cam")
    ann.offer()
    ben.offer()
    assert target(stage) == 0


def flow(stage: Stage, layers: set[int], packets: int) -> None:
    for up, about in stage.plane.ups.items():
        if about["layer"] in layers:
            old = stage.plane.up_figures.get(up, SILENT_UP)
            stage.plane.up_figures[up] = old._replace(packets=old.packets + packets)


def test_a_layer_that_stops_is_replaced_by_the_best_living_one() -> None:
    stage, _, _, _ = watched()
    for _ in range(4):
        flow(stage, {0, 1, 2}, 50)
        stage.pass_time(0.5)
    assert target(stage) == 2
    for _ in range(2):
        flow(stage, {0, 1}, 50)
        stage.pass_time(0.5)
    assert target(stage) == 1
    for _ in range(22):
        flow(stage, {0, 1, 2}, 50)
        stage.pass_time(0.5)
    assert target(stage) == 2


def test_layers_are_used_as_they_appear() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ben.offer()
    ann.ssrc("5", 11, "q")
    assert target(stage) == 0
    ann.ssrc("5", 33, "f")
    assert target(stage) == 2


def test_a_key_frame_brings_a_layer_back_after_unmute() -> None:
    stage, ann, _, cam = watched()
    flow(stage, {0, 1, 2}, 50)
    stage.pass_time(1)
    ann.say(mute=rtc.MuteTrackRequest(sid=cam, muted=True))
    stage.pass_time(30)
    ann.say(mute=rtc.MuteTrackRequest(sid=cam, muted=False))
    for up in stage.plane.ups:
        stage.report(KeyFrame(up, 0, 0))
    assert target(stage) == 2
    assert stage.now > Nanos(0)
