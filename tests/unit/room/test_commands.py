"""RoomService on a room: what it does, and the error codes and texts API clients know."""

from typing import Any

import pytest
from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu.events import Closed
from tertulia.sfu.room import RoomConfig
from tests.unit.room.stage import Stage
from tests.unit.room.test_publishing import shown

Reason = models.DisconnectReason
ME = room.RoomParticipantIdentity(room="stage", identity="ann")


def test_list_and_get() -> None:
    stage = Stage()
    ann = stage.join("ann")
    stage.join("spy", grants={"hidden": True})
    listed = stage.command("ListParticipants", room.ListParticipantsRequest(room="stage")).participants
    assert {p.identity for p in listed} == {"ann", "spy"}  # an API sees everybody
    assert stage.command("GetParticipant", ME).sid == ann.sid


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("GetParticipant", room.RoomParticipantIdentity(identity="x"), "not_found", "participant does not exist"),
        ("RemoveParticipant", room.RoomParticipantIdentity(identity="x"), "not_found", "participant does not exist"),
        (
            "MutePublishedTrack",
            room.MuteRoomTrackRequest(identity="ann", track_sid="TR_x"),
            "not_found",
            "track is not found",
        ),
        ("SendData", room.SendDataRequest(nonce=b"short"), "invalid_argument", "nonce should be 16 bytes"),
        ("UpdateRoomMetadata", room.UpdateRoomMetadataRequest(metadata="x" * (600 << 10)), "invalid_argument", "metad"),
        (
            "UpdateParticipant",
            room.UpdateParticipantRequest(identity="ann", attributes={"a": "x" * (70 << 10)}),
            "invalid_argument",
            "attributes",
        ),
        ("MoveParticipant", room.MoveParticipantRequest(), "unimplemented", "MoveParticipant"),
    ],
)
def test_errors(method: str, request_: object, code: str, text: str) -> None:
    stage = Stage()
    stage.join("ann")
    with pytest.raises(RequestError, match=text) as caught:
        stage.command(method, request_)
    assert caught.value.code == code


def test_remove() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.command("RemoveParticipant", ME)
    assert ann.last("leave").reason == Reason.PARTICIPANT_REMOVED
    assert ann.last("leave").action == rtc.LeaveRequest.DISCONNECT
    assert shown(ben, "ann").disconnect_reason == Reason.PARTICIPANT_REMOVED


def test_mute_by_admin_and_unmute_only_when_enabled() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ann.publish()
    mute = room.MuteRoomTrackRequest(identity="ann", track_sid=cam.sid, muted=True)
    assert stage.command("MutePublishedTrack", mute).track.muted
    assert (ann.last("mute").sid, ann.last("mute").muted) == (cam.sid, True)
    assert shown(ben, "ann").tracks[0].muted
    assert stage.plane.disabled
    unmute = room.MuteRoomTrackRequest(identity="ann", track_sid=cam.sid, muted=False)
    with pytest.raises(RequestError, match="remote unmute not enabled") as caught:
        stage.command("MutePublishedTrack", unmute)
    assert caught.value.code == "failed_precondition"


def test_remote_unmute() -> None:
    stage = Stage(config=RoomConfig(enable_remote_unmute=True))
    ann = stage.join("ann")
    cam = ann.publish(muted=True)
    stage.command("MutePublishedTrack", room.MuteRoomTrackRequest(identity="ann", track_sid=cam.sid, muted=False))
    assert not ann.last("mute").muted


def test_update_participant() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", claims={"attributes": {"a": "1", "b": "2"}}), stage.join("ben")
    update = room.UpdateParticipantRequest(identity="ann", metadata="m", name="Ann B", attributes={"a": "", "c": "3"})
    info = stage.command("UpdateParticipant", update)
    for seen in (info, shown(ben, "ann"), shown(ann, "ann")):
        assert (seen.metadata, seen.name, dict(seen.attributes)) == ("m", "Ann B", {"b": "2", "c": "3"})
    assert ann.refreshes[-1].name == "Ann B"


def permit(stage: Stage, **more: Any) -> None:
    permission = models.ParticipantPermission(
        **({"can_subscribe": True, "can_publish": True, "can_publish_data": True} | more)
    )
    stage.command("UpdateParticipant", room.UpdateParticipantRequest(identity="ann", permission=permission))


def test_revoked_publishing_ends_the_tracks() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ann.publish()
    permit(stage, can_publish=False)
    assert ann.last("track_unpublished").track_sid == cam.sid
    assert not shown(ann, "ann").permission.can_publish
    assert not shown(ben, "ann").tracks
    assert not ann.refreshes[-1].permission.can_publish
    ann.add_track("again")
    assert ann.last("request_response").reason == rtc.RequestResponse.NOT_ALLOWED
    ann.sections[-1].direction, ann.sections[-1].cid, ann.sections[-1].rids = "inactive", "", ()
    ann.offer()
    permit(stage)
    ann.publish("back")
    assert [track.name for track in shown(ben, "ann").tracks] == ["back"]


def test_revoked_subscribing_and_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.publish()
    ann.offer()
    assert stage.plane.downs
    permit(stage, can_subscribe=False)
    assert not stage.plane.downs
    permit(stage)
    ann.offer(), ann.offer()
    assert len(stage.plane.downs) == 1


def test_hidden_and_shown_again() -> None:
    stage = Stage()
    stage.join("ann")
    ben = stage.join("ben")
    permit(stage, hidden=True)
    assert shown(ben, "ann").state == models.ParticipantInfo.DISCONNECTED
    assert not stage.join("cyd").last("join").other_participants[1:]
    permit(stage)
    assert shown(ben, "ann").state == models.ParticipantInfo.ACTIVE


def test_update_subscriptions() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    cam = ben.publish()
    ann.offer()
    stage.command(
        "UpdateSubscriptions", room.UpdateSubscriptionsRequest(identity="ann", track_sids=[cam.sid], subscribe=False)
    )
    assert not stage.plane.downs


def test_send_data() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    request = room.SendDataRequest(
        room="stage", data=b"x", topic="t", kind=models.DataPacket.RELIABLE, destination_identities=["ben"]
    )
    request.nonce = b"n" * 16
    stage.command("SendData", request)
    stage.command("SendData", request)  # a retry
    (packet,) = ben.packets
    assert (packet.user.payload, packet.user.topic, packet.participant_identity) == (b"x", "t", "")
    assert not ann.packets


def test_room_metadata() -> None:
    stage = Stage()
    ann = stage.join("ann")
    answer = stage.command("UpdateRoomMetadata", room.UpdateRoomMetadataRequest(room="stage", metadata="new"))
    assert answer.metadata == "new"
    assert ann.last("room_update").room.metadata == "new"


def test_delete() -> None:
    stage = Stage()
    ann = stage.join("ann")
    stage.command("DeleteRoom", room.DeleteRoomRequest(room="stage"))
    assert ann.last("leave").reason == Reason.ROOM_DELETED
    assert isinstance(stage.outputs[-1], Closed)


def test_recording_is_shown() -> None:
    stage = Stage()
    ann = stage.join("ann")
    stage.room.set_recording(stage.now, True)
    stage.drain()
    assert ann.last("room_update").room.active_recording
