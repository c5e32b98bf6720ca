"""Who speaks, as LiveKit computes it, and who hears of it."""

import pytest

from tertulia.sfu.plane.api import AudioWindow
from tertulia.sfu.room import RoomConfig
from tertulia.sfu.speakers import Speakers, quantised
from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_subscribing import subscribe

UP = 7


def round_of(packets: int = 20, active: int = 20, loudest: int = 20) -> list[AudioWindow]:
    return [AudioWindow(UP, packets, active, loudest)] if packets else []


def heard(*rounds: list[AudioWindow]) -> float:
    speakers = Speakers(RoomConfig())
    levels: dict[int, float] = {}
    for windows in rounds:
        levels = speakers.hear(windows)
    return levels.get(UP, 0.0)


def test_levels_are_smoothed_and_quantised() -> None:
    # -20 dBov is 0.1; after one window two thirds of it, then eight ninths
    assert heard(round_of()) == 0.125
    assert heard(round_of(loudest=0)) == 0.75  # 0.667 up to the next eighth
    assert heard(round_of(loudest=0), round_of(loudest=0)) == 1.0


@pytest.mark.parametrize(("active", "speaks"), [(7, False), (8, True), (20, True)])
def test_two_fifths_of_a_window_must_be_speech(active: int, speaks: bool) -> None:
    assert (heard(round_of(active=active)) > 0) is speaks


def test_half_a_window_of_speech_is_quieter() -> None:
    assert heard(round_of(active=10, loudest=0)) < heard(round_of(active=20, loudest=0))


def test_silence_ends_it_at_once() -> None:
    assert heard(round_of(), round_of(active=0, loudest=127)) == 0


def test_a_stream_that_stops_expires_after_two_rounds() -> None:
    assert heard(round_of(), []) > 0
    assert heard(round_of(), [], []) == 0


def test_few_packets_of_discontinuous_transmission_are_no_window() -> None:
    assert heard(round_of(packets=1, active=1, loudest=0)) == 0


def test_long_frames_make_windows_too() -> None:
    """60 ms frames: 6 or 7 packets per round."""
    assert heard(round_of(7, 7, 0)) > 0


@pytest.mark.parametrize(("level", "steps"), [(0.0, 0.0), (0.01, 0.125), (0.125, 0.125), (0.13, 0.25), (2.0, 1.0)])
def test_quantised(level: float, steps: float) -> None:
    assert quantised(level) == steps


# ------------------------------------------------------------------------------------------ in a room


def speak(stage: Stage, guest: Guest, loudest: int = 10) -> None:
    """One round of speech of a guest that publishes a microphone."""
    for up, about in stage.plane.ups.items():
        if about["transport"] == guest.up:
            stage.plane.levels.append(AudioWindow(up, 20, 20, loudest))
    stage.pass_time(0.4)


def test_speaker_and_subscribers_hear_changes_only() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cyd = stage.join("cyd", auto_subscribe=False)
    ann.publish("mic", "audio")
    ann.ssrc("5", 50, pt=111)
    ben.offer()
    for _ in range(8):
        speak(stage, ann)
    (first, *rest) = ben.all("speakers_changed")
    assert [(s.sid, s.active) for s in first.speakers] == [(ann.sid, True)]
    assert len(rest) <= 1  # the smoothed level settles in one more step, then nothing changes
    assert ann.all("speakers_changed") == ben.all("speakers_changed")
    assert not cyd.all("speakers_changed")
    stage.pass_time(1.3)
    assert [(s.sid, s.active, s.level) for s in ben.last("speakers_changed").speakers] == [(ann.sid, False, 0)]
    told = len(ben.all("speakers_changed"))
    stage.pass_time(5)
    assert len(ben.all("speakers_changed")) == told


def test_loudest_first_and_late_subscribers_hear_of_them() -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd", auto_subscribe=False)
    for number, guest in enumerate((ann, ben)):
        guest.publish(f"mic{number}", "audio")
        guest.ssrc("5", 50 + number, pt=111)
    for up, about in stage.plane.ups.items():
        stage.plane.levels.append(AudioWindow(up, 20, 20, 30 if about["transport"] == ann.up else 0))
    stage.pass_time(0.4)
    tracks = [track.sid for member in cyd.last("update").participants for track in member.tracks]
    sids = {track for update in cyd.all("update") for p in update.participants for track in (t.sid for t in p.tracks)}
    assert tracks
    for sid in sids:
        subscribe(cyd, sid)
    cyd.offer()
    for up, about in stage.plane.ups.items():
        stage.plane.levels.append(AudioWindow(up, 20, 20, 30 if about["transport"] == ann.up else 0))
    stage.pass_time(0.4)
    assert [s.sid for s in cyd.last("speakers_changed").speakers] == [ben.sid, ann.sid]


def test_muted_members_do_not_speak() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish("mic", "audio", muted=True)
    ann.ssrc("5", 50, pt=111)
    speak(stage, ann)
    assert not ann.all("speakers_changed")


def test_who_begins_or_ceases_to_listen_hears_of_a_level_that_stays() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish("mic", "audio")
    ann.ssrc("5", 50, pt=111)
    ben.offer()
    for _ in range(8):
        speak(stage, ann)
    mic = ben.last("update").participants[0].tracks[0].sid
    assert ben.last("speakers_changed").speakers[0].active
    subscribe(ben, mic, wished=False)
    ben.offer()
    speak(stage, ann)
    assert not ben.last("speakers_changed").speakers[0].active
    told = len(ben.all("speakers_changed"))
    speak(stage, ann)
    assert len(ben.all("speakers_changed")) == told
    subscribe(ben, mic)
    ben.offer()
    speak(stage, ann)
    assert [(s.sid, s.active) for s in ben.last("speakers_changed").speakers] == [(ann.sid, True)]
    again = stage.resume(ben)
    speak(stage, ann)
    assert [(s.sid, s.active) for s in again.last("speakers_changed").speakers] == [(ann.sid, True)]
