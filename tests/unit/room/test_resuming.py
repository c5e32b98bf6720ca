"""A new WebSocket for a participant that is still there, and when it must start afresh."""

import pytest
from livekit.protocol import models, rtc

from tertulia.sfu.events import SessionClosed
from tertulia.sfu.transport.api import TransportLost
from tests.unit.room.stage import Guest, Stage, claims_of
from tests.unit.room.test_publishing import shown

Reason, Leave = models.DisconnectReason, rtc.LeaveRequest


def refused(guest: Guest) -> bool:
    return guest.kinds() == ["leave"] and guest.last("leave").action == Leave.RECONNECT and guest.is_ended


def test_reconnect_comes_first_then_everybody_then_the_room() -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    stage.feed(SessionClosed(ben.session))
    cyd.say(leave=rtc.LeaveRequest())
    again = stage.resume(ben)
    assert again.kinds() == ["reconnect", "update", "room_update"]
    told = {p.identity: p.state for p in again.last("update").participants}
    active, gone = models.ParticipantInfo.ACTIVE, models.ParticipantInfo.DISCONNECTED
    assert told == {"ann": active, "ben": active, "cyd": gone}
    assert again.last("reconnect").server_info.version
    assert len(again.refreshes) == 1
    assert ann.sid in {p.sid for p in again.last("update").participants}
    assert stage.transports.opened == {ann.up, ben.up}


def test_old_departures_are_not_told() -> None:
    stage = Stage()
    ben, cyd = stage.join("ben"), stage.join("cyd")
    cyd.say(leave=rtc.LeaveRequest())
    stage.pass_time(130)
    assert [p.identity for p in stage.resume(ben).last("update").participants] == ["ben"]


def test_the_old_session_is_closed_without_a_word_and_ignored() -> None:
    stage = Stage()
    ben = stage.join("ben")
    ben.forget()
    again = stage.resume(ben)
    assert ben.signals == []
    assert ben.is_ended
    stage.feed(SessionClosed(ben.session))
    ben.say(leave=rtc.LeaveRequest())
    again.say(update_metadata=rtc.UpdateParticipantMetadata(request_id=5))
    assert again.last("request_response").request_id == 5


@pytest.mark.parametrize("more", [{"participant_sid": "PA_unknown"}, {"claims": claims_of("eve")}])
def test_who_is_not_known_must_start_afresh(more: dict[str, object]) -> None:
    stage = Stage()
    ben = stage.join("ben")
    assert refused(stage.resume(ben, **more))
    assert not ben.is_ended
    assert stage.room.counters["resume_refused"] == 1


def test_media_and_negotiation_go_on() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.feed(SessionClosed(ben.session))
    cam = ann.publish()
    again = stage.resume(ben)
    assert "media_sections_requirement" in again.kinds()
    again.ufrag = "ben/second"
    assert dict(again.offer().mid_to_track_id) == {"2": cam.sid}
    assert stage.transports.remote[ben.up].ufrag.startswith("ben/second")
    assert len(stage.plane.downs) == 1


def test_a_requirement_that_was_lost_is_said_again() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    assert len(ben.all("media_sections_requirement")) == 1
    stage.feed(SessionClosed(ben.session))
    assert len(stage.resume(ben).all("media_sections_requirement")) == 1


def test_sync_state_applies_subscriptions() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam, mic = ann.publish(), ann.publish("mic", "audio")
    ben.offer()
    again = stage.resume(ben)
    again.say(
        sync_state=rtc.SyncState(
            subscription=rtc.UpdateSubscription(track_sids=[mic.sid], subscribe=False), track_sids_disabled=[cam.sid]
        )
    )
    stage.pass_time(0.2)
    assert [layer for layer, _ in stage.plane.targets.values()] == [-1]


def test_unknown_publications_mean_a_full_reconnect() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ben.publish()
    again = stage.resume(ben)
    good = rtc.TrackPublishedResponse(cid="cam", track=models.TrackInfo(sid=cam.sid))
    again.say(sync_state=rtc.SyncState(publish_tracks=[good]))
    assert not again.is_ended
    bad = rtc.TrackPublishedResponse(cid="cam", track=models.TrackInfo(sid="TR_other"))
    again.say(sync_state=rtc.SyncState(publish_tracks=[good, bad]))
    assert again.last("leave").action == Leave.RECONNECT
    assert again.last("leave").reason == Reason.STATE_MISMATCH
    assert shown(ann, "ben").state == models.ParticipantInfo.DISCONNECTED


def test_unknown_data_tracks_too() -> None:
    stage = Stage()
    ben = stage.resume(stage.join("ben"))
    published = rtc.PublishDataTrackResponse(info=models.DataTrackInfo(pub_handle=3))
    ben.say(sync_state=rtc.SyncState(publish_data_tracks=[published]))
    assert ben.last("leave").action == Leave.RECONNECT


def test_a_resume_without_media_is_only_waited_for() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.happens(TransportLost())
    stage.feed(SessionClosed(ben.session))
    stage.pass_time(20)
    again = stage.resume(ben)
    stage.pass_time(29)
    assert not again.is_ended
    stage.pass_time(2)
    assert again.is_ended
    assert shown(ann, "ben").disconnect_reason == Reason.CONNECTION_TIMEOUT


def test_departures_of_hidden_members_are_not_told() -> None:
    stage = Stage()
    ben, spy = stage.join("ben"), stage.join("spy", grants={"hidden": True})
    stage.feed(SessionClosed(ben.session))
    spy.say(leave=rtc.LeaveRequest())
    told = stage.resume(ben).last("update").participants
    assert [p.identity for p in told] == ["ben"]
