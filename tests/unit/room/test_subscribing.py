"""Wishes, sections, rows, and what stands between them."""

from livekit.protocol import models, room, rtc

from tertulia.sfu.events import SessionClosed
from tertulia.sfu.room import RoomConfig
from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_publishing import shown


def subscribe(guest: Guest, sid: str, wished: bool = True) -> None:
    guest.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=wished))


def down_of(stage: Stage, guest: Guest) -> list[int]:
    return [down for down, about in stage.plane.downs.items() if about["transport"] == guest.down]


def test_a_new_track_is_asked_for_and_flows_after_the_next_offer() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.forget()
    cam = ann.publish()
    assert ben.kinds() == ["update", "media_sections_requirement"]  # the track is known before its section
    assert not stage.plane.downs
    answer = ben.offer()
    assert dict(answer.mid_to_track_id) == {"2": cam.sid}
    (row,) = stage.plane.downs.values()
    assert row["track"] in stage.plane.tracks
    assert row["transport"] == ben.down
    assert row["mid"] == "2"
    assert row["rtx_ssrc"]
    assert row["rtx_payload_type"]
    assert ann.last("track_subscribed").track_sid == cam.sid


def test_tracks_that_exist_at_join_are_in_the_first_answer() -> None:
    stage = Stage()
    ann = stage.join("ann")
    cam = ann.publish()
    ben = stage.join("ben", connected=False)
    assert dict(ben.last("answer").mid_to_track_id) == {"2": cam.sid}
    assert len(stage.plane.downs) == 1


def test_requirements_are_one_at_a_time_and_count_missing_sections() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.forget()
    for number in range(4):  # two video sections are there
        ann.publish(f"cam{number}")
    assert len(ben.all("media_sections_requirement")) == 1
    ben.offer()
    second = ben.all("media_sections_requirement")[1]
    assert (second.num_audios, second.num_videos) == (0, 2)
    for _ in range(2):
        ben.add_section("").direction = "recvonly"
        ben.sections[-1].rids = ()
    assert len(ben.offer().mid_to_track_id) == 4
    assert len(stage.plane.downs) == 4


def test_without_auto_subscribe_only_what_is_asked_for() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", auto_subscribe=False)
    cam, mic = ann.publish(), ann.publish("mic", "audio")
    ben.offer()
    assert not stage.plane.downs
    subscribe(ben, mic.sid)
    ben.offer()
    assert dict(ben.last("answer").mid_to_track_id) == {"0": mic.sid}
    ben.say(
        subscription=rtc.UpdateSubscription(
            subscribe=True, participant_tracks=[models.ParticipantTracks(participant_sid=ann.sid, track_sids=[cam.sid])]
        )
    )
    ben.offer()
    assert set(ben.last("answer").mid_to_track_id.values()) == {mic.sid, cam.sid}


def test_unsubscribe_and_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ann.publish()
    ben.offer()
    (first,) = stage.plane.downs.values()
    subscribe(ben, cam.sid, wished=False)
    assert not stage.plane.downs
    assert not ben.offer().mid_to_track_id
    subscribe(ben, cam.sid)
    ben.offer()
    (again,) = stage.plane.downs.values()
    assert again["ssrc"] != first["ssrc"]  # stale state of an SSRC freezes video (G39)


def test_quick_off_and_on_keeps_one_row() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ann.publish()
    ben.offer()
    subscribe(ben, cam.sid, wished=False)
    subscribe(ben, cam.sid)
    ben.offer()
    ben.offer()
    assert len(stage.plane.downs) == 1


def test_a_wish_for_an_unknown_track_waits_a_minute() -> None:
    stage = Stage()
    ben = stage.join("ben")
    subscribe(ben, "TR_unknown")
    stage.pass_time(59)
    assert "subscription_response" not in ben.kinds()
    stage.pass_time(2)
    error = ben.last("subscription_response")
    assert (error.track_sid, error.err) == ("TR_unknown", models.SubscriptionError.SE_TRACK_NOTFOUND)


