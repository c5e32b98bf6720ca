"""Files recorded from a live room through livekit-api: what is shown where, heard when, and what ffprobe says."""

import asyncio
import json
from pathlib import Path

import pytest
from livekit import api

from tests.interop.studio import (
    ACTIVE,
    BLUE,
    COMPLETE,
    FAILED,
    FLUENT,
    GREEN,
    RED,
    YELLOW,
    Studio,
    between_flashes,
    file,
    in_sync,
    keep_frame,
    lasts,
    near,
    play,
)

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

WIDE = api.EncodingOptions(width=640, height=360, framerate=10, video_bitrate=600)
"""Wide enough for a grid of four."""


async def test_grid_shows_everybody_in_their_place(studio: Studio) -> None:
    await studio.enter("ada", RED, tone_hz=300)
    await studio.enter("bob", GREEN, tone_hz=500)
    await studio.enter("cyd", BLUE, tone_hz=700)
    request = api.RoomCompositeEgressRequest(
        room_name=studio.room, layout="grid", advanced=WIDE, file_outputs=file("{room_name}/grid-{time}.mp4")
    )
    begun = await studio.api.egress.start_room_composite_egress(request)
    assert begun.egress_id.startswith("EG_")
    assert begun.room_id.startswith("RM_")
    info = await studio.record(begun.egress_id, 6)
    (made,) = info.file_results
    path = Path(made.location)
    assert path.parent == studio.root / studio.room
    found = lasts(made, path)
    assert found["video"]["codec_name"] == "h264"
    assert (found["video"]["width"], found["video"]["height"]) == (640, 360)
    assert found["audio"]["codec_name"] == "aac"
    assert 5.7 <= made.duration / 1e9 <= 7
    footage = play(path)
    at = between_flashes(footage, 160, 90, 1)
    keep_frame(path, at, "grid")
    places = {"ada": (160, 90), "bob": (480, 90), "cyd": (320, 270)}
    for name, colour in (("ada", RED), ("bob", GREEN), ("cyd", BLUE)):
        assert near(footage.colour_at(at, *places[name]), colour), name
    assert footage.colour_at(at, 40, 270)[0] < 40, "an unfinished row stands in the middle of darkness"
    assert {300, 500, 700} <= {round(hz, -2) for hz in footage.pitch(at, at + 0.4)}
    manifest = json.loads(await asyncio.to_thread(Path(info.manifest_location).read_text))
    assert manifest["files"] == [{"filename": made.filename, "location": made.location}]


async def test_speaker_layout_audio_only_and_sync(studio: Studio) -> None:
    """Three recordings of one room at the same time."""
    await studio.enter("ada", RED, tone_hz=300)
    await studio.enter("bob", BLUE, tone_hz=500)
    start = studio.api.egress.start_room_composite_egress
    speaker = await start(
        api.RoomCompositeEgressRequest(
            room_name=studio.room, layout="speaker-light", advanced=WIDE, file_outputs=file("speaker.mp4")
        )
    )
    sound = await start(
        api.RoomCompositeEgressRequest(room_name=studio.room, audio_only=True, file_outputs=file("sound"))
    )
    fluent = await start(
        api.RoomCompositeEgressRequest(
            room_name=studio.room, layout="single-speaker", advanced=FLUENT, file_outputs=file("fluent.mp4")
        )
    )
    infos = await asyncio.gather(*(studio.record(one.egress_id, 7) for one in (speaker, sound, fluent)))
    files = [info.file_results[0] for info in infos]
    found = lasts(files[0], studio.root / "speaker.mp4")
    assert (found["video"]["width"], found["video"]["height"]) == (640, 360)
    footage = play(studio.root / "speaker.mp4")
    at = between_flashes(footage, 370, 180, 1)
    keep_frame(studio.root / "speaker.mp4", at, "speaker-light")
    shown = [footage.colour_at(at, 370, 180), footage.colour_at(at, 50, 30)]
    assert near(shown[0], RED) or near(shown[0], BLUE)
    assert near(shown[1], BLUE if near(shown[0], RED) else RED)
    assert footage.colour_at(at, 50, 340)[0] > 200, "a light background"

    heard = lasts(files[1], studio.root / "sound.ogg")
    assert list(heard) == ["audio"]
    assert heard["audio"]["codec_name"] == "opus"
    tones = play(studio.root / "sound.ogg")
    beeps = tones.beeps()
    assert len(beeps) >= 6
    assert {300, 500} <= {round(hz, -2) for hz in tones.pitch(beeps[1] + 0.3, beeps[1] + 0.7)}

    lasts(files[2], studio.root / "fluent.mp4")
    in_sync(play(studio.root / "fluent.mp4"), 160, 90, 5)


