"""Segments and playlists, as a player and as the storage see them."""

import asyncio
import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult
from tertulia.egress.outputs.hls import SegmentsOutput, SegmentsPlan
from tertulia.egress.outputs.playlist import Entry, Playlist
from tertulia.egress.outputs.segments import _TsSink
from tertulia.egress.outputs.storage import DirectoryStorage, StorageError
from tertulia.egress.outputs.upload import Depot
from tertulia.protocol.errors import RequestError
from tests.unit.egress_outputs import media
from tests.unit.egress_outputs.test_files import Played, ffmpeg_is_content

PLAN = SegmentsPlan("show/seg", "show/all.m3u8", "show/live.m3u8", segment_s=1)


async def record(
    depot: Depot, packets: Iterable[EncodedPacket], plan: SegmentsPlan = PLAN
) -> tuple[SegmentsOutput, OutputResult]:
    out = SegmentsOutput(plan, depot)
    packets = list(packets)
    kinds = {packet.stream for packet in packets}
    specs = [spec for spec, _ in (media.video(global_header=True), media.audio()) if spec.kind in kinds]
    out.open(specs, media.EPOCH_NS)
    for packet in packets:
        out.write(packet)
    await out.close()
    return out, out.result()


def both(seconds: float = 4, key_frame_s: float = 1) -> list[EncodedPacket]:
    _, video = media.video(seconds=seconds, key_frame_s=key_frame_s, global_header=True)
    return media.interleave(video, media.audio(seconds=seconds)[1])


def lines(path: Path, tag: str) -> list[str]:
    return re.findall(rf"^#{tag}:?(.*)$", path.read_text(), re.MULTILINE)


async def test_a_recording(tmp_path: Path) -> None:
    out, result = await record(Depot(tmp_path), both())
    assert out.failed is None
    assert out.key_frame_interval_s == 1
    [info] = result.segments
    show = tmp_path / "show"
    assert sorted(os.listdir(show)) == ["all.m3u8", "live.m3u8", *(f"seg_0000{i}.ts" for i in range(4))]
    assert info.segment_count == 4
    assert info.size == sum(path.stat().st_size for path in show.glob("*.ts"))
    assert (info.playlist_name, info.playlist_location) == ("show/all.m3u8", str(show / "all.m3u8"))
    assert (info.live_playlist_name, info.live_playlist_location) == ("show/live.m3u8", str(show / "live.m3u8"))
    assert (info.started_at, info.duration) == (media.EPOCH_NS, 4_000_000_000)
    assert lines(show / "all.m3u8", "EXTINF") == ["1.000,"] * 4
    assert lines(show / "all.m3u8", "EXT-X-ENDLIST") == [""]
    assert lines(show / "all.m3u8", "EXT-X-PLAYLIST-TYPE") == ["EVENT"]
    first, second = lines(show / "all.m3u8", "EXT-X-PROGRAM-DATE-TIME")[:2]
    assert (first[-7:], second[-7:]) == ("20.000Z", "21.000Z")
    played = Played(show / "all.m3u8")
    assert played.counts[0] == 120
    assert abs(played.counts[1] - len(media.audio()[1])) <= 1
    assert max(b - a for a, b in pairwise(sorted(played.times["video"]))) < 0.04
    ffmpeg_is_content(show / "all.m3u8")


async def test_segments_are_one_transport_stream(tmp_path: Path) -> None:
    await record(Depot(tmp_path), both())
    data = b"".join(path.read_bytes() for path in sorted((tmp_path / "show").glob("*.ts")))
    packets = np.frombuffer(data, np.uint8).reshape(-1, 188)
    assert (packets[:, 0] == 0x47).all()
    pids = (packets[:, 1].astype(int) & 31) << 8 | packets[:, 2]
    for pid in np.unique(pids):
        counters = packets[(pids == pid) & (packets[:, 3] & 0x10 > 0), 3] & 15
        assert ((np.diff(counters.astype(int)) & 15) == 1).all()
    assert abs(Played(tmp_path / "show" / "seg_00003.ts").duration - 1) < 0.05  # each can be entered alone


async def test_audio_only(tmp_path: Path) -> None:
    out, result = await record(Depot(tmp_path), media.audio()[1])
    assert out.failed is None
    assert result.segments[0].segment_count in (4, 5)
    assert abs(result.segments[0].duration - 4 * 10**9) < 10**8
    ffmpeg_is_content(tmp_path / "show" / "all.m3u8")


async def test_key_frames_too_far_apart(tmp_path: Path) -> None:
    """A segment can only end where one begins: longer ones, an honest target duration, and a plea."""
    asked = []
    out = SegmentsOutput(PLAN, Depot(tmp_path), Hooks(request_key_frame=lambda: asked.append(1)))
    spec, packets = media.video(seconds=6, key_frame_s=3)
    out.open([spec], 0)
    for packet in packets:
        out.write(packet)
    await out.close()
    assert lines(tmp_path / "show" / "all.m3u8", "EXTINF") == ["3.000,"] * 2
    assert lines(tmp_path / "show" / "all.m3u8", "EXT-X-TARGETDURATION") == ["3"]
    assert asked


async def test_a_hole_and_new_parameters_are_discontinuities(tmp_path: Path) -> None:
    _, small = media.video(seconds=2)
    _, large = media.video(seconds=2, width=320, height=192)
    packets = [*small, *media.shifted(large, 2), *media.shifted(large, 10)]
    await record(Depot(tmp_path), packets)
    text = (tmp_path / "show" / "all.m3u8").read_text()
    steps = ["D" if "DISC" in line else "s" for line in text.splitlines() if "DISC" in line or "EXTINF" in line]
    assert "".join(steps) == "ssDssDss"
    assert lines(tmp_path / "show" / "all.m3u8", "EXTINF") == ["1.000,"] * 6
    assert Played(tmp_path / "show" / "all.m3u8").counts[0] == 180


