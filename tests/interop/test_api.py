"""LiveKit's server SDKs, Python and JavaScript, on a live room: every method, what it changes and what it refuses."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit import api

from tests.interop.conftest import Tab
from tests.interop.live import KEY, SECRET, token
from tests.interop.sdk import SdkClient
from tests.interop.studio import COMPLETE, RED, SMALL, Studio, file

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

MakeTab = Callable[[], Coroutine[Any, Any, Tab]]
ROOM = "studio"
NO_ROOM = ("not_found", "requested room does not exist")
NO_PERSON = ("not_found", "participant does not exist")
NO_TRACK = ("not_found", "track is not found")
SMALL_CAMERA = {
    "capture": {"resolution": {"width": 320, "height": 180, "frameRate": 8}},
    "publish": {"simulcast": False, "videoEncoding": {"maxBitrate": 200_000, "maxFramerate": 8}},
}


@dataclass
class Call:
    """A standing call: `ada` of the Python SDK and `ann` in Chromium see each other."""

    studio: Studio
    ada: SdkClient
    ann: Tab
    ada_sids: dict[str, str]
    ann_sids: dict[str, str]

    @property
    def room(self) -> Any:
        return self.studio.api.room

    @property
    def egress(self) -> Any:
        return self.studio.api.egress


@pytest.fixture
async def call(studio: Studio, make_tab: MakeTab, make_sdk: Callable[[], Awaitable[SdkClient]]) -> Call:
    ada, ann = await make_sdk(), await make_tab()
    await ada.do("connect", url=studio.server.url, token=token(ROOM, "ada"))
    ada_sids = await ada.do("perform", colour=RED, tone_hz=300)
    await ann.do("join", studio.server.url, token(ROOM, "ann"))
    video, audio = await ann.do("publish", True, True, SMALL_CAMERA)
    await ada.until(lambda s: s["media"].get("ann/video", {}).get("frames", 0) > 3)
    await ann.until(lambda s: s["remote"].get("ada", {}).get("video", {}).get("framesDecoded", 0) > 3)
    return Call(studio, ada, ann, ada_sids, {"video": video, "audio": audio})


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(api.TwirpError) as refusal:
        await call
    return refusal.value.code, refusal.value.message


async def test_rooms(studio: Studio) -> None:
    rooms = studio.api.room
    wish = api.CreateRoomRequest(
        name="tea", metadata="about", empty_timeout=77, departure_timeout=9, max_participants=3, sync_streams=True
    )
    made = await rooms.create_room(wish)
    assert made.sid.startswith("RM_")
    assert (made.name, made.metadata, made.empty_timeout, made.departure_timeout, made.max_participants) == (
        "tea",
        "about",
        77,
        9,
        3,
    )
    assert made.creation_time > 1_700_000_000
    assert made.creation_time_ms // 1000 == made.creation_time
    assert {codec.mime for codec in made.enabled_codecs} >= {"audio/opus", "video/VP8", "video/H264"}
    again = await rooms.create_room(api.CreateRoomRequest(name="tea", metadata="other"))
    assert (again.sid, again.metadata) == (made.sid, "about"), "creating it again changes nothing"
    assert await refused(rooms.create_room(api.CreateRoomRequest())) == ("invalid_argument", "name is required")
    code, message = await refused(rooms.create_room(api.CreateRoomRequest(name="x", room_preset="nope")))
    assert code == "invalid_argument"
    assert "nope" in message
    await rooms.create_room(api.CreateRoomRequest(name="coffee"))

    async def names(*asked: str) -> list[str]:
        return sorted(room.name for room in (await rooms.list_rooms(api.ListRoomsRequest(names=asked))).rooms)

    assert await names() == ["coffee", "tea"]
    assert await names("tea", "beer") == ["tea"]
    assert await names("beer") == []
    changed = await rooms.update_room_metadata(api.UpdateRoomMetadataRequest(room="tea", metadata="new"))
    assert (changed.sid, changed.metadata) == (made.sid, "new")
    await rooms.delete_room(api.DeleteRoomRequest(room="tea"))
    assert await names() == ["coffee"]
    assert await refused(rooms.delete_room(api.DeleteRoomRequest(room="tea"))) == NO_ROOM
    assert await refused(rooms.list_participants(api.ListParticipantsRequest(room="tea"))) == NO_ROOM
    anew = await rooms.create_room(api.CreateRoomRequest(name="tea"))
    assert anew.sid != made.sid


async def test_people_and_tracks(call: Call) -> None:
    rooms = call.room
    people = {
        p.identity: p for p in (await rooms.list_participants(api.ListParticipantsRequest(room=ROOM))).participants
    }
    assert set(people) == {"ada", "ann"}
    assert people["ada"].state == api.ParticipantInfo.ACTIVE
    assert {track.sid for track in people["ann"].tracks} == set(call.ann_sids.values())
    one = await rooms.get_participant(api.RoomParticipantIdentity(room=ROOM, identity="ada"))
    assert one == people["ada"]
    nobody = api.RoomParticipantIdentity(room=ROOM, identity="nobody")
    assert await refused(rooms.get_participant(nobody)) == NO_PERSON
    assert await refused(rooms.remove_participant(nobody)) == NO_PERSON

    def mute(sid: str, muted: bool, identity: str = "ann", room: str = ROOM) -> Any:
        return rooms.mute_published_track(
            api.MuteRoomTrackRequest(room=room, identity=identity, track_sid=sid, muted=muted)
        )

    answer = await mute(call.ann_sids["audio"], True)
    assert (answer.track.sid, answer.track.muted) == (call.ann_sids["audio"], True)
    await call.ada.until(lambda s: ["track_muted", "ann"] in s["events"])
    assert await refused(mute(call.ann_sids["audio"], False)) == ("failed_precondition", "remote unmute not enabled")
    assert await refused(mute("TR_nothing", True)) == NO_TRACK
    assert await refused(mute("TR_nothing", True, "nobody")) == NO_PERSON
    assert await refused(mute("TR_nothing", True, room="nowhere")) == NO_ROOM

    info = await rooms.update_participant(
        api.UpdateParticipantRequest(
            room=ROOM, identity="ann", metadata="m", name="Annie", attributes={"a": "1", "b": "2"}
        )
    )
    assert (info.metadata, info.name, dict(info.attributes)) == ("m", "Annie", {"a": "1", "b": "2"})
    info = await rooms.update_participant(
        api.UpdateParticipantRequest(room=ROOM, identity="ann", attributes={"a": "", "c": "3"})
    )
    assert (info.metadata, dict(info.attributes)) == ("m", {"b": "2", "c": "3"})
    big = api.UpdateParticipantRequest(room=ROOM, identity="ann", metadata="x" * 600_000)
    code, message = await refused(rooms.update_participant(big))
    assert code == "invalid_argument"
    assert "metadata" in message
    missing = api.UpdateParticipantRequest(room=ROOM, identity="nobody", metadata="x")
    assert await refused(rooms.update_participant(missing)) == NO_PERSON


async def test_subscriptions_data_and_metadata(call: Call) -> None:
    rooms = call.room

    def subscribe(sid: str, on: bool, identity: str = "ann") -> Any:
        return rooms.update_subscriptions(
            api.UpdateSubscriptionsRequest(room=ROOM, identity=identity, track_sids=[sid], subscribe=on)
        )

    await subscribe(call.ada_sids["video"], False)
    await call.ann.until(lambda s: ["trackUnsubscribed", "ada/video"] in s["events"])
    before = len((await call.ann.do("state"))["events"])
    await subscribe(call.ada_sids["video"], True)
    await call.ann.until(lambda s: ["trackSubscribed", "ada/video"] in s["events"][before:])
    assert await refused(subscribe(call.ada_sids["video"], False, "nobody")) == NO_PERSON

    def send(data: bytes, **more: Any) -> Any:
        return rooms.send_data(api.SendDataRequest(room=ROOM, data=data, kind=api.DataPacket.Kind.RELIABLE, **more))

    await send(b"hello", topic="chat")
    await send(b"for ada", topic="private", destination_identities=["ada"])
    await send(b"lossy")
    state = await call.ada.until(lambda s: len(s["data"]) == 3)
    assert [(d["from"], d["size"], d["topic"]) for d in state["data"]] == [
        ("", 5, "chat"),
        ("", 7, "private"),
        ("", 5, state["data"][2]["topic"]),
    ]
    seen = await call.ann.until(lambda s: len(s["data"]) == 2)
    assert [d["size"] for d in seen["data"]] == [5, 5]
    code, _ = await refused(send(bytes(300_000)))
    assert code == "invalid_argument"

    await rooms.update_room_metadata(api.UpdateRoomMetadataRequest(room=ROOM, metadata="agenda"))
    await call.ann.until(lambda s: s["metadata"] == "agenda")
    huge = api.UpdateRoomMetadataRequest(room=ROOM, metadata="x" * 600_000)
    assert (await refused(rooms.update_room_metadata(huge)))[0] == "invalid_argument"


async def test_permissions_and_farewells(call: Call) -> None:
    rooms = call.room
    silent = api.ParticipantPermission(can_subscribe=True, can_publish=False, can_publish_data=False)
    info = await rooms.update_participant(api.UpdateParticipantRequest(room=ROOM, identity="ann", permission=silent))
    assert not info.permission.can_publish
    await call.ada.until(lambda s: s["events"].count(["track_unpublished", "ann"]) == 2)
    for move in (rooms.forward_participant, rooms.move_participant):
        kind = api.ForwardParticipantRequest if move == rooms.forward_participant else api.MoveParticipantRequest
        code, _ = await refused(move(kind(room=ROOM, identity="ann", destination_room="other")))
        assert code == "unimplemented"
    await rooms.remove_participant(api.RoomParticipantIdentity(room=ROOM, identity="ann"))
    state = await call.ann.until(lambda s: s["state"] == "disconnected")
    assert ["Disconnected", "4"] in state["events"], "PARTICIPANT_REMOVED"
    await call.ada.until(lambda s: ["participant_disconnected", "ann"] in s["events"])
    await rooms.delete_room(api.DeleteRoomRequest(room=ROOM))
    state = await call.ada.until(lambda s: not s["connected"])
    assert ["disconnected", "5"] in state["events"], "ROOM_DELETED"


METHODS = [
    ("RoomService", "CreateRoom", {"name": "x"}, "roomCreate"),
    ("RoomService", "DeleteRoom", {"room": ROOM}, "roomCreate"),
    ("RoomService", "ListRooms", {}, "roomList"),
    ("RoomService", "ListParticipants", {"room": ROOM}, "roomAdmin"),
    ("RoomService", "GetParticipant", {"room": ROOM, "identity": "a"}, "roomAdmin"),
    ("RoomService", "RemoveParticipant", {"room": ROOM, "identity": "a"}, "roomAdmin"),
    ("RoomService", "MutePublishedTrack", {"room": ROOM, "identity": "a", "track_sid": "T"}, "roomAdmin"),
    ("RoomService", "UpdateParticipant", {"room": ROOM, "identity": "a"}, "roomAdmin"),
    ("RoomService", "UpdateSubscriptions", {"room": ROOM, "identity": "a"}, "roomAdmin"),
    ("RoomService", "SendData", {"room": ROOM}, "roomAdmin"),
    ("RoomService", "UpdateRoomMetadata", {"room": ROOM}, "roomAdmin"),
    ("Egress", "StartRoomCompositeEgress", {"room_name": ROOM}, "roomRecord"),
    ("Egress", "StartParticipantEgress", {"room_name": ROOM}, "roomRecord"),
    ("Egress", "StartTrackCompositeEgress", {"room_name": ROOM}, "roomRecord"),
    ("Egress", "StartTrackEgress", {"room_name": ROOM}, "roomRecord"),
    ("Egress", "StartWebEgress", {"url": "http://x"}, "roomRecord"),
    ("Egress", "StartEgress", {"room_name": ROOM}, "roomRecord"),
    ("Egress", "UpdateLayout", {"egress_id": "EG_x"}, "roomRecord"),
    ("Egress", "UpdateStream", {"egress_id": "EG_x"}, "roomRecord"),
    ("Egress", "ListEgress", {}, "roomRecord"),
    ("Egress", "StopEgress", {"egress_id": "EG_x"}, "roomRecord"),
]


async def test_grants_and_the_wire(studio: Studio) -> None:
    """Each method without its grant, with the grant for another room, and plain HTTP mistakes."""
    await studio.api.room.create_room(api.CreateRoomRequest(name=ROOM))
    everything = {
        "roomCreate": "room_create", "roomList": "room_list", "roomAdmin": "room_admin", "roomRecord": "room_record",
    }  # fmt: skip

    def bearer(**grants: Any) -> dict[str, str]:
        made = api.AccessToken(KEY, SECRET).with_grants(api.VideoGrants(**grants)).to_jwt()
        return {"authorization": f"Bearer {made}"}

    async with aiohttp.ClientSession() as session:

        async def post(service: str, method: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
            url = f"{studio.server.http}/twirp/livekit.{service}/{method}"
            async with session.post(url, json=body, headers=headers) as answer:
                assert answer.content_type == "application/json", await answer.text()
                return answer.status, await answer.json()

        for service, method, body, grant in METHODS:
            others = {field: True for name, field in everything.items() if name != grant}
            status, answer = await post(service, method, body, bearer(**others, room=ROOM))
            assert (status, answer["code"]) == (401, "unauthenticated"), method
            assert answer["msg"].startswith("permissions denied"), method
            if grant == "roomAdmin":
                status, answer = await post(service, method, body, bearer(room_admin=True, room="elsewhere"))
                assert (status, answer["code"]) == (401, "unauthenticated"), method
            assert (await post(service, method, body, {}))[0] == 401
        admin = bearer(room_admin=True, room=ROOM)
        assert await post("RoomService", "Dance", {}, admin) == (
            404,
            {"code": "bad_route", "msg": "no handler for path '/twirp/livekit.RoomService/Dance'"},
        )
        status, answer = await post("RoomService", "SendData", {"room": ROOM, "nonce": "AAAA"}, admin)
        assert (status, answer) == (
            400,
            {"code": "invalid_argument", "msg": "nonce should be 16 bytes or not present"},
        )
        status, answer = await post("RoomService", "ListParticipants", {"room": 7}, admin)
        assert (status, answer["code"]) == (400, "malformed")
        # protojson: fields that are not set are there, numbers of 64 bits are strings, camelCase is understood
        status, answer = await post("RoomService", "UpdateRoomMetadata", {"room": ROOM, "metadata": "x"}, admin)
        assert status == 200
        assert answer["metadata"] == "x"
        assert answer["num_participants"] == 0
        assert isinstance(answer["creation_time"], str)
        record = bearer(room_record=True)
        status, answer = await post("Egress", "ListEgress", {"roomName": "none", "unheardOf": 1}, record)
        assert (status, answer["items"]) == (200, [])
        async with session.get(f"{studio.server.http}/twirp/livekit.RoomService/ListRooms", headers=admin) as answer_of:
            assert answer_of.status == 404
            assert (await answer_of.json())["code"] == "bad_route"


async def test_egress_methods(call: Call) -> None:
    """Success of each, and refusals that name what is wrong."""
    start = call.egress

    def composite(**more: Any) -> api.RoomCompositeEgressRequest:
        return api.RoomCompositeEgressRequest(room_name=ROOM, advanced=SMALL, **more)

    assert (
        await refused(
            start.start_room_composite_egress(
                api.RoomCompositeEgressRequest(room_name="none", file_outputs=file("x.mp4"))
            )
        )
        == NO_ROOM
    )
    wrong = [
        (composite(), "output"),
        (composite(file_outputs=file("x.mp4"), audio_only=True, video_only=True), "audio_only and video_only"),
        (composite(file_outputs=[*file("a.mp4"), *file("b.mp4")]), "file_outputs"),
        (composite(file_outputs=file("../../etc/passwd")), "filepath"),
        (composite(file_outputs=file("/etc/passwd.mp4")), "filepath"),
        (composite(file_outputs=file("{secret}.mp4")), "filepath"),
        (composite(file_outputs=file("a.ogg", file_type=api.EncodedFileType.OGG)), "file_type"),
        (composite(stream_outputs=[api.StreamOutput(urls=["ftp://x/y"])]), "url"),
        (composite(file_outputs=file("x.mp4", s3=api.S3Upload(access_key="a"))), "s3"),
        (api.RoomCompositeEgressRequest(file_outputs=file("x.mp4")), "room_name"),
    ]
    for request, field in wrong:
        code, message = await refused(start.start_room_composite_egress(request))
        assert code == "invalid_argument", (request, message)
        assert field in message, message
    code, message = await refused(
        start.start_participant_egress(api.ParticipantEgressRequest(room_name=ROOM, file_outputs=file("x.mp4")))
    )
    assert (code, "identity" in message) == ("invalid_argument", True)
    code, message = await refused(
        start.start_track_egress(api.TrackEgressRequest(room_name=ROOM, file=api.DirectFileOutput(filepath="x")))
    )
    assert (code, "track_id" in message) == ("invalid_argument", True)
    code, message = await refused(
        start.start_track_composite_egress(api.TrackCompositeEgressRequest(room_name=ROOM, file_outputs=file("x.mp4")))
    )
    assert (code, "track_id" in message) == ("invalid_argument", True)
    web = api.WebEgressRequest(url="https://example.org", file_outputs=file("x.mp4"))
    assert (await refused(start.start_web_egress(web)))[0] == "unimplemented"
    gone = ("not_found", "egress does not exist")
    assert await refused(start.update_layout(api.UpdateLayoutRequest(egress_id="EG_x", layout="grid"))) == gone
    assert await refused(start.update_stream(api.UpdateStreamRequest(egress_id="EG_x", add_output_urls=["a"]))) == gone
    assert await refused(start.stop_egress(api.StopEgressRequest(egress_id="EG_x"))) == gone
    assert (await refused(start.stop_egress(api.StopEgressRequest())))[0] == "invalid_argument"

    jobs = [
        await start.start_room_composite_egress(composite(layout="grid", file_outputs=file("room.mp4"))),
        await start.start_participant_egress(
            api.ParticipantEgressRequest(room_name=ROOM, identity="ann", advanced=SMALL, file_outputs=file("ann.mp4"))
        ),
        await start.start_track_composite_egress(
            api.TrackCompositeEgressRequest(
                room_name=ROOM,
                audio_track_id=call.ada_sids["audio"],
                video_track_id=call.ann_sids["video"],
                advanced=SMALL,
                file_outputs=file("pair.mp4"),
            )
        ),
        await start.start_track_egress(
            api.TrackEgressRequest(
                room_name=ROOM, track_id=call.ann_sids["video"], file=api.DirectFileOutput(filepath="track")
            )
        ),
    ]
    for job in jobs:
        await call.studio.active(job.egress_id)
    await call.ann.until(lambda s: s["recording"])
    listed = (await start.list_egress(api.ListEgressRequest(room_name=ROOM, active=True))).items
    assert {info.egress_id for info in listed} == {job.egress_id for job in jobs}
    assert not (await start.list_egress(api.ListEgressRequest(room_name="other"))).items
    changed = await start.update_layout(api.UpdateLayoutRequest(egress_id=jobs[0].egress_id, layout="speaker"))
    assert changed.room_composite.layout == "speaker"
    code, _ = await refused(start.update_layout(api.UpdateLayoutRequest(egress_id=jobs[3].egress_id, layout="grid")))
    assert code == "failed_precondition"
    code, _ = await refused(
        start.update_stream(
            api.UpdateStreamRequest(egress_id=jobs[0].egress_id, add_output_urls=["rtmp://127.0.0.1:9/a/b"])
        )
    )
    assert code == "failed_precondition"
    await asyncio.sleep(1)
    for job in jobs:
        assert (await call.studio.stop(job.egress_id)).status == COMPLETE
    for job in jobs:
        assert await refused(start.stop_egress(api.StopEgressRequest(egress_id=job.egress_id))) == (
            "failed_precondition",
            "egress with status EGRESS_COMPLETE cannot be stopped",
        )
    await call.ann.until(lambda s: not s["recording"])
    bad = api.CreateRoomRequest(
        name="auto", egress=api.RoomEgress(room=api.RoomCompositeEgressRequest(file_outputs=file("../x.mp4")))
    )
    code, message = await refused(call.room.create_room(bad))
    assert (code, "filepath" in message) == ("invalid_argument", True)
    assert not (await call.room.list_rooms(api.ListRoomsRequest(names=["auto"]))).rooms


async def test_the_javascript_server_sdk(call: Call, node_parts: Path) -> None:
    """node/server_sdk.mjs runs every method of livekit-server-sdk and prints what came of each."""
    node = shutil.which("node")
    assert node
    orders = {
        "url": call.studio.server.http,
        "key": KEY,
        "secret": SECRET,
        "room": ROOM,
        "ada": call.ada_sids,
        "ann": call.ann_sids,
    }
    process = await asyncio.create_subprocess_exec(
        node,
        "--experimental-global-webcrypto",  # Debian 12's Node is 18, where the SDK's `crypto` is no global yet
        str(node_parts / "server_sdk.mjs"),
        json.dumps(orders),
        stdout=-1,
        stderr=-1,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()[-3000:] + out.decode()[-3000:]
    said = json.loads(out)
    assert said["wrong"] == []
    assert said["passed"] >= 40
    state = await call.ann.until(lambda s: s["state"] == "disconnected")
    assert [d["size"] for d in state["data"]] == [5]
    assert ["Disconnected", "4"] in state["events"], "PARTICIPANT_REMOVED"
    for name in ("room.mp4", "ann.mp4", "pair.mp4", "track.webm"):
        assert (call.studio.root / "js" / name).stat().st_size > 1000