async def test_a_person_and_two_tracks_together(studio: Studio) -> None:
    ada = await studio.enter("ada", RED, tone_hz=300)
    bob = await studio.enter("bob", BLUE, tone_hz=500)
    person = await studio.api.egress.start_participant_egress(
        api.ParticipantEgressRequest(
            room_name=studio.room,
            identity="bob",
            advanced=FLUENT,
            file_outputs=file("{publisher_identity}-{utc}"),
        )
    )
    pair = await studio.api.egress.start_track_composite_egress(
        api.TrackCompositeEgressRequest(
            room_name=studio.room,
            video_track_id=ada["video"],
            audio_track_id=bob["audio"],
            advanced=FLUENT,
            file_outputs=file("pair.mp4"),
        )
    )
    of_person, of_pair = await asyncio.gather(*(studio.record(one.egress_id, 6) for one in (person, pair)))
    path = Path(of_person.file_results[0].location)
    assert path.name.startswith("bob-")
    assert path.suffix == ".mp4"
    lasts(of_person.file_results[0], path)
    footage = play(path)
    at = between_flashes(footage, 160, 90, 1)
    assert near(footage.colour_at(at, 160, 90), BLUE)
    assert round(footage.pitch(at, at + 0.4)[0], -2) == 500
    in_sync(footage, 160, 90, 4)
    lasts(of_pair.file_results[0], studio.root / "pair.mp4")
    footage = play(studio.root / "pair.mp4")
    at = between_flashes(footage, 160, 90, 1)
    assert near(footage.colour_at(at, 160, 90), RED)
    assert round(footage.pitch(at, at + 0.4)[0], -2) == 500
    in_sync(footage, 160, 90, 4)


async def test_one_request_for_everything(studio: Studio) -> None:
    """StartEgress: a template, and tracks routed to the left and the right ear."""
    ada = await studio.enter("ada", RED, tone_hz=300)
    await studio.enter("bob", BLUE, tone_hz=500)
    whole = await studio.api.egress.start_egress(
        api.StartEgressRequest(
            room_name=studio.room,
            template=api.TemplateSource(layout="grid"),
            advanced=FLUENT,
            outputs=[api.Output(file=api.FileOutput(filepath="whole.mp4"))],
        )
    )
    ears = [
        api.AudioRoute(participant_identity=name, channel=ear)
        for name, ear in (("ada", api.AUDIO_CHANNEL_LEFT), ("bob", api.AUDIO_CHANNEL_RIGHT))
    ]
    routed = await studio.api.egress.start_egress(
        api.StartEgressRequest(
            room_name=studio.room,
            media=api.MediaSource(video_track_id=ada["video"], audio=api.AudioConfig(routes=ears)),
            advanced=FLUENT,
            outputs=[api.Output(file=api.FileOutput(filepath="ears.mp4"))],
        )
    )
    of_whole, of_ears = await asyncio.gather(*(studio.record(one.egress_id, 6) for one in (whole, routed)))
    lasts(of_whole.file_results[0], studio.root / "whole.mp4")
    footage = play(studio.root / "whole.mp4")
    assert {300, 500} <= {round(hz, -2) for hz in footage.pitch(2, 4)}
    lasts(of_ears.file_results[0], studio.root / "ears.mp4")
    footage = play(studio.root / "ears.mp4")
    assert near(footage.colour_at(between_flashes(footage, 160, 90, 1), 160, 90), RED)
    with pytest.raises(api.TwirpError) as refusal:
        await studio.api.egress.start_egress(api.StartEgressRequest(room_name=studio.room))
    assert refusal.value.code == "invalid_argument"
    assert "source" in refusal.value.message


