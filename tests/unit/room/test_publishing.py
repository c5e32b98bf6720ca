"""add_track, sections and SSRCs in every order; mute; the end of a track."""

import json
from typing import Any

import pytest
from livekit.protocol import models, rtc

from tertulia.sfu.plane.api import Codec
from tertulia.sfu.settings import MAX_PENDING_TRACKS
from tests.sim import sdp
from tests.unit.room.stage import CANDIDATE, Guest, Stage, track_request

Reason = rtc.RequestResponse.Reason


def shown(viewer: Guest, name: str) -> models.ParticipantInfo:
    """What a viewer knows of another member by updates."""
    infos = [p for u in viewer.all("update") for p in u.participants if p.identity == name]
    info: models.ParticipantInfo = infos[-1]
    return info


@pytest.mark.parametrize("section_first", [False, True])
def test_a_track_is_published_when_announced_and_negotiated(section_first: bool) -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    if section_first:
        ann.add_section("cam")
        ann.offer()
        assert not stage.plane.tracks
        ann.add_track("cam")
    else:
        ann.add_track("cam")
        assert not stage.plane.tracks
        ann.add_section("cam")
        ann.offer()
    assert list(stage.plane.tracks.values()) == [Codec.VP8]
    published = ann.last("track_published")
    assert published.cid == "cam"
    assert published.track.sid.startswith("TR_VC")
    (track,) = shown(ben, "ann").tracks
    assert (track.sid, track.mime_type, track.mid, track.simulcast) == (published.track.sid, "video/VP8", "5", True)
    assert [(layer.rid, layer.spatial_layer, layer.height) for layer in track.layers] == [
        ("q", 0, 180),
        ("h", 1, 360),
        ("f", 2, 720),
    ]
    assert [(codec.mime_type, codec.mid, codec.cid) for codec in track.codecs] == [("video/VP8", "5", "cam")]
    assert shown(ben, "ann").is_publisher
    assert stage.happened().count("track_published") == 1


def test_simulcast_streams_are_bound_by_mid_and_rid() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish()
    for ssrc, rid in ((11, "f"), (22, "q"), (33, "h")):
        ann.ssrc("5", ssrc, rid)
    assert {(up["ssrc"], up["layer"]) for up in stage.plane.ups.values()} == {(11, 2), (22, 0), (33, 1)}
    assert all(up["nack"] and not up["twcc"] for up in stage.plane.ups.values())
    ann.ssrc("5", 44, repaired="q", pt=sdp.RTX)
    assert [up["rtx"] for up in stage.plane.ups.values() if up["layer"] == 0] == [44]


def test_a_repair_stream_may_come_before_what_it_repairs() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish()
    ann.ssrc("5", 44, repaired="h", pt=sdp.RTX)
    ann.ssrc("5", 33, "h")
    assert [(up["ssrc"], up["rtx"]) for up in stage.plane.ups.values()] == [(33, 44)]


def test_media_may_come_before_its_add_track() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.add_section("cam")
    ann.offer()
    ann.ssrc("5", 11, "q")
    assert not stage.plane.ups
    ann.add_track("cam")
    assert [up["ssrc"] for up in stage.plane.ups.values()] == [11]


def test_an_encoder_restarts_with_another_ssrc() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish()
    ann.ssrc("5", 11, "q")
    ann.ssrc("5", 12, "q")
    assert [up["ssrc"] for up in stage.plane.ups.values()] == [12]


@pytest.mark.parametrize(
    ("rid", "pt", "counter"),
    [("x", sdp.VP8, "ssrc_unknown_rid"), ("", sdp.VP8, "ssrc_without_rid"), ("q", 55, "ssrc_unexpected_payload")],
)
def test_strange_ssrcs_are_counted(rid: str, pt: int, counter: str) -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish()
    ann.ssrc("5", 11, rid, pt=pt)
    assert not stage.plane.ups
    assert stage.room.counters[counter] == 1