def test_a_publisher_may_forbid_and_allow_again() -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    cam = ann.publish()
    ben.offer(), cyd.offer()
    only_cyd = rtc.SubscriptionPermission(
        track_permissions=[rtc.TrackPermission(participant_identity="cyd", all_tracks=True)]
    )
    ann.say(subscription_permission=only_cyd)
    update = ben.last("subscription_permission_update")
    assert (update.participant_sid, update.track_sid, update.allowed) == (ann.sid, cam.sid, False)
    assert not down_of(stage, ben)
    assert len(down_of(stage, cyd)) == 1
    assert "subscription_permission_update" not in cyd.kinds()
    ann.say(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
    assert ben.last("subscription_permission_update").allowed
    ben.offer(), ben.offer()
    assert len(down_of(stage, ben)) == 1


def test_by_track_permission() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam, mic = ann.publish(), ann.publish("mic", "audio")
    rule = rtc.SubscriptionPermission(
        track_permissions=[rtc.TrackPermission(participant_sid=ben.sid, track_sids=[mic.sid])]
    )
    ann.say(subscription_permission=rule)
    ben.offer()
    assert list(ben.last("answer").mid_to_track_id.values()) == [mic.sid]
    assert [u.track_sid for u in ben.all("subscription_permission_update")] == [cam.sid]


def test_a_client_that_cannot_decode_hears_so() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.add_track("cam", simulcast_codecs=[rtc.SimulcastCodec(codec="vp9", cid="cam")], layers=[])
    info = ann.last("track_published").track
    ann.add_section("cam", rids=())
    offer = ann.next_offer()
    offer.sdp = "VP9/90000".join(offer.sdp.rsplit("VP8/90000", 1))
    ann.say(offer=offer)
    ben.offer()
    assert ben.last("subscription_response").track_sid == info.sid
    assert ben.last("subscription_response").err == models.SubscriptionError.SE_CODEC_UNSUPPORTED
    assert not stage.plane.downs


def test_members_without_permission_get_nothing() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", grants={"can_subscribe": False})
    ann.publish()
    ben.offer()
    assert not stage.plane.downs
    assert "media_sections_requirement" not in ben.kinds()


def test_a_track_that_ends_takes_its_section_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ben.offer()
    ben.forget()
    ann.sections[-1].direction, ann.sections[-1].cid, ann.sections[-1].rids = "inactive", "", ()
    ann.offer()
    assert not shown(ben, "ann").tracks
    assert ben.kinds() == ["update", "media_sections_requirement"]
    assert not ben.offer().mid_to_track_id


def test_a_client_may_take_its_section_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ben.offer()
    ben.sections[2].direction = "inactive"
    ben.offer()
    assert not stage.plane.downs
    assert stage.room.counters["section_taken_back"] == 1


def test_members_without_signal_keep_their_media() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ben.offer()
    stage.feed(SessionClosed(ben.session))
    stage.pass_time(120)
    assert len(stage.plane.downs) == 1
    assert len(stage.room.info().name) > 0
    assert stage.room.info().num_participants == 2


def test_tracks_of_hidden_members_are_nobodys() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", grants={"hidden": True}), stage.join("ben")
    ann.publish()
    ben.offer()
    assert not stage.plane.downs
    shown_now = models.ParticipantPermission(can_subscribe=True, can_publish=True)
    stage.command("UpdateParticipant", room.UpdateParticipantRequest(identity="ann", permission=shown_now))
    ben.offer()
    assert len(stage.plane.downs) == 1


def test_wishes_end_with_their_track() -> None:
    """A day of tracks that come and go does not use up the limit."""
    stage = Stage(config=RoomConfig(max_subscriptions=3))
    ann, ben = stage.join("ann"), stage.join("ben", auto_subscribe=False)
    for number in range(6):
        info = ann.publish(f"mic{number}", "audio")
        subscribe(ben, info.sid)
        subscribe(ben, info.sid, wished=False)
        ann.sections[-1].direction, ann.sections[-1].cid = "inactive", ""
        ann.offer()
    assert not stage.room.counters["limit_subscriptions"]


def test_wished_tracks_are_limited() -> None:
    stage = Stage(config=RoomConfig(max_subscriptions=2))
    ann, ben = stage.join("ann"), stage.join("ben")
    for number in range(4):
        ann.publish(f"mic{number}", "audio")
    assert stage.room.counters["limit_subscriptions"] == 2
    for number in range(5):
        subscribe(ben, f"TR_{number}")
    assert stage.room.counters["limit_subscriptions"] == 5