@pytest.mark.parametrize(("codec", "ending"), [("vp8", "webm"), ("h264", "mp4"), ("vp9", "webm"), ("av1", "webm")])
async def test_a_track_as_it_is(studio: Studio, codec: str, ending: str) -> None:
    """No re-encoding: what was published lands in the container that holds it."""
    sids = await studio.enter("ada", RED, tone_hz=300, codec=codec)
    jobs = [
        await studio.api.egress.start_track_egress(
            api.TrackEgressRequest(
                room_name=studio.room,
                track_id=sids[kind],
                file=api.DirectFileOutput(filepath="{track_type}-{track_source}-{track_id}"),
            )
        )
        for kind in ("video", "audio")
    ]
    video, audio = await asyncio.gather(*(studio.record(one.egress_id, 5) for one in jobs))
    path = studio.root / f"video-camera-{sids['video']}.{ending}"
    found = lasts(video.file_results[0], path)
    assert found["video"]["codec_name"] == codec
    assert (found["video"]["width"], found["video"]["height"]) == (320, 180)
    footage = play(path)
    assert near(footage.colour_at(between_flashes(footage, 160, 90), 160, 90), RED)
    sound = studio.root / f"audio-microphone-{sids['audio']}.ogg"
    assert lasts(audio.file_results[0], sound)["audio"]["codec_name"] == "opus"
    assert len(play(sound).beeps()) >= 4


async def test_layout_changes_people_leave_and_return(studio: Studio) -> None:
    await studio.enter("ada", RED, tone_hz=300)
    await studio.enter("bob", BLUE, tone_hz=500)
    start = api.RoomCompositeEgressRequest(
        room_name=studio.room, layout="grid", advanced=WIDE, file_outputs=file("life.mp4")
    )
    begun = await studio.api.egress.start_room_composite_egress(start)
    await studio.active(begun.egress_id)
    clock = asyncio.get_running_loop().time
    zero = clock()
    rooms = await studio.api.room.list_rooms(api.ListRoomsRequest(names=[studio.room]))
    assert rooms.rooms[0].active_recording
    await asyncio.sleep(3)
    await studio.people["bob"].do("leave")
    left = clock() - zero
    await asyncio.sleep(2.5)
    await studio.enter("bob", YELLOW, tone_hz=700)
    returned = clock() - zero
    await asyncio.sleep(3)
    changed = await studio.api.egress.update_layout(
        api.UpdateLayoutRequest(egress_id=begun.egress_id, layout="single-speaker")
    )
    assert changed.room_composite.layout == "single-speaker"
    single = clock() - zero
    await asyncio.sleep(2.5)
    info = await studio.stop(begun.egress_id)
    assert info.status == COMPLETE
    path = studio.root / "life.mp4"
    lasts(info.file_results[0], path)
    footage = play(path)

    two = between_flashes(footage, 160, 180, 1)
    keep_frame(path, two, "life-two")
    assert near(footage.colour_at(two, 160, 180), RED)
    assert near(footage.colour_at(two, 480, 180), BLUE)
    alone = between_flashes(footage, 160, 180, left + 0.3)
    keep_frame(path, alone, "life-alone")
    assert near(footage.colour_at(alone, 160, 180), RED)
    assert near(footage.colour_at(alone, 560, 180), RED), "ada has the whole canvas"
    again = between_flashes(footage, 160, 180, returned + 0.8)
    keep_frame(path, again, "life-again")
    assert near(footage.colour_at(again, 160, 180), RED)
    assert near(footage.colour_at(again, 480, 180), YELLOW)
    last = between_flashes(footage, 160, 180, single + 0.2)
    keep_frame(path, last, "life-single")
    assert near(footage.colour_at(last, 160, 180), footage.colour_at(last, 560, 180))
    rooms = await studio.api.room.list_rooms(api.ListRoomsRequest(names=[studio.room]))
    assert not rooms.rooms[0].active_recording


