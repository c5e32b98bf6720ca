"""The topology of /rtc (v0): the client publishes on one connection and we offer on another."""

import re

import pytest
from livekit.protocol import models, rtc

from tertulia.sfu.events import SessionClosed
from tertulia.sfu.transport.api import ChannelOpened, TransportConnected, TransportFailed
from tests.sim import sdp
from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_data import user
from tests.unit.room.test_publishing import shown

LABELS = ["_reliable", "_lossy", "_data_track"]


def answer_to(offer: rtc.SessionDescription, ufrag: str = "two/down") -> rtc.SessionDescription:
    """What a browser makes of our offer: the same sections, turned round, without our SSRCs and candidates."""
    lines = []
    for line in offer.sdp.split("\r\n"):
        if re.match(r"a=(ssrc|msid|candidate|ice-lite|end-of-candidates)", line):
            continue
        line = re.sub(r"^a=sendonly", "a=recvonly", line)
        line = re.sub(r"^a=ice-ufrag:.*", f"a=ice-ufrag:{ufrag}", line)
        lines.append(re.sub(r"^a=setup:.*", "a=setup:active", line))
    return rtc.SessionDescription(type="answer", sdp="\r\n".join(lines), id=offer.id)


def answer(guest: Guest) -> None:
    guest.say(answer=answer_to(guest.last("offer")))


def publish(guest: Guest, cid: str = "cam", kind: str = "video") -> models.TrackInfo:
    guest.sections = [section for section in guest.sections if section.cid]  # v0 publishers offer nothing else
    info: models.TrackInfo = guest.publish(cid, kind)
    return info


def test_we_offer_at_once_and_open_the_channels() -> None:
    stage = Stage()
    ann = stage.join("ann", v1=False, connected=False)
    assert ann.kinds() == ["join", "offer"]
    assert ann.last("join").subscriber_primary
    assert stage.transports.channels == {ann.down: LABELS}
    assert ann.up != ann.down
    assert "webrtc-datachannel" in ann.last("offer").sdp
    answer(ann)
    assert set(stage.transports.remote) == {ann.down}
    ann.happens(TransportConnected(), ann.up)
    assert ann.last("join").participant.state == models.ParticipantInfo.JOINED
    assert not ann.all("update")
    ann.happens(TransportConnected(), ann.down)  # the primary one
    assert shown(ann, "ann").state == models.ParticipantInfo.ACTIVE


def test_publish_and_subscribe() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", v1=False), stage.join("ben", v1=False)
    answer(ann)
    answer(ben)
    ben.forget()
    cam = publish(ann)
    ann.ssrc("0", 11, "q")
    assert [up["transport"] for up in stage.plane.ups.values()] == [ann.up]
    assert ben.kinds() == ["update", "offer"]
    assert list(ben.last("offer").mid_to_track_id.values()) == [cam.sid]
    assert not stage.plane.downs
    answer(ben)
    (row,) = stage.plane.downs.values()
    assert row["transport"] == ben.down
    assert ann.last("track_subscribed").track_sid == cam.sid


def test_tracks_that_exist_are_in_the_first_offer() -> None:
    stage = Stage()
    ann = stage.join("ann")
    cam = ann.publish()
    ben = stage.join("ben", v1=False)
    assert list(ben.last("offer").mid_to_track_id.values()) == [cam.sid]


def test_one_offer_in_flight() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", v1=False)
    ann.publish("one")
    ann.publish("two")
    assert len(ben.all("offer")) == 1
    answer(ben)
    assert len(ben.all("offer")) == 2
    first, second = ben.all("offer")
    assert second.id == first.id + 1
    assert len(second.mid_to_track_id) == 2
    ben.say(answer=answer_to(first))  # an old one
    assert stage.room.counters["answer_unexpected"] == 1
    reply = answer_to(second)
    reply.id = 0  # Rust does not echo the id
    ben.say(answer=reply)
    assert len(stage.plane.downs) == 2


def test_sections_are_given_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", v1=False)
    answer(ben)
    ann.publish()
    answer(ben)
    assert len(stage.plane.downs) == 1
    ann.say(leave=rtc.LeaveRequest())
    assert not stage.plane.downs
    assert not ben.last("offer").mid_to_track_id


def test_an_offer_without_answer() -> None:
    stage = Stage()
    ben = stage.join("ben", v1=False)
    stage.pass_time(14)
    assert not ben.is_ended
    stage.pass_time(2)
    assert ben.last("leave").action == rtc.LeaveRequest.RECONNECT
    assert stage.room.counters["negotiation_timeout"] == 1


def test_a_bad_answer() -> None:
    stage = Stage()
    ben = stage.join("ben", v1=False)
    ben.say(answer=rtc.SessionDescription(type="answer", sdp="v=0", id=ben.last("offer").id))
    assert ben.last("leave").action == rtc.LeaveRequest.RECONNECT
    assert stage.room.counters["bad_answer"] == 1


def test_data_goes_down_on_the_subscriber_connection() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", v1=False), stage.join("ben", v1=False, connected=False)
    ben.happens(TransportConnected(), ben.down)
    ben.happens(ChannelOpened("_reliable"), ben.up)
    ann.send_data(user(b"x", sequence=1))  # on its publisher connection
    assert not ben.packets
    ben.happens(ChannelOpened("_reliable"), ben.down)
    assert len(ben.packets) == 1


def test_without_permission_to_subscribe_the_publisher_connection_is_primary() -> None:
    stage = Stage()
    ann = stage.join("ann", v1=False, connected=False, grants={"can_subscribe": False})
    assert not ann.last("join").subscriber_primary
    ann.happens(TransportConnected(), ann.up)
    assert shown(ann, "ann").state == models.ParticipantInfo.ACTIVE
    ann.happens(ChannelOpened("_reliable"), ann.up)
    stage.join("ben").send_data(user(b"x", sequence=1))
    assert [label for label, _ in stage.transports.sent[ann.up]] == ["_reliable"]


def test_resume_restarts_the_subscriber_connection() -> None:
    stage = Stage()
    ben = stage.join("ben", v1=False)
    answer(ben)
    stage.feed(SessionClosed(ben.session))
    again = stage.resume(ben)
    assert again.kinds() == ["reconnect", "update", "room_update", "offer"]
    assert stage.transports.restarts == [ben.down]
    answer(again)
    stage.pass_time(20)
    assert not again.is_ended


def test_resume_while_an_offer_is_in_flight() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", v1=False)
    answer(ben)
    cam = ann.publish()
    stage.feed(SessionClosed(ben.session))
    again = stage.resume(ben)
    assert list(again.last("offer").mid_to_track_id.values()) == [cam.sid]
    answer(again)
    assert len(stage.plane.downs) == 1


@pytest.mark.parametrize("which", ["up", "down"])
def test_either_connection_failing_ends_the_member(which: str) -> None:
    stage = Stage()
    ben = stage.join("ben", v1=False)
    ben.happens(TransportFailed("x"), getattr(ben, which))
    assert ben.is_ended
    assert not stage.transports.opened


def test_placeholders_of_a_fallen_back_client_stay_unused() -> None:
    """Rust offers its recvonly sections on the publisher connection too (G25)."""
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", v1=False)
    ann.publish()
    ben.offer()
    assert not ben.last("answer").mid_to_track_id
    assert all(section.direction == "inactive" for section in sdp.read_answer(ben.last("answer").sdp)[:4])
