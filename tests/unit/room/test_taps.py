"""The room as egress sees it."""

import pytest
from livekit.protocol import room as messages
from livekit.protocol import rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.tap import ParticipantGone, RoomGone, SpeakersChanged, TapEvent, TrackAvailable, TrackGone
from tests.unit.room.stage import Stage
from tests.unit.room.test_dynacast import enabled
from tests.unit.room.test_speakers import speak


def names(events: list[TapEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_the_first_fetch_tells_what_is_there_then_only_changes() -> None:
    stage = Stage()
    ann = stage.join("ann")
    cam = ann.publish()
    tap = stage.room.tap()
    (first,) = tap.events()
    assert isinstance(first, TrackAvailable)
    assert (first.participant.identity, first.track.sid, first.mime_type, first.clock_hz) == (
        "ann",
        cam.sid,
        "video/VP8",
        90_000,
    )
    assert tap.events() == []
    ann.publish("mic", "audio")
    ann.say(mute=rtc.MuteTrackRequest(sid=cam.sid, muted=True))
    mic, muted = tap.events()
    assert isinstance(mic, TrackAvailable)
    assert mic.mime_type == "audio/opus"
    assert isinstance(muted, TrackAvailable)
    assert muted.track.muted
    ann.say(leave=rtc.LeaveRequest())
    assert names(tap.events()) == ["TrackGone", "TrackGone", "ParticipantGone"]


def test_speakers_and_the_end() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish("mic", "audio")
    ann.ssrc("5", 50, pt=111)
    tap = stage.room.tap()
    tap.events()
    speak(stage, ann)
    assert tap.events() == [SpeakersChanged((ann.sid,))]
    stage.command("DeleteRoom", messages.DeleteRoomRequest())
    assert isinstance(tap.events()[-1], RoomGone)


def test_layers_follow_the_height_and_dynacast_knows() -> None:
    stage = Stage()
    ann = stage.join("ann")
    cam = ann.publish()
    for ssrc, rid in ((11, "q"), (22, "h"), (33, "f")):
        ann.ssrc("5", ssrc, rid)
    tap = stage.room.tap()
    number = tap.open(cam.sid, max_height=180)
    assert stage.plane.targets == {number: (0, 7)}
    stage.pass_time(12)
    assert len(enabled(ann)) == 1
    tap.resize(number, None)
    stage.pass_time(0)
    assert stage.plane.targets == {number: (2, 7)}
    stage.pass_time(0.5)
    assert len(enabled(ann)) == 3
    tap.request_key_frame(number)
    assert stage.plane.key_frames[-1][1] == 2
    assert tap.take(number) == ([], 0)
    tap.leave()
    assert not stage.plane.taps
    stage.pass_time(6)
    assert enabled(ann) == []


def test_a_track_that_ends_closes_its_taps() -> None:
    stage = Stage()
    ann = stage.join("ann")
    cam = ann.publish()
    tap = stage.room.tap()
    tap.events()
    number = tap.open(cam.sid)
    ann.say(leave=rtc.LeaveRequest())
    assert not stage.plane.taps
    assert isinstance(tap.events()[0], TrackGone)
    assert tap.take(number) == ([], 0)
    assert tap.clock(number) is None
    with pytest.raises(RequestError) as caught:
        tap.open(cam.sid)
    assert caught.value.code == "not_found"


def test_members_that_go() -> None:
    stage = Stage()
    ann = stage.join("ann")
    tap = stage.room.tap()
    tap.events()
    ann.say(leave=rtc.LeaveRequest())
    assert tap.events() == [ParticipantGone("ann", ann.sid)]
    assert tap.info.name == "stage"
