"""What congestion does to the layers of one member, and what it never does."""

from typing import Any

import pytest
from livekit.protocol import models, rtc

from tertulia.protocol.machine import MILLISECOND
from tertulia.sfu.bwe.channel import CALM_NS, CLOSE_NS
from tertulia.sfu.plane.api import Feedback
from tertulia.sfu.room import RoomConfig
from tests.unit.room.stage import SILENT_UP, Guest, Stage
from tests.unit.room.test_layers import settings

RATES = {"q": 150_000, "h": 500_000, "f": 1_700_000}


class Watched:
    """ann sends a camera in three layers (and more), ben watches; rates are what RATES says."""

    def __init__(self, config: RoomConfig | None = None) -> None:
        self.stage = Stage(config=config)
        self.ann, self.ben = self.stage.join("ann"), self.stage.join("ben")
        self.cam = self.publish("cam")

    def publish(self, cid: str, **more: Any) -> str:
        track = self.ann.publish(cid, **more)
        for number, rid in enumerate("qhf"):
            self.ann.ssrc(self.ann.sections[-1].mid, hash((cid, rid)) % (1 << 31) + number, rid)
        self.ben.offer()
        return str(track.sid)

    def flow(self, seconds: float) -> None:
        """Time passes, half a second at a time, with packets of each layer at its rate."""
        plane = self.stage.plane
        for _ in range(int(seconds * 2)):
            for up, about in plane.ups.items():
                had = plane.up_figures.get(up, SILENT_UP)
                size = list(RATES.values())[about["layer"]] // 16
                plane.up_figures[up] = had._replace(
                    packets=had.packets + 20, bytes=had.bytes + size, frames=had.frames + 8
                )
            self.stage.pass_time(0.5)

    def layers(self) -> list[int]:
        """Of ben's rows, oldest first."""
        downs = self.stage.plane.downs
        return [
            self.stage.plane.targets[down][0] for down in sorted(downs) if downs[down]["transport"] == self.ben.down
        ]

    def cap(self, bps: int) -> None:
        self.ben.say(simulate=rtc.SimulateScenario(subscriber_bandwidth=bps))

    def remb(self, bps: int) -> None:
        self.stage.report(
            Feedback(
                transport=self.ben.down,
                now=self.stage.now,
                acknowledged_bytes=0,
                acknowledged_packets=0,
                lost_packets=0,
                span_ns=0,
                round_trip_ns=50 * MILLISECOND,
                remb_bps=bps,
            )
        )


def states(guest: Guest) -> list[tuple[str, int]]:
    return [(one.track_sid, one.state) for update in guest.all("stream_state_update") for one in update.stream_states]


@pytest.mark.parametrize(("bps", "layer"), [(100_000, 0), (400_000, 0), (700_000, 1), (5_000_000, 2)])
def test_a_thinner_way_down_gets_a_lower_layer(bps: int, layer: int) -> None:
    watched = Watched()
    watched.flow(2)
    watched.cap(bps)
    assert watched.layers() == [layer]
    watched.flow(2)
    assert watched.layers() == [layer]
    watched.cap(0)
    assert watched.layers() == [2]


def test_remb_below_the_use_lowers_and_the_next_layer_is_tried_later() -> None:
    watched = Watched()
    watched.flow(2)
    watched.remb(2_000_000)
    assert watched.layers() == [2]
    watched.remb(700_000)
    assert watched.layers() == [1]
    watched.flow(1)
    watched.remb(700_000)
    assert watched.layers() == [1]
    watched.flow(4)
    assert watched.layers() == [2]
    watched.remb(600_000)
    assert watched.layers() == [1]
    counters = watched.stage.room.counters
    assert (counters["downlink_cut_remb"], counters["downlink_trial_started"]) == (2, 1)


