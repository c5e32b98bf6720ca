"""RoomComposite from request to file: right tiles, right times, through what people do in a call."""

from pathlib import Path

import pytest
from livekit.protocol import egress, models

from tertulia.protocol.machine import MILLISECOND
from tests.unit.egress.bench import Bench, file_size, left_on_disk, near, play
from tests.unit.egress.studio import BLUE, GREEN, GREY, RED, YELLOW, camera, microphone


def composite(**fields: object) -> egress.RoomCompositeEgressRequest:
    fields.setdefault("file_outputs", [egress.EncodedFileOutput(filepath="{room_name}/call.mp4")])
    return egress.RoomCompositeEgressRequest(room_name="studio", **fields)  # type: ignore[arg-type]


async def test_four_people_in_a_grid(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for index, colour in enumerate((RED, GREEN, BLUE, YELLOW)):
        bench.studio.join(f"p{index}", camera(f"TR_v{index}", colour), microphone(f"TR_a{index}", 400 + 300 * index))
    info = await bench.service.start_room_composite(composite())
    assert info.status == egress.EGRESS_STARTING
    await bench.run(4)
    ended = await bench.stop(info.egress_id)
    await bench.close()

    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    assert ended.details == "End reason: StopEgress API"
    statuses = [update.status for update in bench.updates]
    assert statuses == [
        egress.EGRESS_STARTING,
        egress.EGRESS_ACTIVE,
        egress.EGRESS_ENDING,
        egress.EGRESS_COMPLETE,
    ]
    file = ended.file_results[0]
    assert file.filename == "studio/call.mp4"
    assert file.size == file_size(file.location)
    played = play(tmp_path / "studio/call.mp4")
    assert played.codecs == ("h264", "aac")
    assert played.size == (1280, 720)
    assert played.duration == pytest.approx(4.0, abs=0.3)
    for (x, y), colour in zip(
        ((300, 150), (960, 150), (300, 500), (960, 500)), (RED, GREEN, BLUE, YELLOW), strict=True
    ):
        assert near(played.colour_at(2.6, x, y), colour)
    assert near(played.colour_at(2.6, 640, 360), (16, 128, 128))
    assert set(played.pitch(2.5, 2.9)) >= {400, 700, 1000, 1300}


async def test_lips_and_voice_stay_together(tmp_path: Path) -> None:
    """Video comes 150 ms later than sound, 2 % is lost, clocks drift apart from ours; reports put it right."""
    bench = Bench(tmp_path)
    bench.studio.join(
        "anna",
        camera("TR_v", RED, delay_ns=170 * MILLISECOND, loss=0.02, first_timestamp=0xFFFF_0000),
        microphone("TR_a", 440, delay_ns=20 * MILLISECOND, loss=0.02, first_timestamp=77),
    )
    info = await bench.service.start_room_composite(composite())
    await bench.run(12)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    flashes, beeps = played.flashes(640, 200), played.beeps()
    assert len(beeps) >= 9
    pairs = [min((flash - beep for beep in beeps), key=abs) for flash in flashes if flash > 2.0]
    assert len(pairs) >= 5
    assert all(abs(offset) <= 0.060 for offset in pairs), pairs
    assert played.duration == pytest.approx(12.0, abs=0.3)


async def test_somebody_leaves_and_comes_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_1", RED), microphone("TR_a1", 400))
    ben = bench.studio.join("ben", camera("TR_2", GREEN), microphone("TR_a2", 900))
    info = await bench.service.start_room_composite(composite())
    await bench.run(3)
    bench.studio.leave(ben)
    await bench.run(3)
    bench.studio.join("ben", camera("TR_3", BLUE), microphone("TR_a3", 1500))
    await bench.run(3)
    ended = await bench.stop(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    played = play(tmp_path / "studio/call.mp4")
    assert played.duration == pytest.approx(9.0, abs=0.3)
    assert near(played.colour_at(2.5, 300, 300), RED)
    assert near(played.colour_at(2.5, 960, 300), GREEN)
    assert near(played.colour_at(4.5, 960, 100), RED)  # alone: the whole picture
    assert near(played.colour_at(8.5, 300, 300), RED)
    assert near(played.colour_at(8.5, 960, 300), BLUE)
    assert 900 in played.pitch(2.3, 2.8)
    assert played.pitch(4.3, 4.8) == [400]
    assert 1500 in played.pitch(7.3, 7.8)


async def test_a_camera_is_switched_off_and_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", camera("TR_1", RED))
    bench.studio.join("ben", camera("TR_2", GREEN))
    info = await bench.service.start_room_composite(composite(video_only=True, layout="grid-light"))
    await bench.run(2.5)
    bench.studio.mute(anna, "TR_1")
    await bench.run(2.5)
    bench.studio.mute(anna, "TR_1", False)
    await bench.run(2.5)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert played.codecs == ("h264",)
    assert near(played.colour_at(2.3, 300, 300), RED)
    assert near(played.colour_at(4.5, 20, 200), (208, 128, 128))  # the placeholder's tile
    assert near(played.colour_at(4.5, 960, 300), GREEN)
    assert near(played.colour_at(7.2, 300, 300), RED)
    assert near(played.colour_at(7.2, 640, 360), (235, 128, 128))  # light: between the tiles it is white


async def test_the_speaker_has_the_large_tile(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    people = [
        bench.studio.join(f"p{i}", camera(f"TR_{i}", colour, size=(1280, 720), heights=(180, 360, 720)))
        for i, colour in enumerate((RED, GREEN, BLUE))
    ]
    info = await bench.service.start_room_composite(composite(layout="speaker", video_only=True))
    view = bench.studio.views[-1]
    bench.studio.speak(people[0])
    await bench.run(2.5)
    assert dict(view.opened) == {"TR_0": 720, "TR_1": 180, "TR_2": 180}
    bench.studio.speak(people[2])
    await bench.run(2.5)
    assert dict(view.resized) == {"TR_0": 180, "TR_2": 720}
    await bench.service.update_layout(egress.UpdateLayoutRequest(egress_id=info.egress_id, layout="grid"))
    await bench.run(2.5)
    ended = await bench.stop(info.egress_id)
    assert ended.room_composite.layout == "grid"
    played = play(tmp_path / "studio/call.mp4")
    assert near(played.colour_at(2.3, 800, 360), RED)
    assert near(played.colour_at(2.3, 110, 60), GREEN)
    assert near(played.colour_at(4.7, 800, 360), BLUE)
    assert near(played.colour_at(7.2, 640, 500), BLUE) or near(played.colour_at(7.2, 640, 500), GREEN)
    assert near(played.colour_at(7.2, 20, 700), (16, 128, 128))


async def test_a_shared_screen_comes_first_and_is_shown_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", camera("TR_1", RED))
    info = await bench.service.start_room_composite(composite(video_only=True))
    await bench.run(2.4)
    bench.studio.publish(anna, camera("TR_s", GREY, size=(640, 640), heights=(640,), source=models.SCREEN_SHARE))
    await bench.run(2.4)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert near(played.colour_at(2.2, 640, 360), RED)
    assert near(played.colour_at(4.5, 740, 360), GREY)
    assert near(played.colour_at(4.5, 240, 360), (16, 128, 128))  # beside the square screen
    assert near(played.colour_at(4.5, 110, 60), RED)


async def test_sound_only_goes_to_ogg(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED), microphone("TR_a", 500))
    bench.studio.join("bot", microphone("TR_b", 1100), kind=models.ParticipantInfo.Kind.AGENT)
    request = composite(
        audio_only=True, audio_mixing=egress.DUAL_CHANNEL_AGENT, file_outputs=[egress.EncodedFileOutput(filepath="a/")]
    )
    info = await bench.service.start_room_composite(request)
    await bench.run(3)
    ended = await bench.stop(info.egress_id)
    name = ended.file_results[0].filename
    assert name.startswith("a/studio-20")
    assert name.endswith(".ogg")
    played = play(tmp_path / name)
    assert played.codecs == ("libopus",) or played.codecs == ("opus",)
    assert played.duration == pytest.approx(3.0, abs=0.3)
    assert set(played.pitch(1.2, 1.8)) == {500, 1100}


async def test_upright_and_at_other_rates(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_1", RED))
    bench.studio.join("ben", camera("TR_2", GREEN), microphone("TR_a", 440))
    request = composite(
        advanced=egress.EncodingOptions(
            width=360, height=640, framerate=15, audio_frequency=32000, video_codec=models.H264_BASELINE
        )
    )
    info = await bench.service.start_room_composite(request)
    await bench.run(3)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert played.size == (360, 640)
    assert near(played.colour_at(2.6, 180, 150), RED)
    assert near(played.colour_at(2.6, 180, 500), GREEN)
    assert 40 <= len(played.times) <= 46
    assert played.pitch(1.3, 1.8) == [440]


async def test_pictures_and_segments_beside_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_1", RED), microphone("TR_a", 440))
    request = composite(
        segment_outputs=[egress.SegmentedFileOutput(playlist_name="hls/{room_name}.m3u8", segment_duration=2)],
        image_outputs=[egress.ImageOutput(filename_prefix="img/shot", capture_interval=1, width=320, height=180)],
    )
    info = await bench.service.start_room_composite(request)
    await bench.run(5)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    assert ended.segment_results[0].segment_count == 3
    assert ended.image_results[0].image_count >= 4
    first = play(tmp_path / "hls/studio_00000.ts")
    assert first.size == (1280, 720)
    assert len(first.times) == 60
    assert play(tmp_path / "img/shot_00001.jpeg").size == (320, 180)
    assert (tmp_path / f"studio/{info.egress_id}.json").exists()


async def test_voices_alone_in_a_recording_with_pictures(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start_room_composite(composite())
    await bench.run(3)
    bench.studio.publish(anna, camera("TR_v", RED))
    await bench.run(2)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert played.duration == pytest.approx(5, abs=0.3)
    assert near(played.colour_at(1.5, 640, 360), (16, 128, 128))
    assert near(played.colour_at(4.5, 640, 360), RED)
    assert played.pitch(1.2, 1.8) == [440]
    assert len(played.times) < 100  # a picture that does not change is not encoded again and again


async def test_only_muted_tracks_begin_a_recording_after_a_while(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", camera("TR_v", RED, muted=True), microphone("TR_a", 440, muted=True))
    info = await bench.service.start_room_composite(composite())
    await bench.run(4)
    assert bench.updates[-1].status == egress.EGRESS_STARTING
    await bench.run(2)
    assert bench.updates[-1].status == egress.EGRESS_ACTIVE
    bench.studio.mute(anna, "TR_v", False)
    await bench.run(3)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert near(played.colour_at(0.5, 20, 20), (36, 130, 127))
    assert near(played.colour_at(3.5, 640, 360), RED)


async def test_a_camera_that_stops_without_a_word_is_shown_as_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", camera("TR_v", RED))
    bench.studio.join("ben", camera("TR_w", GREEN))
    info = await bench.service.start_room_composite(composite(video_only=True))
    await bench.run(2)
    anna.tracks["TR_v"].muted = True  # packets end; nobody is told
    await bench.run(7)
    anna.tracks["TR_v"].muted = False
    await bench.run(2)
    await bench.stop(info.egress_id)
    played = play(tmp_path / "studio/call.mp4")
    assert near(played.colour_at(5.5, 300, 300), RED)  # it may be a hiccup
    assert near(played.colour_at(8.5, 20, 20), (36, 130, 127))
    assert near(played.colour_at(8.5, 960, 300), GREEN)
    assert near(played.colour_at(10.5, 300, 300), RED)


async def test_what_is_on_the_disk_if_the_process_is_killed_now(tmp_path: Path) -> None:
    """Never more than two seconds are lost."""
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED, size=(320, 180), heights=(180,)), microphone("TR_a", 440))
    info = await bench.service.start_room_composite(composite(advanced=egress.EncodingOptions(width=320, height=180)))
    await bench.run(6.9)
    copy = await left_on_disk(tmp_path / "studio/call.mp4", 4.9)
    assert copy.duration >= 4.9
    assert near(copy.colour_at(4.5, 160, 60), RED)
    await bench.stop(info.egress_id)


@pytest.mark.parametrize("mime", ["video/VP8", "video/VP9", "video/H264", "video/AV1"])
async def test_broken_pictures_of_one_are_not_the_others_fault(tmp_path: Path, mime: str) -> None:
    """Damaged bytes in good packets: the picture freezes or goes, the rest of the recording does not notice."""
    bench = Bench(tmp_path)
    broken = camera("TR_x", BLUE, mime=mime, size=(320, 180), heights=(180,))
    broken.damage = 0.2
    bench.studio.join("mal", broken)
    bench.studio.join("anna", camera("TR_v", RED, size=(320, 180), heights=(180,)), microphone("TR_a", 440))
    info = await bench.service.start_room_composite(composite(advanced=egress.EncodingOptions(width=320, height=180)))
    await bench.run(4)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    played = play(tmp_path / "studio/call.mp4")
    assert near(played.colour_at(3.5, 240, 60), RED)
    assert played.pitch(2.2, 2.8) == [440]


async def test_a_track_that_must_be_fetched_first_is_tried_again(tmp_path: Path) -> None:
    """A track of another node is known before it can be tapped."""
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_1", RED))
    bench.studio.distant.add("TR_1")
    info = await bench.service.start_room_composite(composite(video_only=True))
    await bench.run(1)
    assert bench.updates[-1].status == egress.EGRESS_STARTING
    bench.studio.distant.clear()
    await bench.run(2)
    ended = await bench.stop(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    assert near(play(tmp_path / "studio/call.mp4").colour_at(1.0, 640, 360), RED)


@pytest.mark.long
async def test_three_minutes_of_a_real_call(tmp_path: Path) -> None:
    """Clocks that drift, 2 % loss, one mute and unmute, one leave and return: lips and length stay right."""
    bench = Bench(tmp_path)
    small = {"size": (320, 180), "heights": (180,)}
    anna = bench.studio.join(
        "anna",
        camera("TR_v", RED, delay_ns=170 * MILLISECOND, loss=0.02, drift=60e-6, **small),  # type: ignore[arg-type]
        microphone("TR_a", 440, loss=0.02, drift=-40e-6, first_timestamp=99),
    )
    ben = bench.studio.join("ben", camera("TR_b", GREEN, **small), microphone("TR_m", 1300))  # type: ignore[arg-type]
    info = await bench.service.start_room_composite(composite(advanced=egress.EncodingOptions(width=320, height=180)))
    await bench.run(60)
    bench.studio.mute(anna, "TR_v")
    bench.studio.mute(anna, "TR_a")
    bench.studio.leave(ben)
    await bench.run(15)
    bench.studio.mute(anna, "TR_v", False)
    bench.studio.mute(anna, "TR_a", False)
    await bench.run(45)
    bench.studio.join("ben", camera("TR_b2", GREEN, **small), microphone("TR_m2", 1300))  # type: ignore[arg-type]
    await bench.run(60)
    ended = await bench.stop(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    played = play(tmp_path / "studio/call.mp4")
    assert played.duration == pytest.approx(180, abs=0.3)
    # Anna alone in the middle part: her tile is the whole picture, her voice the only one.
    flashes = [t for t in played.flashes(160, 60) if 77 < t < 119]
    offsets = [min((flash - beep for beep in played.beeps()), key=abs) for flash in flashes]
    assert len(offsets) > 30
    assert max(map(abs, offsets)) <= 0.060
    assert played.level(62, 74) < 0.002
    flashes = [t for t in played.flashes(80, 60) if 122 < t < 179]
    beeps = played.beeps(0.25)  # two voices hum now
    offsets = [min((flash - beep for beep in beeps), key=abs) for flash in flashes]
    assert len(offsets) > 40
    assert max(map(abs, offsets)) <= 0.060
