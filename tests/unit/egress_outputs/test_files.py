"""Files of every container, read back by libav and ffprobe's decoder: complete, in sync, readable after any end."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tertulia.egress.outputs import files, headers
from tertulia.egress.outputs.api import EncodedPacket, OutputResult, StreamSpec
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.recording import RecordingFile
from tertulia.egress.outputs.upload import Depot
from tertulia.protocol.errors import RequestError
from tests.unit.egress_outputs import media


async def record(
    directory: Path,
    name: str,
    streams: list[StreamSpec],
    packets: Iterable[EncodedPacket],
    container: str | None = None,
) -> tuple[FileOutput, OutputResult]:
    out = FileOutput(name, Depot(directory), container=container)
    out.open(streams, media.EPOCH_NS)
    for packet in packets:
        out.write(packet)
    await out.close()
    return out, out.result()


class Played:
    """What a strict reader finds in a file."""

    def __init__(self, path: Path) -> None:
        self.times: dict[str, list[float]] = {"audio": [], "video": []}
        self.codecs: list[str] = []
        self.size = (0, 0)
        with av.open(str(path)) as container:
            self.codecs = [stream.codec_context.name for stream in container.streams]
            self.duration = (container.duration or 0) / 1e6
            for packet in container.demux():
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        self.size = (frame.width, frame.height)
                        self.times["video"].append(float(frame.time))
                    else:
                        self.times["audio"].append(float(frame.time))

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.times["video"]), len(self.times["audio"])


def ffmpeg_is_content(path: Path, *, cut: bool = False) -> None:
    """`cut`: Matroska may remark that the file ended within a cluster, but must play it."""
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-xerror", "-i", str(path), "-f", "null", "-"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        remark = done.stderr if cut and done.stderr.endswith("File ended prematurely\n") else ""
        assert (done.returncode, done.stderr) == (0, remark)


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.mp4", "h264", "aac"), ("a.mp4", "h264", "opus"), ("a.mp4", "h264", None), ("a.mp4", None, "aac"),
        ("a.mp4", "av1", "opus"), ("a.mp4", "vp9", "opus"), ("a.webm", "vp8", "opus"), ("a.webm", "vp9", None),
        ("a.webm", "av1", "opus"), ("a.webm", None, "opus"), ("a.mkv", "h264", "aac"), ("a.mkv", "vp8", "opus"),
        ("a.ogg", None, "opus"), ("a.ivf", "vp8", None), ("a.ivf", "vp9", None), ("a.ivf", "av1", None),
        ("a.mp3", None, "mp3"),
    ],
)  # fmt: skip
async def test_every_container(tmp_path: Path, name: str, video: str | None, audio: str | None) -> None:
    made = [media.video(video)] if video else []
    made += [media.audio(audio)] if audio else []
    sent = media.interleave(*(packets for _, packets in made))
    out, result = await record(tmp_path, name, [spec for spec, _ in made], sent)
    assert out.failed is None
    [info] = result.files
    path = tmp_path / name
    assert (info.filename, info.location, info.size) == (name, str(path), path.stat().st_size)
    assert abs(info.duration - 4_000_000_000) < 60_000_000
    assert info.ended_at - info.started_at == info.duration
    assert abs(info.started_at - media.EPOCH_NS) < 100_000_000
    played = Played(path)
    assert played.counts[0] == (120 if video else 0)
    if audio:
        assert abs(played.counts[1] - len(made[-1][1])) <= 2
    if video:
        assert played.size == (160, 96)
    if name != "a.ivf":  # IVF's header counts frames, not time
        assert abs(played.duration - 4) < 0.1
    ffmpeg_is_content(path)


@pytest.mark.parametrize("late", ["audio", "video"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
async def test_a_stream_that_begins_later_stays_in_its_place(tmp_path: Path, name: str, late: str) -> None:
    (video_spec, video), (audio_spec, audio) = media.video(b_frames=2, global_header=True), media.audio()
    if late == "audio":
        sent = media.interleave(video, media.shifted(audio, 2))
    else:
        sent = media.interleave(media.shifted(video, 2), audio)
    await record(tmp_path, name, [video_spec, audio_spec], sent)
    times = Played(tmp_path / name).times
    gap = times[late][0] - times["video" if late == "audio" else "audio"][0]
    assert abs(gap - 2) < 0.03
    ffmpeg_is_content(tmp_path / name)


async def test_a_stream_that_never_comes_is_left_out(tmp_path: Path) -> None:
    (video_spec, video), (audio_spec, _) = media.video(seconds=7), media.audio()
    out, _ = await record(tmp_path, "a.mp4", [audio_spec, video_spec], video)
    assert out.failed is None
    played = Played(tmp_path / "a.mp4")
    assert (played.codecs, played.counts) == (["h264"], (210, 0))


async def test_starts_at_a_key_frame_and_at_zero(tmp_path: Path) -> None:
    spec, packets = media.video(seconds=4)
    late = [*media.shifted(packets[10:], 1000)]
    out, result = await record(tmp_path, "a.mp4", [spec], late)
    assert out.late_packets == 20
    assert result.files[0].started_at == media.EPOCH_NS + 1001 * 10**9
    played = Played(tmp_path / "a.mp4")
    assert played.counts[0] == 90
    assert played.times["video"][0] == 0


async def test_timestamps_that_stand_still_or_go_back(tmp_path: Path) -> None:
    spec, packets = media.video()
    bad = [p._replace(pts=max(0, p.pts - 3), dts=max(0, p.dts - 3)) if i % 4 == 3 else p for i, p in enumerate(packets)]
    out, _ = await record(tmp_path, "a.mp4", [spec], bad)
    assert out.failed is None
    assert Played(tmp_path / "a.mp4").counts[0] == 120


async def test_ogg_fills_gaps_with_silence(tmp_path: Path) -> None:
    spec, packets = media.audio("opus")
    gap = [*packets[:50], *media.shifted(packets[50:100], 3)]
    _, result = await record(tmp_path, "a.ogg", [spec], gap)
    assert abs(Played(tmp_path / "a.ogg").duration - 5) < 0.05
    assert abs(result.files[0].duration - 5 * 10**9) < 50_000_000


async def test_size_of_a_passed_through_track_comes_from_its_key_frame(tmp_path: Path) -> None:
    spec, packets = media.video("vp8", width=320, height=240)
    wrong = StreamSpec("video", "vp8", spec.time_base, width=1280, height=720)
    await record(tmp_path, "a.webm", [wrong], packets)
    with av.open(str(tmp_path / "a.webm")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (320, 240)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
async def test_a_passed_through_track_changes_its_size(tmp_path: Path, name: str) -> None:
    spec, small = media.video(seconds=2)
    _, large = media.video(seconds=2, width=320, height=192)
    out, _ = await record(tmp_path, name, [spec], [*small, *media.shifted(large, 2)])
    assert (out.failed, out.bad_packets) == (None, 0)
    played = Played(tmp_path / name)
    assert (played.counts[0], played.size) == (120, (320, 192))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "h264"), ("a.webm", "vp8"), ("a.webm", "vp9"), ("a.mp4", "av1"), ("a.ivf", "vp8"), ("a.ogg", "opus")],
)
async def test_damaged_frames_cost_only_themselves(tmp_path: Path, name: str, codec: str) -> None:
    spec, packets = media.audio("opus") if codec == "opus" else media.video(codec)
    rng = random.Random(7)
    sent = []
    for index, packet in enumerate(packets):
        data = packet.data
        if index > 10 and index % 3 == 0:
            data = rng.choice((b"", b"\0", data[: len(data) // 2], rng.randbytes(len(data)), rng.randbytes(3)))
        sent.append(packet._replace(data=data))
    out, _ = await record(tmp_path, name, [spec], sent)
    assert out.failed is None
    with av.open(str(tmp_path / name)) as container:
        assert sum(1 for packet in container.demux() if packet.size) >= len(packets) // 2


async def test_a_track_of_rubbish(tmp_path: Path) -> None:
    spec, packets = media.video()
    rubbish = [packet._replace(data=random.Random(index).randbytes(50)) for index, packet in enumerate(packets)]
    out, _ = await record(tmp_path, "a.mp4", [spec], rubbish)
    assert out.failed is None or out.failed.startswith("writing failed")


async def test_what_a_container_cannot_hold(tmp_path: Path) -> None:
    spec, packets = media.video("vp8")
    out, result = await record(tmp_path, "a.mp4", [spec], packets)
    assert out.failed == "MP4 cannot hold vp8"
    assert not os.listdir(tmp_path)
    assert result.files[0].size == 0


async def test_stop_before_the_first_packet_leaves_nothing(tmp_path: Path) -> None:
    spec, _ = media.video()
    out, result = await record(tmp_path, "a.mp4", [spec], [])
    assert out.failed is None
    assert result.files[0].location == ""
    assert not os.listdir(tmp_path)
    out = FileOutput("b.mp4", Depot(tmp_path))
    await asyncio.gather(out.close(), out.close())  # never opened, stopped twice
    out.open([spec], 0)
    out.write(media.video()[1][0])
    assert out.failed is None
    assert not os.listdir(tmp_path)


async def test_abort_keeps_what_is_readable(tmp_path: Path) -> None:
    spec, packets = media.video()
    out = FileOutput("a.mp4", Depot(tmp_path))
    out.open([spec], media.EPOCH_NS)
    for packet in packets:
        out.write(packet)
    await out.abort("the room caught fire")
    assert out.failed == "the room caught fire"
    assert out.result().files[0].location == str(tmp_path / "a.mp4")
    played = Played(tmp_path / "a.mp4")
    assert played.counts[0] >= 60
    ffmpeg_is_content(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.ogg", "a.mkv"])
@pytest.mark.parametrize("at", [0.5, 0.97])
async def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: float) -> None:
    """The disk takes so many bytes and no more: early, and in the trailer of an MP4."""
    made = (
        [media.audio("opus")]
        if name == "a.ogg"
        else [media.audio("opus"), media.video("vp9" if "w" in name else "h264")]
    )
    sent = media.interleave(*(packets for _, packets in made))
    specs = [spec for spec, _ in made]
    await record(tmp_path / "whole", name, specs, sent)
    room = int((tmp_path / "whole" / name).stat().st_size * at)
    put = RecordingFile._put

    def full(self: RecordingFile, view: memoryview, offset: int) -> None:
        put(self, view[: max(0, room - offset)], offset)
        if offset + len(view) > room:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(RecordingFile, "_put", full)
    out, result = await record(tmp_path / "part", name, specs, sent)
    assert out.failed == "the disk is full"
    path = tmp_path / "part" / name
    assert result.files[0].size == path.stat().st_size <= room
    played = Played(path)
    assert sum(played.counts) > sum(Played(tmp_path / "whole" / name).counts) * at / 4
    ffmpeg_is_content(path, cut=True)


async def test_two_recordings_of_one_name(tmp_path: Path) -> None:
    spec, packets = media.video()
    first = FileOutput("a.mp4", Depot(tmp_path))
    first.open([spec], 0)
    for packet in packets[:60]:
        first.write(packet)
    while first._file is None:  # noqa: ASYNC110 (another thread makes it)
        await asyncio.sleep(0)
    second, _ = await record(tmp_path, "a.mp4", [spec], packets)
    assert second.failed == "another recording is writing to a.mp4"
    await first.close()
    assert Played(tmp_path / "a.mp4").counts[0] == 60


@pytest.mark.parametrize(
    "name", ["../a.mp4", "/etc/a.mp4", "x/../../a.mp4", "a\0.mp4", "a\\b.mp4", "x" * 300 + ".mp4", ".mp4/"]
)
async def test_names_that_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="filepath"):
        FileOutput(name, Depot(tmp_path / "in"), container="mp4")
    assert not any(names for _, _, names in os.walk(tmp_path))


async def test_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    with pytest.raises(RequestError, match="leaves"):
        FileOutput("link/a.mp4", Depot(inside))
    (inside / "a.mp4").symlink_to(outside / "victim")
    spec, packets = media.video()
    out, _ = await record(inside, "a.mp4", [spec], packets)
    assert out.failed is not None
    assert not os.listdir(outside)


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match="filepath"):
        FileOutput("file/a.mp4", Depot(tmp_path))


async def test_a_disk_too_slow_fails_the_recording_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    put = RecordingFile._put

    def slow(self: RecordingFile, view: memoryview, offset: int) -> None:
        gate.wait()
        put(self, view, offset)

    monkeypatch.setattr(RecordingFile, "_put", slow)
    spec, packets = media.video()
    out = FileOutput("a.mp4", Depot(tmp_path))
    out.open([spec], 0)
    big = packets[0]._replace(data=packets[0].data + b"\0" * (1 << 20))
    for index in range(70):
        out.write(big._replace(pts=index * 30, dts=index * 30))
    assert out.failed == "the disk is too slow for the recording"
    gate.set()
    await out.close()


_KILLED = """
import asyncio, sys, pathlib
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.upload import Depot
from tests.unit.egress_outputs import media
async def main():
    out = FileOutput(sys.argv[2], Depot(pathlib.Path(sys.argv[1])))
    made = [media.audio(sys.argv[4], seconds=20)]
    if sys.argv[3]:
        made.append(media.video(sys.argv[3], seconds=20, key_frame_s=10))
    out.open([spec for spec, _ in made], media.EPOCH_NS)
    for packet in media.interleave(*(p for _, p in made)):
        out.write(packet)
    while out._work:
        await asyncio.sleep(0.01)
    print("20 seconds", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [("a.mp4", "h264", "aac"), ("a.webm", "vp8", "opus"), ("a.ogg", "", "opus"), ("a.mkv", "h264", "opus")],
)
def test_kill_9_at_second_20(tmp_path: Path, name: str, video: str, audio: str) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), name, video, audio]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    assert process.stdout.readline() == b"20 seconds\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    times = Played(tmp_path / name).times
    for kind in ("audio", "video") if video else ("audio",):
        assert times[kind][-1] - times[kind][0] >= 18.5
    ffmpeg_is_content(tmp_path / name)


def test_every_codec_has_a_home() -> None:
    homes = {codec for container in files.CONTAINERS.values() for codec in container.codecs}
    assert homes == {"h264", "vp8", "vp9", "av1", "aac", "opus", "mp3"}
    assert headers.opus_samples(media.audio("opus")[1][0].data) == 960
    assert Fraction(headers.opus_samples(headers.opus_silence(2)), 48_000) == Fraction(1, 50)
