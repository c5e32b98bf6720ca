"""Requests: what is taken, what is refused and by which name; file names; secrets."""

import pytest
from livekit.protocol import egress, models

from tertulia.egress.naming import Facts, file_name, fill, refuse_tricks
from tertulia.egress.plan import AudioPlan, RoomSource, VideoPlan, make_plan
from tertulia.egress.redact import redacted
from tertulia.egress.targets import FileTarget
from tertulia.protocol.errors import RequestError

MP4 = egress.EncodedFileOutput(filepath="x.mp4")
RTMP = egress.StreamOutput(urls=["rtmp://live.example.com/app/key-1234567890"])
HLS = egress.SegmentedFileOutput(playlist_name="x.m3u8")


def room(**fields: object) -> egress.RoomCompositeEgressRequest:
    fields.setdefault("room_name", "r")
    if not {"file_outputs", "stream_outputs", "segment_outputs", "image_outputs", "file"} & set(fields):
        fields["file_outputs"] = [MP4]
    return egress.RoomCompositeEgressRequest(**fields)  # type: ignore[arg-type]


def test_defaults() -> None:
    plan = make_plan(room(layout="speaker-light"))
    assert plan.source == RoomSource("speaker-light", "both")
    assert plan.video == VideoPlan(1280, 720, 30, 3_000_000, "main", None)
    assert plan.audio == AudioPlan("aac", 44_100, 128_000)
    assert plan.targets == (FileTarget("x.mp4", "mp4", None, True),)


@pytest.mark.parametrize(
    ("fields", "codec", "container"),
    [
        ({"audio_only": True}, "opus", "ogg"),
        ({"audio_only": True, "advanced": egress.EncodingOptions(audio_codec=models.AAC)}, "aac", "mp4"),
        ({"audio_only": True, "file_outputs": [egress.EncodedFileOutput(file_type=egress.MP3)]}, "mp3", "mp3"),
        ({"advanced": egress.EncodingOptions(audio_codec=models.OPUS)}, "opus", "mp4"),
        ({"audio_only": True, "stream_outputs": [RTMP], "file_outputs": [MP4]}, "aac", "mp4"),
    ],
)
def test_codecs_follow_the_outputs(fields: dict[str, object], codec: str, container: str) -> None:
    plan = make_plan(room(**fields))
    assert plan.audio is not None
    assert plan.audio.codec == codec
    file = next(target for target in plan.targets if isinstance(target, FileTarget))
    assert file.container == container


def test_streams_bring_their_key_frame_interval_and_a_constant_rate() -> None:
    plan = make_plan(room(stream_outputs=[RTMP], preset=egress.H264_1080P_60))
    assert plan.video == VideoPlan(1920, 1080, 60, 6_000_000, "main", 4.0)
    assert plan.constant_rate
    assert not make_plan(room()).constant_rate


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (room(room_name=""), "room_name"),
        (room(audio_only=True, video_only=True), "audio_only and video_only"),
        (room(video_only=True, audio_mixing=egress.DUAL_CHANNEL_AGENT), "audio_mixing"),
        (room(file_outputs=[MP4, MP4]), "file_outputs"),
        (room(file=MP4, file_outputs=[MP4]), "file_outputs"),
        (egress.RoomCompositeEgressRequest(room_name="r"), "output"),
        (room(stream_outputs=[egress.StreamOutput()]), "stream_outputs.urls"),
        (room(stream_outputs=[egress.StreamOutput(urls=["http://x/y/z"])]), "urls"),
        (room(stream_outputs=[egress.StreamOutput(urls=["srt://x:1"])]), "protocol"),
        (room(stream_outputs=[egress.StreamOutput(urls=["rtmp://h/a/k"] * 2)]), "stream_outputs.urls"),
        (room(segment_outputs=[egress.SegmentedFileOutput(segment_duration=999)]), "segment_duration"),
        (
            room(segment_outputs=[egress.SegmentedFileOutput(playlist_name="a.m3u8", live_playlist_name="a.m3u8")]),
            "live_playlist_name",
        ),
        (room(audio_only=True, image_outputs=[egress.ImageOutput()]), "image_outputs"),
        (room(file_outputs=[egress.EncodedFileOutput(file_type=egress.OGG)]), "file_type"),
        (room(preset=egress.PASSTHROUGH), "preset"),
        (room(advanced=egress.EncodingOptions(width=1281)), "width"),
        (room(advanced=egress.EncodingOptions(height=8)), "height"),
        (room(advanced=egress.EncodingOptions(width=4096, height=4096)), "width and height"),
        (room(advanced=egress.EncodingOptions(framerate=1000)), "framerate"),
        (room(advanced=egress.EncodingOptions(framerate=-3)), "framerate"),
        (room(advanced=egress.EncodingOptions(video_bitrate=-1)), "video_bitrate"),
        (room(advanced=egress.EncodingOptions(audio_frequency=12345)), "audio_frequency"),
        (room(advanced=egress.EncodingOptions(video_codec=models.VP8)), "video_codec"),
        (room(advanced=egress.EncodingOptions(key_frame_interval=-2)), "key_frame_interval"),
        (room(segment_outputs=[HLS], advanced=egress.EncodingOptions(audio_codec=models.OPUS)), "audio_codec"),
        (room(file_outputs=[MP4], advanced=egress.EncodingOptions(audio_codec=models.AC_MP3)), "audio_codec"),
        (room(file_outputs=[egress.EncodedFileOutput(s3=egress.S3Upload())]), "file_outputs.s3"),
        (room(file_outputs=[egress.EncodedFileOutput(aliOSS=egress.AliOSSUpload(bucket="b"))]), "aliOSS"),
        (egress.ParticipantEgressRequest(room_name="r", file_outputs=[MP4]), "identity"),
        (egress.TrackCompositeEgressRequest(room_name="r", file_outputs=[MP4]), "audio_track_id or video_track_id"),
        (egress.TrackEgressRequest(room_name="r", file=egress.DirectFileOutput()), "track_id"),
        (egress.TrackEgressRequest(room_name="r", track_id="TR_x"), "output"),
        (egress.TrackEgressRequest(room_name="r", track_id="TR_x", websocket_url="http://x"), "websocket_url"),
    ],
)
def test_mistakes_are_named(request_: object, named: str) -> None:
    with pytest.raises(RequestError) as refused:
        make_plan(request_)  # type: ignore[arg-type]
    assert refused.value.code == "invalid_argument"
    assert refused.value.message.startswith("request has missing or invalid field: ")
    assert named in refused.value.message


