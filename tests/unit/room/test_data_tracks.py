"""Data tracks: handles of the publisher in, handles of each subscriber out."""

import pytest
from livekit.protocol import models, rtc

from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_publishing import shown

Reason = rtc.RequestResponse.Reason


def publish(guest: Guest, handle: int = 7, name: str = "poses") -> None:
    guest.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=handle, name=name))


def subscribe(guest: Guest, sid: str, wished: bool = True) -> dict[int, str]:
    update = rtc.UpdateDataSubscription.Update(track_sid=sid, subscribe=wished)
    guest.say(update_data_subscription=rtc.UpdateDataSubscription(updates=[update]))
    return handles(guest)


def handles(guest: Guest) -> dict[int, str]:
    return {h: about.track_sid for h, about in guest.last("data_track_subscriber_handles").sub_handles.items()}


def packet(handle: int, body: bytes = b"frame") -> bytes:
    return bytes([0x18, 0]) + handle.to_bytes(2, "big") + bytes(8) + body


def send(guest: Guest, data: bytes) -> None:
    from tertulia.sfu.transport.api import ChannelMessage

    guest.happens(ChannelMessage("_data_track", data))


def received(stage: Stage, guest: Guest) -> list[bytes]:
    return [data for label, data in stage.transports.sent[guest.down] if label == "_data_track"]


def test_publish_subscribe_forward_unpublish() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    publish(ann)
    info = ann.last("publish_data_track_response").info
    assert info.sid.startswith("DTR_")
    assert [(t.sid, t.name) for t in shown(ben, "ann").data_tracks] == [(info.sid, "poses")]
    send(ann, packet(7))
    assert not received(stage, ben)
    told = subscribe(ben, info.sid)
    (handle,) = told
    about = ben.last("data_track_subscriber_handles").sub_handles[handle]
    assert (about.publisher_identity, about.publisher_sid, about.track_sid) == ("ann", ann.sid, info.sid)
    send(ann, packet(7))
    assert received(stage, ben) == [packet(handle)]
    ann.say(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=7))
    assert ann.last("unpublish_data_track_response").info.sid == info.sid
    assert not shown(ben, "ann").data_tracks
    assert handles(ben) == {}
    send(ann, packet(7))
    assert len(received(stage, ben)) == 1


def test_each_subscriber_has_handles_of_its_own() -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    publish(ann, 7)
    publish(cyd, 7)
    first, second = (g.last("publish_data_track_response").info.sid for g in (ann, cyd))
    told = subscribe(ben, first) | subscribe(ben, second)
    assert set(told.values()) == {first, second}
    assert len(told) == 2
    assert subscribe(ben, first, wished=False) == {h: sid for h, sid in told.items() if sid == second}


def test_automatic_subscription() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", auto_subscribe_data_track=True)
    publish(ann)
    assert len(handles(ben)) == 1
    cyd = stage.join("cyd", auto_subscribe_data_track=True)
    assert len(handles(cyd)) == 1


@pytest.mark.parametrize(
    ("handle", "name", "reason"),
    [
        (0, "a", Reason.INVALID_HANDLE),
        (1 << 16, "a", Reason.INVALID_HANDLE),
        (8, "", Reason.INVALID_NAME),
        (8, "x" * 257, Reason.INVALID_NAME),
        (7, "a", Reason.DUPLICATE_HANDLE),
        (8, "poses", Reason.DUPLICATE_NAME),
    ],
)
def test_refusals(handle: int, name: str, reason: int) -> None:
    ann = Stage().join("ann")
    publish(ann)
    publish(ann, handle, name)
    response = ann.last("request_response")
    assert response.reason == reason
    assert response.publish_data_track.pub_handle == handle  # by the echo the client knows which


def test_permission() -> None:
    stage = Stage()
    ann = stage.join("ann", grants={"can_publish_data": False})
    publish(ann)
    assert ann.last("request_response").reason == Reason.NOT_ALLOWED
    ann.say(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=3))
    assert ann.last("request_response").reason == Reason.NOT_FOUND


def test_strange_packets_are_counted() -> None:
    stage = Stage()
    ann = stage.join("ann")
    send(ann, b"short")
    send(ann, b"\xff" * 20)
    send(ann, packet(99))
    assert stage.room.counters["data_track_malformed"] == 2
    assert stage.room.counters["data_track_unknown_handle"] == 1


def test_slow_subscribers_lose_packets() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    publish(ann)
    subscribe(ben, ann.last("publish_data_track_response").info.sid)
    stage.transports.buffered = 1 << 30
    send(ann, packet(7))
    assert not received(stage, ben)
    assert stage.room.counters["data_track_dropped"] == 1


def test_leaving_ends_them() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    publish(ann)
    subscribe(ben, ann.last("publish_data_track_response").info.sid)
    ann.say(leave=rtc.LeaveRequest())
    assert handles(ben) == {}
    assert shown(ben, "ann").state == models.ParticipantInfo.DISCONNECTED