async def test_recordings_that_begin_with_the_room(studio: Studio) -> None:
    """CreateRoom's egress block: the room, every person and every track."""
    made = await studio.api.room.create_room(
        api.CreateRoomRequest(
            name=studio.room,
            egress=api.RoomEgress(
                room=api.RoomCompositeEgressRequest(
                    layout="grid", advanced=WIDE, file_outputs=file("auto-{room_name}.mp4")
                ),
                tracks=api.AutoTrackEgress(filepath="tracks/{publisher_identity}-{track_type}"),
            ),
        )
    )
    assert made.sid.startswith("RM_")
    listed = (await studio.api.egress.list_egress(api.ListEgressRequest(room_name=studio.room, active=True))).items
    assert [info.WhichOneof("request") for info in listed] == ["room_composite"]
    sids = await studio.enter("ada", RED, tone_hz=300)
    await studio.active(listed[0].egress_id)
    async with asyncio.timeout(10):
        while True:
            listed = (await studio.api.egress.list_egress(api.ListEgressRequest(room_name=studio.room))).items
            if len(listed) == 3 and all(info.status == ACTIVE for info in listed):
                break
            await asyncio.sleep(0.1)
    assert {info.track.track_id for info in listed if info.HasField("track")} == set(sids.values())
    await asyncio.sleep(4)
    await studio.api.room.delete_room(api.DeleteRoomRequest(room=studio.room))
    infos = [await studio.ended(info.egress_id) for info in listed]
    assert [info.status for info in infos] == [COMPLETE] * 3, infos
    assert {info.details for info in infos} == {"End reason: Source closed"}
    for info in infos:
        path = Path(info.file_results[0].location)
        lasts(info.file_results[0], path)
        if info.HasField("track"):
            kind = "video" if info.track.track_id == sids["video"] else "audio"
            assert path.stem == f"ada-{kind}-{info.track.track_id}", "LiveKit adds the track's id where it is missing"
    assert (studio.root / f"auto-{studio.room}.mp4").exists()


async def test_what_ends_before_it_began_or_cannot_begin(studio: Studio) -> None:
    """Stop before the first frame, stop twice, tracks and people that never come: nothing stays ACTIVE."""
    call = studio.api.egress
    await studio.api.room.create_room(api.CreateRoomRequest(name=studio.room, empty_timeout=60))
    request = api.RoomCompositeEgressRequest(room_name=studio.room, advanced=WIDE, file_outputs=file("never.mp4"))
    begun = await call.start_room_composite_egress(request)
    assert begun.status == api.EgressStatus.EGRESS_STARTING
    stopped = await call.stop_egress(api.StopEgressRequest(egress_id=begun.egress_id))
    assert stopped.egress_id == begun.egress_id
    info = await studio.ended(begun.egress_id)
    assert info.status == api.EgressStatus.EGRESS_ABORTED
    assert info.error_code == 412
    assert not (studio.root / "never.mp4").exists()
    with pytest.raises(api.TwirpError) as refusal:
        await call.stop_egress(api.StopEgressRequest(egress_id=begun.egress_id))
    assert (refusal.value.code, refusal.value.message) == (
        "failed_precondition",
        "egress with status EGRESS_ABORTED cannot be stopped",
    )
    with pytest.raises(api.TwirpError) as refusal:
        await call.stop_egress(api.StopEgressRequest(egress_id="EG_unknown"))
    assert (refusal.value.code, refusal.value.message) == ("not_found", "egress does not exist")

    sids = await studio.enter("ada", RED)
    wrong = await call.start_track_composite_egress(
        api.TrackCompositeEgressRequest(
            room_name=studio.room, video_track_id=sids["audio"], file_outputs=file("x.mp4"), advanced=WIDE
        )
    )
    info = await studio.ended(wrong.egress_id)
    assert info.status == FAILED
    assert info.error_code == 400
    socket = await call.start_track_egress(
        api.TrackEgressRequest(room_name=studio.room, track_id=sids["video"], websocket_url="ws://127.0.0.1:9/never")
    )
    info = await studio.ended(socket.egress_id)
    assert info.status == FAILED
    assert "incompatible" in info.error

    again = await call.start_room_composite_egress(request)
    await studio.active(again.egress_id)
    await asyncio.sleep(0.5)
    first, second = [
        await call.stop_egress(api.StopEgressRequest(egress_id=again.egress_id)) for _ in range(2)
    ]  # the second may come while it ends
    assert first.status == second.status == api.EgressStatus.EGRESS_ENDING
    assert (await studio.ended(again.egress_id)).status == COMPLETE
    left = (await call.list_egress(api.ListEgressRequest(active=True))).items
    assert not left
