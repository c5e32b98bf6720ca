"""Requests about oneself, scenarios for tests, and how much of everything is taken."""

import pytest
from livekit.protocol import models, rtc

from tertulia.sfu.settings import REQUEST_BURST
from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_publishing import shown

Reason = rtc.RequestResponse.Reason


def update(guest: Guest, **more: object) -> int:
    guest.say(update_metadata=rtc.UpdateParticipantMetadata(request_id=42, **more))  # type: ignore[arg-type]
    response = guest.last("request_response")
    assert response.request_id == 42
    reason: int = response.reason
    return reason


def test_own_metadata() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", grants={"can_update_own_metadata": True}), stage.join("ben")
    assert update(ann, metadata="m", attributes={"k": "v"}) == Reason.OK
    assert shown(ben, "ann").metadata == shown(ann, "ann").metadata == "m"
    assert update(ann, attributes={"k": ""}) == Reason.OK
    assert not shown(ben, "ann").attributes
    assert shown(ben, "ann").metadata == "m"
    assert update(ann, name="x" * 300) == Reason.LIMIT_EXCEEDED
    assert update(ben, metadata="m") == Reason.NOT_ALLOWED


def test_metadata_updates_are_limited() -> None:
    stage = Stage()
    ann = stage.join("ann", grants={"can_update_own_metadata": True})
    reasons = [update(ann, metadata=str(number)) for number in range(60)]
    assert reasons.count(Reason.LIMIT_EXCEEDED) == 10
    assert stage.room.counters["limit_metadata_updates"] == 10


def test_requests_are_limited() -> None:
    stage = Stage()
    ann = stage.join("ann")
    for _ in range(REQUEST_BURST + 20):
        ann.say(trickle=rtc.TrickleRequest(candidateInit="{}"))
    assert stage.room.counters["limit_requests"] == 20
    assert not ann.is_ended


def test_empty_and_unknown_requests_are_counted() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.say()
    ann.say(update_layers=rtc.UpdateVideoLayers())
    assert stage.room.counters["request_unknown"] == 2
    ann.say(mute=rtc.MuteTrackRequest(sid="TR_x", muted=True))
    ann.say(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid="TR_x"))
    assert stage.room.counters["request_track_not_found"] == 1
    ann.say(answer=rtc.SessionDescription(type="answer", sdp=""))
    assert stage.room.counters["answer_unexpected"] == 1


def test_data_blobs_are_not_offered() -> None:
    ann = Stage().join("ann")
    ann.say(get_data_blob_request=rtc.GetDataBlobRequest())
    assert ann.last("request_response").reason == Reason.NOT_ALLOWED


# ------------------------------------------------------------------------------------------ scenarios


def simulate(guest: Guest, **scenario: object) -> None:
    guest.say(simulate=rtc.SimulateScenario(**scenario))  # type: ignore[arg-type]


def test_speaker() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    simulate(ann, speaker_update=3)
    (speaker,) = ben.last("speakers_changed").speakers
    assert (speaker.sid, speaker.active) == (ann.sid, True)
    stage.pass_time(3.1)
    assert not ben.last("speakers_changed").speakers[0].active


@pytest.mark.parametrize("name", ["node_failure", "migration"])
def test_a_node_that_vanishes(name: str) -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.forget()
    simulate(ann, **{name: True})
    assert ann.is_ended
    assert ann.signals == []
    assert shown(ben, "ann").state == models.ParticipantInfo.DISCONNECTED
    assert stage.resume(ann).last("leave").action == rtc.LeaveRequest.RECONNECT


def test_leaves() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    simulate(ann, server_leave=True)
    assert ann.last("leave").reason == models.DisconnectReason.SERVER_SHUTDOWN
    assert ann.last("leave").action == rtc.LeaveRequest.DISCONNECT
    simulate(ben, leave_request_full_reconnect=True)
    assert ben.last("leave").action == rtc.LeaveRequest.RECONNECT


def test_failing_resumes() -> None:
    stage = Stage()
    ann = stage.join("ann")
    simulate(ann, disconnect_signal_on_resume=True)
    first = stage.resume(ann)
    assert first.kinds()[0] == "reconnect"
    assert first.is_ended
    second = stage.resume(first)
    assert not second.is_ended
    simulate(second, disconnect_signal_on_resume_no_messages=True)
    third = stage.resume(second)
    assert third.signals == []
    assert third.is_ended
    stage.pass_time(6)
    assert not stage.resume(third).is_ended