async def test_starts_with_a_key_frame(tmp_path: Path) -> None:
    packets = both()
    _, result = await record(Depot(tmp_path), packets[40:])
    with av.open(str(tmp_path / "show" / "seg_00000.ts")) as container:
        assert next(container.demux(video=0)).is_keyframe
    assert result.segments[0].started_at == media.EPOCH_NS + 10**9


async def test_timestamps_in_names(tmp_path: Path) -> None:
    await record(Depot(tmp_path), both(), SegmentsPlan("a", "b/c.m3u8", segment_s=2, timestamps=True))
    assert sorted(os.listdir(tmp_path)) == ["a_20260921141320000.ts", "a_20260921141322000.ts", "b"]
    assert "../a_20260921141320000.ts" in (tmp_path / "b/c.m3u8").read_text()


def test_live_window() -> None:
    playlist = Playlist("live.m3u8", 4, window=3)
    for index in range(6):
        playlist.add(Entry(f"s {index}.ts", 4_000_000_000, 0, discontinuity=index == 1))
    text = playlist.text()
    assert "#EXT-X-MEDIA-SEQUENCE:3\n" in text
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1\n" in text
    assert re.findall(r"^[^#].*", text, re.MULTILINE) == ["s%203.ts", "s%204.ts", "s%205.ts"]
    assert "ENDLIST" not in text
    assert "PLAYLIST-TYPE" not in text


class Moody(DirectoryStorage):
    """A storage that is away for a while."""

    def __init__(self, root: Path, refusals: int) -> None:
        super().__init__(root)
        self.refusals = refusals
        self.seen: list[tuple[str, str]] = []

    async def put(self, name: str, path: Path, content_type: str) -> str:
        if self.refusals:
            self.refusals -= 1
            raise StorageError("s3: answered 500")
        text = path.read_text() if name.endswith("m3u8") else ""  # noqa: ASYNC240
        self.seen.append((name, text))
        return await super().put(name, path, content_type)


async def test_a_segment_is_listed_once_it_can_be_fetched(tmp_path: Path) -> None:
    storage = Moody(tmp_path / "far", 0)
    _, result = await record(Depot(tmp_path / "near", storage), both())
    there: set[str] = set()
    for name, text in storage.seen:
        there.add(name)
        assert {f"show/{line}" for line in re.findall(r"^[^#].*", text, re.MULTILINE)} <= there
    assert result.segments[0].playlist_location == str(tmp_path / "far/show/all.m3u8")
    assert not any(names for _, _, names in os.walk(tmp_path / "near"))
    ffmpeg_is_content(tmp_path / "far/show/all.m3u8")


async def test_a_storage_that_comes_back_gets_all_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tertulia.egress.outputs.hls.RETRY_S", (0.0,))
    storage = Moody(tmp_path / "far", 3)
    out = SegmentsOutput(PLAN, Depot(tmp_path / "near", storage))
    packets = both()
    out.open([media.video(global_header=True)[0], media.audio()[0]], 0)
    for packet in packets:
        out.write(packet)
    async with asyncio.timeout(20):
        while storage.refusals:  # noqa: ASYNC110 (the lane's thread is at work)
            await asyncio.sleep(0.001)
    await out.close()
    assert out.failed is None
    assert out.result().segments[0].segment_count == 4
    names = [name for name, _ in storage.seen if name.endswith(".ts")]
    assert names == sorted(names)


async def test_a_storage_that_stays_away_leaves_the_segments_here(tmp_path: Path) -> None:
    out, result = await record(Depot(tmp_path, Moody(tmp_path / "far", 10**6)), both())
    assert out.failed == f"upload failed: 4 segments are kept in {tmp_path / 'show'}"
    assert len(list((tmp_path / "show").glob("*.ts"))) == 4
    assert [stored.error for stored in result.stored] == ["not uploaded"] * 4


async def test_backup_storage(tmp_path: Path) -> None:
    backup = DirectoryStorage(tmp_path / "backup")
    out, result = await record(Depot(tmp_path, Moody(tmp_path / "far", 10**6), backup), both())
    assert out.failed is None
    assert result.backup_storage_used
    assert result.segments[0].playlist_location == str(tmp_path / "backup/show/all.m3u8")
    ffmpeg_is_content(tmp_path / "backup/show/all.m3u8")


async def test_what_hls_cannot_hold(tmp_path: Path) -> None:
    out = SegmentsOutput(PLAN, Depot(tmp_path))
    out.open([media.video("vp8")[0]], 0)
    await out.close()
    assert out.failed == "HLS segments cannot hold vp8"


async def test_names_that_clash_or_leave(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="live_playlist_name"):
        SegmentsOutput(SegmentsPlan("a", "b.m3u8", "b.m3u8"), Depot(tmp_path))
    with pytest.raises(RequestError, match="leaves"):
        SegmentsOutput(SegmentsPlan("../a", "b.m3u8"), Depot(tmp_path))


async def test_disk_full_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, left = _TsSink._put, [60_000]

    def full(self: _TsSink, view: memoryview) -> None:
        take = view[: left[0]]
        put(self, take)
        left[0] -= len(take)
        if len(take) < len(view):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(_TsSink, "_put", full)
    out, result = await record(Depot(tmp_path), both())
    assert out.failed == "the disk is full"
    assert result.segments[0].segment_count >= 1
    assert Played(tmp_path / "show/all.m3u8").counts[0] >= 20
    assert lines(tmp_path / "show/all.m3u8", "EXT-X-ENDLIST") == [""]