def test_a_client_that_sends_another_codec_than_asked_for_is_followed() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.add_track("cam")
    ann.add_section("cam")
    offer = ann.next_offer()
    offer.sdp = offer.sdp.replace(" 96 97", " 96 97 98").replace(
        "a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP8/90000\r\na=rtpmap:98 VP9/90000"
    )
    ann.say(offer=offer)
    ben.offer()
    ann.ssrc("5", 11, "q", pt=98)
    assert list(stage.plane.tracks.values()) == [Codec.VP9]
    assert [up["pt"] for up in stage.plane.ups.values()] == [98]
    assert shown(ben, "ann").tracks[0].mime_type == "video/VP9"
    assert not stage.plane.downs  # ben offers VP8 only, and has heard so
    ben.offer()
    assert ben.last("subscription_response").track_sid == shown(ben, "ann").tracks[0].sid
    for turn in range(20):
        ann.ssrc("5", 20 + turn, "q", pt=96 + 2 * (turn % 2))
    assert stage.room.counters["publisher_changed_codec"] == 8
    assert stage.room.counters["ssrc_unexpected_payload"]


def test_audio_without_mid_is_known_by_its_payload_type() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish("mic", "audio")
    ann.ssrc("", 77, pt=sdp.OPUS)
    assert [up["ssrc"] for up in stage.plane.ups.values()] == [77]


def test_sections_of_renamed_tracks_go_to_the_oldest_of_their_kind() -> None:
    """React Native and Firefox name other track ids in the SDP than in add_track."""
    stage = Stage()
    ann = stage.join("ann")
    ann.add_track("mic", "audio")
    ann.add_track("cam")
    ann.add_section("{other}", "video")
    ann.offer()
    assert list(stage.plane.tracks.values()) == [Codec.VP8]
    ann.add_section("mic", "audio")
    ann.offer()
    assert list(stage.plane.tracks.values()) == [Codec.VP8, Codec.OPUS]


def test_a_named_section_does_not_take_the_place_of_another() -> None:
    """Two cameras: the second one's section comes first."""
    stage = Stage()
    ann = stage.join("ann")
    ann.add_track("one")
    ann.add_track("two")
    ann.add_section("two")
    ann.add_section("one")
    ann.offer()
    mids = {track.name: track.mid for track in stage.join("ben").last("join").other_participants[0].tracks}
    assert mids == {"two": "5", "one": "6"}


def test_unpublish_by_a_section_that_stops() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ann.ssrc("5", 11, "q")
    ann.sections[-1].direction, ann.sections[-1].cid, ann.sections[-1].rids = "inactive", "", ()
    ann.offer()
    assert stage.plane.is_empty
    assert not shown(ben, "ann").tracks
    assert not shown(ben, "ann").is_publisher
    assert "track_unpublished" in stage.happened()
    assert "track_unpublished" not in ann.kinds()  # it knows


def test_the_same_section_may_carry_another_track() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    first = ann.publish("one")
    ann.add_track("two")
    ann.sections[-1].cid = "two"
    ann.offer()
    (track,) = shown(ben, "ann").tracks
    assert track.name == "two"
    assert track.sid != first.sid
    assert len(stage.plane.tracks) == 1


def refusals(guest: Guest) -> list[int]:
    return [response.reason for response in guest.all("request_response")]


def test_who_may_not_publish_is_told_so() -> None:
    stage = Stage()
    ann = stage.join("ann", grants={"can_publish": False})
    ann.add_track("cam")
    assert refusals(ann) == [Reason.NOT_ALLOWED]
    assert ann.last("request_response").add_track.cid == "cam"
    ben = stage.join("ben", grants={"can_publish_sources": ("microphone",)})
    ben.add_track("cam")
    ben.add_track("mic", "audio")
    assert refusals(ben) == [Reason.NOT_ALLOWED]
    assert ben.last("track_published").cid == "mic"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"type": models.TrackType.DATA}, Reason.UNSUPPORTED_TYPE),
        ({"cid": ""}, Reason.INVALID_REQUEST),
        ({"width": 100_000}, Reason.INVALID_REQUEST),
        ({"layers": [models.VideoLayer()] * 50}, Reason.INVALID_REQUEST),
        ({"sid": "TR_nothere"}, Reason.NOT_FOUND),
    ],
)
def test_bad_tracks_are_refused_in_words(more: dict[str, Any], reason: int) -> None:
    ann = Stage().join("ann")
    ann.say(add_track=track_request("cam", **more))
    assert refusals(ann) == [reason]
    assert ann.last("request_response").message


