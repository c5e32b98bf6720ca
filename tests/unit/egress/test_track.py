"""Track, TrackComposite and Participant egress, from request to file or WebSocket."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from livekit.protocol import egress, models
from websockets.asyncio.server import ServerConnection, serve

from tertulia.protocol.machine import MILLISECOND
from tests.unit.egress.bench import Bench, near, play
from tests.unit.egress.studio import BLUE, GREEN, RED, camera, microphone


def track(track_id: str, filepath: str = "{track_type}-{track_source}-{publisher_identity}", **fields: object):  # type: ignore[no-untyped-def]
    fields.setdefault("file", egress.DirectFileOutput(filepath=filepath))
    return egress.TrackEgressRequest(room_name="studio", track_id=track_id, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mime", "ending", "codec"),
    [
        ("video/VP8", "webm", "vp8"),
        ("video/VP9", "webm", "vp9"),
        ("video/H264", "mp4", "h264"),
        ("video/AV1", "webm", "av1"),
    ],
)
async def test_a_video_track_is_kept_as_it_came(tmp_path: Path, mime: str, ending: str, codec: str) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", GREEN, mime=mime, size=(320, 180), heights=(180,)))
    info = await bench.service.start_track(track("TR_v"))
    await bench.run(3)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    assert ended.file_results[0].filename == f"video-camera-anna.{ending}"
    played = play(tmp_path / f"video-camera-anna.{ending}")
    assert played.codecs[0] in (codec, "libdav1d")
    assert played.size == (320, 180)
    assert len(played.times) == pytest.approx(90, abs=4)
    assert played.duration == pytest.approx(3, abs=0.3)
    assert near(played.colour_at(1.6, 100, 60), GREEN)


@pytest.mark.parametrize(
    ("mime", "wish", "name"),
    [
        ("video/VP8", "x.ivf", "x.ivf"),
        ("video/VP8", "x.mp4", "x.webm"),
        ("video/AV1", "x.ivf", "x.ivf"),
        ("video/VP9", "x.mp4", "x.mp4"),
        ("video/H264", "x.mkv", "x.mkv"),
    ],
)
async def test_other_containers_that_take_the_track(tmp_path: Path, mime: str, wish: str, name: str) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", GREEN, mime=mime, size=(320, 180), heights=(180,)))
    info = await bench.service.start_track(track("TR_v", wish))
    await bench.run(2)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.file_results[0].filename) == (egress.EGRESS_COMPLETE, name)
    assert len(play(tmp_path / name).times) == pytest.approx(60, abs=3)


async def test_a_voice_is_kept_as_it_came_and_its_mute_is_silence(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start_track(track("TR_a", "voices/{room_name}/{track_id}"))
    await bench.run(2)
    bench.studio.mute(anna, "TR_a")
    await bench.run(2)
    bench.studio.mute(anna, "TR_a", False)
    await bench.run(2)
    ended = await bench.stop(info.egress_id)
    assert ended.file_results[0].filename == "voices/studio/TR_a.ogg"
    played = play(tmp_path / "voices/studio/TR_a.ogg")
    assert played.duration == pytest.approx(6, abs=0.3)
    assert played.pitch(1.2, 1.8) == [440]
    assert played.level(2.5, 3.8) < 0.001
    assert played.level(4.3, 5.8) > 0.02


async def test_the_track_comes_later_or_never(tmp_path: Path) -> None:
    bench = Bench(tmp_path, track_wait_s=3.0)
    late = await bench.service.start_track(track("TR_late", "late.ogg"))
    never = await bench.service.start_track(track("TR_never"))
    await bench.run(1)
    anna = bench.studio.join("anna", microphone("TR_late", 440))
    await bench.run(2.2)
    ended = await bench.ended(never.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_FAILED, 404)
    assert ended.error == "track TR_never not found"
    bench.studio.unpublish(anna, "TR_late")
    await bench.run(0.1)
    ended = await bench.ended(late.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    assert ended.details == "End reason: Source closed"
    assert play(tmp_path / "late.ogg").duration == pytest.approx(2.2, abs=0.3)


async def test_encrypted_tracks_are_refused_in_words(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    voice = microphone("TR_e", 440)
    voice.encryption = models.Encryption.GCM
    bench.studio.join("anna", voice, microphone("TR_p", 880))
    info = await bench.service.start_track(track("TR_e"))
    both = await bench.service.start_room_composite(
        egress.RoomCompositeEgressRequest(
            room_name="studio", audio_only=True, file_outputs=[egress.EncodedFileOutput(filepath="room.ogg")]
        )
    )
    await bench.run(2)
    ended = await bench.ended(info.egress_id)
    assert ended.status == egress.EGRESS_FAILED
    assert ended.error == "track TR_e cannot be recorded: end-to-end encrypted"
    ended = await bench.stop(both.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    assert "TR_e left out: end-to-end encrypted" in ended.details
    assert play(tmp_path / "room.ogg").pitch(1.2, 1.8) == [880]


async def test_pcm_and_mutes_go_to_a_websocket(tmp_path: Path) -> None:
    sound, words, heard = bytearray(), [], asyncio.Event()

    async def listen(connection: ServerConnection) -> None:
        async for message in connection:
            if isinstance(message, bytes):
                sound.extend(message)
                heard.set()
            else:
                words.append(json.loads(message))

    async with serve(listen, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        bench = Bench(tmp_path)
        anna = bench.studio.join("anna", microphone("TR_a", 440))
        info = await bench.service.start_track(
            egress.TrackEgressRequest(
                room_name="studio", track_id="TR_a", websocket_url=f"ws://127.0.0.1:{port}/x?token=verysecret"
            )
        )
        assert "verysecret" not in str(info)
        await bench.run(1)
        async with asyncio.timeout(10):
            await heard.wait()  # the connection is made in real time
        await bench.run(1)
        bench.studio.mute(anna, "TR_a")
        await bench.run(1)
        bench.studio.mute(anna, "TR_a", False)
        await bench.run(1)
        ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    assert words == [{"muted": True}, {"muted": False}]
    samples = np.frombuffer(bytes(sound), np.int16).reshape(-1, 2)
    assert len(samples) / 48_000 == pytest.approx(3, abs=0.15)
    assert np.abs(samples).max() > 8_000


async def test_websockets_take_no_video(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED))
    info = await bench.service.start_track(
        egress.TrackEgressRequest(room_name="studio", track_id="TR_v", websocket_url="ws://127.0.0.1:9/x")
    )
    await bench.run(0.2)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_FAILED, 400)
    assert ended.error == "format websocket incompatible with codec video/VP8"


async def test_two_tracks_of_different_people(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", camera("TR_v", BLUE, size=(320, 240), heights=(240,)))
    ben = bench.studio.join("ben", microphone("TR_a", 700), microphone("TR_other", 1900))
    info = await bench.service.start_track_composite(
        egress.TrackCompositeEgressRequest(
            room_name="studio", audio_track_id="TR_a", video_track_id="TR_v", preset=egress.PORTRAIT_H264_720P_30,
            file_outputs=[egress.EncodedFileOutput(filepath="pair")],
        )
    )  # fmt: skip
    await bench.run(3)
    bench.studio.leave(anna)
    await bench.run(1)
    bench.studio.leave(ben)
    await bench.run(0.1)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.details) == (egress.EGRESS_COMPLETE, "End reason: Source closed")
    played = play(tmp_path / "pair.mp4")
    assert played.size == (720, 1280)
    assert near(played.colour_at(2.5, 360, 640), BLUE)
    assert near(played.colour_at(2.5, 360, 200), (16, 128, 128))
    assert played.pitch(1.2, 1.8) == [700]
    assert played.duration == pytest.approx(4, abs=0.3)


async def test_a_wrong_kind_of_track_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", BLUE))
    info = await bench.service.start_track_composite(
        egress.TrackCompositeEgressRequest(
            room_name="studio", audio_track_id="TR_v", file_outputs=[egress.EncodedFileOutput(filepath="x")]
        )
    )
    await bench.run(0.2)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_FAILED, 400)
    assert "audio_track_id" in ended.error


async def test_one_person_with_what_they_publish_until_they_leave(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    anna = bench.studio.join("anna", microphone("TR_a", 440))
    bench.studio.join("ben", camera("TR_b", RED), microphone("TR_m", 1700))
    info = await bench.service.start_participant(
        egress.ParticipantEgressRequest(
            room_name="studio", identity="anna",
            file_outputs=[egress.EncodedFileOutput(filepath="{publisher_identity}/")],
        )
    )  # fmt: skip
    await bench.run(2)
    bench.studio.publish(anna, camera("TR_v", GREEN, delay_ns=60 * MILLISECOND))
    bench.studio.publish(anna, camera("TR_s", BLUE, source=models.SCREEN_SHARE))
    await bench.run(2)
    bench.studio.leave(anna)
    await bench.run(0.1)
    ended = await bench.ended(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    name = ended.file_results[0].filename
    assert name.startswith("anna/anna-")
    played = play(tmp_path / name)
    assert near(played.colour_at(1.0, 640, 360), (16, 128, 128))
    assert near(played.colour_at(3.5, 640, 360), GREEN)
    assert played.pitch(1.2, 1.8) == [440]
    assert played.duration == pytest.approx(4, abs=0.3)