@pytest.mark.parametrize(
    "request_", [egress.WebEgressRequest(url="https://example.com"), room(custom_base_url="https://example.com")]
)
def test_browsers_are_refused_clearly(request_: object) -> None:
    with pytest.raises(RequestError, match=r"needs? a browser") as refused:
        make_plan(request_)  # type: ignore[arg-type]
    assert refused.value.code == "unimplemented"


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/cron.d/x", "a/../../b", "/etc/passwd", "a\x00b", "a\nb", "..\\..\\x", "C:\\x", "file:///x",
        "s3://b/x",
        "a/" + "b" * 300, "/".join("abcdefghij" for _ in range(120)), "{nonsense}/x", "/rec/../x",
        "/recordings2/x", ".. /x",
    ],
)  # fmt: skip
def test_path_tricks_are_refused(path: str) -> None:
    with pytest.raises(RequestError, match=r"file_outputs\.filepath"):
        make_plan(room(file_outputs=[egress.EncodedFileOutput(filepath=path)]), root="/rec")


def test_paths_below_the_root_and_object_keys_are_taken() -> None:
    plan = make_plan(room(file_outputs=[egress.EncodedFileOutput(filepath="/rec/a/./b//c.mp4")]), root="/rec")
    assert plan.targets[0].template == "a/b/c.mp4"  # type: ignore[union-attr]
    s3 = egress.EncodedFileOutput(filepath="/a/b.mp4", s3=egress.S3Upload(bucket="b"))
    assert make_plan(room(file_outputs=[s3]), root="/rec").targets[0].template == "a/b.mp4"  # type: ignore[union-attr]


FACTS = Facts("Über/../room", "RM_1", "EG_1", 1_700_000_000_123_000_000, "../x\x00", "TR_1", "video", "camera")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{room_name}/{time}.mp4", "Über_.._room/2023-11-14T221320.mp4"),
        ("{utc}-{track_id}-{track_type}-{track_source}.mp4", "20231114221320123-TR_1-video-camera.mp4"),
        ("{publisher_identity}.mp4", "_._x_.mp4"),
        ("", "id-2023-11-14T221320.mp4"),
        ("a/b/", "a/b/id-2023-11-14T221320.mp4"),
        ("a/b.ogg", "a/b.mp4"),
        ("a/v1.2", "a/v1.2.mp4"),
        ("a/B.MP4", "a/B.MP4"),
    ],
)
def test_names_are_filled_in(template: str, name: str) -> None:
    assert file_name(template, FACTS, "id", ".mp4") == name


@pytest.mark.parametrize("value", ["..", ".", "/", "a/../../b", "\x00", "x" * 999, "é" * 400, "..\\.."])
def test_no_value_leads_out_of_the_root(value: str) -> None:
    facts = Facts(value, "RM_1", "EG_1", 0)
    name = fill("a/{room_name}/b", facts)
    assert name.startswith("a/")
    assert ".." not in name.split("/")
    assert all(0 < len(part.encode()) <= 240 for part in name.split("/"))
    refuse_tricks(name, "x")


def test_no_secret_is_shown() -> None:
    s3 = egress.S3Upload(
        access_key="AKIASECRETKEY", secret="topsecret-topsecret", session_token="tok-tok-tok", bucket="b"
    )
    request = room(
        file_outputs=[egress.EncodedFileOutput(filepath="x", s3=s3)],
        stream_outputs=[
            egress.StreamOutput(
                urls=["rtmp://h/app/stream-key-1234"],
                destinations=[egress.StreamDestination(url="rtmp://h/app/other-key-5678")],
            )
        ],
        segment_outputs=[
            egress.SegmentedFileOutput(gcp=egress.GCPUpload(credentials='{"private_key":"abc"}', bucket="b"))
        ],
        image_outputs=[egress.ImageOutput(azure=egress.AzureBlobUpload(account_key="azurekeyazurekey"))],
    )
    shown = str(redacted(request))
    for secret in ("AKIASECRETKEY", "topsecret-topsecret", "tok-tok-tok", "stream-key-1234", "other-key-5678"):
        assert secret not in shown
    assert "private_key" not in shown
    assert "azurekeyazurekey" not in shown
    assert "rtmp://h/app/{str...234}" in shown
    assert "topsecret" in str(request)  # the original is left alone