def test_announced_tracks_are_limited() -> None:
    stage = Stage()
    ann = stage.join("ann")
    for number in range(MAX_PENDING_TRACKS + 3):
        ann.add_track(f"cam{number}")
    assert refusals(ann) == [Reason.LIMIT_EXCEEDED] * 3
    assert stage.room.counters["limit_tracks"] == 3


def test_a_cid_that_is_still_published_is_queued() -> None:
    stage = Stage()
    ann = stage.join("ann")
    old = ann.publish("cam")
    ann.add_track("cam")
    assert refusals(ann) == [Reason.QUEUED]
    ann.sections[-1].direction, ann.sections[-1].cid, ann.sections[-1].rids = "inactive", "", ()
    ann.offer()
    assert ann.last("track_published").track.sid != old.sid


def test_codecs_the_room_does_not_enable_are_replaced() -> None:
    ann = Stage().join("ann")
    ann.add_track("cam", simulcast_codecs=[rtc.SimulcastCodec(codec="h265", cid="cam")])
    assert ann.last("track_published").track.codecs[0].mime_type == "video/VP8"


def test_mute_is_told_at_once_and_stops_forwarding() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    info = ann.publish()
    ann.ssrc("5", 11, "q")
    version = shown(ben, "ann").version
    ann.say(mute=rtc.MuteTrackRequest(sid=info.sid, muted=True))
    assert shown(ben, "ann").tracks[0].muted
    assert shown(ben, "ann").version > version
    assert shown(ann, "ann").tracks[0].muted
    assert stage.plane.disabled == set(stage.plane.tracks)
    ann.say(mute=rtc.MuteTrackRequest(sid=info.sid, muted=False))
    assert not shown(ben, "ann").tracks[0].muted
    assert not stage.plane.disabled
    assert stage.plane.key_frames


def test_published_muted() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish(muted=True)
    assert shown(ben, "ann").tracks[0].muted
    assert stage.plane.disabled == set(stage.plane.tracks)


def test_a_bad_offer_is_said_and_the_client_starts_afresh() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.say(offer=rtc.SessionDescription(type="offer", sdp="v=0\r\nnonsense", id=9))
    assert ann.last("request_response").message.startswith("offer: ")
    assert ann.last("leave").action == rtc.LeaveRequest.RECONNECT
    assert ann.is_ended
    assert stage.room.counters["bad_offer"] == 1
    assert shown(ben, "ann").state == models.ParticipantInfo.DISCONNECTED


def test_leaving_gives_everything_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ann.publish("mic", "audio")
    ben.offer()
    assert stage.plane.downs
    ann.say(leave=rtc.LeaveRequest())
    assert stage.plane.is_empty
    assert stage.transports.opened == {ben.up}
    gone = shown(ben, "ann")
    assert gone.state == models.ParticipantInfo.DISCONNECTED
    assert gone.disconnect_reason == models.DisconnectReason.CLIENT_INITIATED
    assert ann.is_ended
    assert "leave" not in ann.kinds()
    assert stage.happened()[-1] == "participant_left"


def test_track_features_are_updated() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    mic = ann.publish("mic", "audio")
    features = [models.AudioTrackFeature.TF_ECHO_CANCELLATION]
    ann.say(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=mic.sid, features=features))
    assert list(shown(ben, "ann").tracks[0].audio_features) == features
    cam = ann.publish()
    ann.say(update_video_track=rtc.UpdateLocalVideoTrack(track_sid=cam.sid, width=640, height=360))
    assert shown(ben, "ann").tracks[1].height == 360


def test_an_offer_the_transport_refuses_ends_one_member_not_the_room() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.transports.refuses = "the fingerprint changed"
    ann.say(offer=ann.next_offer())
    assert ann.last("request_response").message == "offer: the fingerprint changed"
    assert ann.is_ended
    stage.transports.refuses = ""
    ben.publish()
    assert not ben.is_ended


def test_candidates_are_told_once_as_messages_too() -> None:
    ann = Stage().join("ann")
    ann.offer()
    told = ann.all("trickle")
    assert [json.loads(one.candidateInit)["candidate"] for one in told] == [f"candidate:{CANDIDATE}"]
    assert told[-1].final
