"""What publishers hear of the need for their layers."""

from livekit.protocol import models, rtc

from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_layers import settings, watched
from tests.unit.room.test_subscribing import subscribe


def enabled(guest: Guest) -> list[int]:
    """Qualities wanted by the last update."""
    update = guest.last("subscribed_quality_update")
    (codec,) = update.subscribed_codecs
    assert codec.codec == "vp8"
    assert list(update.subscribed_qualities) == list(codec.qualities)
    assert [q.quality for q in codec.qualities] == [models.LOW, models.MEDIUM, models.HIGH]
    return [q.quality for q in codec.qualities if q.enabled]


def test_less_is_said_after_ten_seconds_at_first_then_after_five() -> None:
    stage, ann, ben, cam = watched()
    settings(ben, cam, quality=models.MEDIUM)
    stage.pass_time(9.5)
    assert "subscribed_quality_update" not in ann.kinds()
    stage.pass_time(1)
    assert enabled(ann) == [models.LOW, models.MEDIUM]
    settings(ben, cam, quality=models.LOW)
    stage.pass_time(4.9)
    assert enabled(ann) == [models.LOW, models.MEDIUM]
    stage.pass_time(0.5)
    assert enabled(ann) == [models.LOW]


def test_more_is_said_at_once() -> None:
    stage, ann, ben, cam = watched()
    settings(ben, cam, quality=models.LOW)
    stage.pass_time(12)
    assert enabled(ann) == [models.LOW]
    settings(ben, cam, quality=models.HIGH)
    stage.pass_time(0.15)
    assert enabled(ann) == [models.LOW, models.MEDIUM, models.HIGH]


def test_a_short_dip_is_not_told() -> None:
    stage, ann, ben, cam = watched()
    stage.pass_time(20)
    settings(ben, cam, disabled=True)
    stage.pass_time(3)
    settings(ben, cam, disabled=False, quality=models.HIGH)
    stage.pass_time(20)
    assert "subscribed_quality_update" not in ann.kinds()


def test_nobody_watching_pauses_and_the_next_viewer_wakes() -> None:
    stage, ann, ben, cam = watched()
    subscribe(ben, cam, wished=False)
    stage.pass_time(12)
    assert enabled(ann) == []
    stage.join("cyd")
    assert enabled(ann) == [models.LOW, models.MEDIUM, models.HIGH]


def test_the_highest_viewer_counts() -> None:
    stage, ann, ben, cam = watched()
    cyd = stage.join("cyd")
    settings(ben, cam, quality=models.LOW)
    settings(cyd, cam, quality=models.MEDIUM)
    stage.pass_time(12)
    assert enabled(ann) == [models.LOW, models.MEDIUM]
    cyd.say(leave=rtc.LeaveRequest())
    stage.pass_time(6)
    assert enabled(ann) == [models.LOW]


def test_audio_is_never_paused() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish("mic", "audio")
    stage.pass_time(60)
    assert "subscribed_quality_update" not in ann.kinds()


def test_a_layer_asked_for_again_is_used_at_once() -> None:
    """The silence of a paused layer is no reason for distrust."""
    stage, _, ben, cam = watched()
    settings(ben, cam, quality=models.LOW)
    stage.pass_time(20)
    settings(ben, cam, quality=models.HIGH)
    stage.pass_time(0.2)
    from tertulia.sfu.plane.api import KeyFrame

    for up, about in stage.plane.ups.items():
        if about["layer"] == 2:
            stage.report(KeyFrame(up, 0, 0))
    assert [layer for layer, _ in stage.plane.targets.values()] == [2]


def test_backup_codec_is_asked_for_when_somebody_cannot_decode() -> None:
    stage = Stage()
    ann = stage.join("ann")
    codecs = [rtc.SimulcastCodec(codec="vp9", cid="cam"), rtc.SimulcastCodec(codec="vp8", cid="")]
    ann.add_track("cam", simulcast_codecs=codecs, layers=[])
    info = ann.last("track_published").track
    ann.add_section("cam", rids=())
    offer = ann.next_offer()
    head, tail = offer.sdp.rsplit("a=mid:5", 1)
    offer.sdp = head + "a=mid:5" + tail.replace("VP8/90000", "VP9/90000")
    ann.say(offer=offer)
    assert info.sid
    ben = stage.join("ben")  # offers VP8 only
    update = ann.last("subscribed_quality_update")
    wanted = {codec.codec: any(q.enabled for q in codec.qualities) for codec in update.subscribed_codecs}
    assert wanted == {"vp9": True, "vp8": True}
    assert "subscription_response" not in ben.kinds()
    # the publisher answers with the second codec, and ben gets it
    ann.add_track("cam8", sid=info.sid, simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="cam8")], layers=[])
    assert ann.last("track_published").track.sid == info.sid
    ann.add_section("cam8", rids=())
    offer = ann.next_offer()
    head, tail = offer.sdp.split("a=mid:5", 1)
    middle, end = tail.split("a=mid:6", 1)
    offer.sdp = head + "a=mid:5" + middle.replace("VP8/90000", "VP9/90000") + "a=mid:6" + end
    ann.say(offer=offer)
    ben.offer()
    assert len(stage.plane.downs) == 1
