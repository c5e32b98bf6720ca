"""StartEgress: one request for every kind of source, outputs and storage."""

from pathlib import Path
from typing import Any

import pytest
from livekit.protocol import egress, models

from tertulia.egress.plan import MixSource, OneTrackSource, RoomSource, Route, make_plan
from tertulia.egress.targets import FileTarget, SegmentsTarget
from tertulia.protocol.errors import RequestError
from tests.unit.egress.bench import Bench, near, play
from tests.unit.egress.studio import BLUE, RED, camera, microphone

AGENT = models.ParticipantInfo.Kind.AGENT
FILE = egress.Output(file=egress.FileOutput(filepath="x.mp4"))


def start(**fields: Any) -> egress.StartEgressRequest:
    fields.setdefault("outputs", [FILE])
    fields.setdefault("room_name", "studio")
    return egress.StartEgressRequest(**fields)


def test_templates_and_storage_by_precedence() -> None:
    own, common = egress.S3Upload(bucket="own"), egress.S3Upload(bucket="common")
    plan = make_plan(
        start(
            template=egress.TemplateSource(layout="speaker"),
            outputs=[
                egress.Output(file=egress.FileOutput(filepath="x"), storage=egress.StorageConfig(s3=own)),
                egress.Output(segments=egress.SegmentedFileOutput(playlist_name="y")),
            ],
            storage=egress.StorageConfig(s3=common),
            advanced=egress.EncodingOptions(width=640, height=360),
        )
    )
    assert plan.source == RoomSource("speaker", "both")
    assert plan.video is not None
    assert (plan.video.width, plan.kind) == (640, "egress")
    file, segments = plan.targets
    assert isinstance(file, FileTarget)
    assert isinstance(segments, SegmentsTarget)
    assert (file.storage, segments.storage) == (own, common)


def test_media_and_routes() -> None:
    media = egress.MediaSource(
        participant_video=egress.ParticipantVideo(identity="anna", prefer_screen_share=True),
        audio=egress.AudioConfig(
            routes=[
                egress.AudioRoute(
                    participant_kind=models.ParticipantInfo.Kind.AGENT, channel=egress.AUDIO_CHANNEL_LEFT
                ),
                egress.AudioRoute(participant_identity="anna", channel=egress.AUDIO_CHANNEL_RIGHT),
            ]
        ),
    )
    assert make_plan(start(media=media)).source == MixSource(
        "", "anna", True, False, (Route("", "", 4, "left"), Route("", "anna", None, "right"))
    )


def test_passing_through() -> None:
    media = egress.MediaSource(video_track_id="TR_v")
    plan = make_plan(start(media=media, preset=egress.PASSTHROUGH))
    assert plan.source == OneTrackSource("TR_v")
    assert plan.video is None
    voice = egress.MediaSource(audio=egress.AudioConfig(routes=[egress.AudioRoute(track_id="TR_a")]))
    assert make_plan(start(media=voice, preset=egress.PASSTHROUGH)).source == OneTrackSource("TR_a")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (start(), "source"),
        (start(media=egress.MediaSource()), "media"),
        (start(template=egress.TemplateSource(audio_only=True, video_only=True)), "audio_only and video_only"),
        (start(template=egress.TemplateSource(), outputs=[]), "output"),
        (start(template=egress.TemplateSource(), outputs=[FILE, FILE]), "file_outputs"),
        (start(template=egress.TemplateSource(), outputs=[egress.Output()]), "outputs"),
        (start(template=egress.TemplateSource(), preset=egress.PASSTHROUGH), "preset"),
        (start(media=egress.MediaSource(participant_video=egress.ParticipantVideo())), "identity"),
        (start(media=egress.MediaSource(audio=egress.AudioConfig(routes=[egress.AudioRoute()]))), "routes"),
        (
            start(
                media=egress.MediaSource(video_track_id="TR", audio=egress.AudioConfig(capture_all=True)),
                preset=egress.PASSTHROUGH,
            ),
            "preset",
        ),
        (
            start(media=egress.MediaSource(video_track_id="TR"), preset=egress.PASSTHROUGH, outputs=[FILE, FILE]),
            "outputs",
        ),
    ],
)
def test_mistakes_are_named(request_: egress.StartEgressRequest, named: str) -> None:
    with pytest.raises(RequestError) as refused:
        make_plan(request_)
    assert refused.value.code == "invalid_argument"
    assert named in refused.value.message


def test_browsers_are_refused() -> None:
    for request in (
        start(web=egress.WebSource(url="https://x")),
        start(template=egress.TemplateSource(custom_base_url="https://x")),
    ):
        with pytest.raises(RequestError) as refused:
            make_plan(request)
        assert refused.value.code == "unimplemented"


async def test_a_picture_and_two_ears(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED), microphone("TR_a", 440))
    bench.studio.join("bot", camera("TR_w", BLUE), microphone("TR_b", 1500), kind=AGENT)
    bench.studio.join("ben", microphone("TR_c", 2500))
    media = egress.MediaSource(
        video_track_id="TR_v",
        audio=egress.AudioConfig(
            routes=[
                egress.AudioRoute(
                    participant_kind=models.ParticipantInfo.Kind.AGENT, channel=egress.AUDIO_CHANNEL_LEFT
                ),
                egress.AudioRoute(track_id="TR_a", channel=egress.AUDIO_CHANNEL_RIGHT),
            ]
        ),
    )
    info = await bench.service.start(start(media=media))
    assert info.WhichOneof("request") == "egress"
    await bench.run(3)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    played = play(tmp_path / "x.mp4")
    assert near(played.colour_at(2.5, 640, 360), RED)
    assert set(played.pitch(1.2, 1.8)) == {440, 1500}


async def test_one_track_as_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED))
    info = await bench.service.start(
        start(
            media=egress.MediaSource(video_track_id="TR_v"),
            preset=egress.PASSTHROUGH,
            outputs=[egress.Output(file=egress.FileOutput(filepath="{track_id}"))],
        )
    )
    await bench.run(2)
    ended = await bench.stop(info.egress_id)
    assert ended.file_results[0].filename == "TR_v.webm"
    assert play(tmp_path / "TR_v.webm").codecs == ("vp8",)


async def test_layouts_of_templates_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    info = await bench.service.start(start(template=egress.TemplateSource()))
    told = await bench.service.update_layout(egress.UpdateLayoutRequest(egress_id=info.egress_id, layout="speaker"))
    assert told.egress.template.layout == "speaker"
    await bench.close()