def test_a_screen_goes_before_cameras_and_a_client_may_say_otherwise() -> None:
    watched = Watched()
    screen = watched.publish("screen", source=models.TrackSource.SCREEN_SHARE)
    watched.flow(2)
    watched.cap(800_000)
    assert watched.layers() == [0, 1]
    settings(watched.ben, watched.cam, quality=models.VideoQuality.HIGH, priority=255)
    settings(watched.ben, screen, quality=models.VideoQuality.HIGH, priority=10)
    watched.flow(1)
    assert watched.layers() == [1, 0]


def test_pausing_is_for_those_who_allow_it_and_is_told() -> None:
    watched = Watched(RoomConfig(allow_pause=True))
    second = watched.publish("second")
    watched.flow(2)
    watched.cap(200_000)
    assert watched.layers() == [0, -1]
    assert states(watched.ben) == [(second, rtc.StreamState.PAUSED)]
    watched.cap(1_000)
    assert watched.layers() == [-1, -1]
    watched.cap(5_000_000)
    assert watched.layers() == [2, 2]
    assert states(watched.ben)[-2:] == [(watched.cam, rtc.StreamState.ACTIVE), (second, rtc.StreamState.ACTIVE)]
    assert watched.stage.room.counters["downlink_paused"] == 2


def test_without_leave_to_pause_the_lowest_layer_goes_on() -> None:
    watched = Watched()
    watched.publish("second")
    watched.cap(1_000)
    assert watched.layers() == [0, 0]
    assert not states(watched.ben)


def test_audio_is_never_touched_and_comes_off_the_budget() -> None:
    watched = Watched(RoomConfig(allow_pause=True))
    watched.ann.publish("mic", "audio")
    watched.ann.ssrc(watched.ann.sections[-1].mid, 77, pt=111)
    watched.ben.offer()
    audio = max(watched.stage.plane.downs)
    before = watched.stage.plane.targets[audio]
    watched.flow(3)
    watched.cap(1_000)
    watched.flow(1)
    assert watched.stage.plane.targets[audio] == before
    snapshot = watched.stage.room.downlinks()["ben"]
    assert snapshot.other_bps == pytest.approx(150_000, rel=0.05)
    assert snapshot.shares == {watched.cam: (-1, "paused")}


def test_a_track_that_becomes_visible_begins_with_its_lowest_layer() -> None:
    watched = Watched()
    second = watched.publish("second")
    settings(watched.ben, second, disabled=True)
    watched.flow(2)
    watched.cap(800_000)
    assert watched.layers() == [1, -1]
    settings(watched.ben, second)
    assert watched.layers() == [1, 0]
    watched.flow(1)
    assert watched.layers() == [1, 0]


def test_a_muted_track_takes_nothing() -> None:
    watched = Watched()
    watched.publish("second")
    watched.flow(2)
    watched.cap(800_000)
    assert watched.layers() == [1, 0]
    watched.ann.say(mute=rtc.MuteTrackRequest(sid=watched.cam, muted=True))
    watched.flow(1)
    assert watched.layers()[1] == 1


def test_a_way_down_that_carries_everything_is_looked_at_seldom() -> None:
    watched = Watched()
    watched.flow(2)
    watched.remb(9_000_000)
    attended, down = watched.stage.plane.attended, watched.ben.down
    assert attended[down] == CALM_NS
    watched.remb(700_000)
    assert attended[down] == CLOSE_NS, "a layer is left out"
    watched.cap(0)
    assert attended[down] == CALM_NS


def test_it_can_be_switched_off() -> None:
    watched = Watched(RoomConfig(congestion_control=False))
    watched.flow(2)
    watched.cap(1_000)
    watched.remb(1_000)
    watched.flow(1)
    assert watched.layers() == [2]
    assert watched.stage.room.downlinks()["ben"].phase == "unknown"


def test_feedback_of_strangers_is_counted() -> None:
    watched = Watched()
    watched.ben.say(leave=rtc.LeaveRequest())
    watched.stage.pass_time(5)
    watched.remb(1_000)
    assert watched.stage.room.counters["report_unused"] == 1
