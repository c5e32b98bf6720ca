"""A disk that is really full: a file system of 2 MB."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.hls import SegmentsOutput, SegmentsPlan
from tertulia.egress.outputs.upload import Depot
from tests.unit.egress_outputs import media
from tests.unit.egress_outputs.test_files import Played, ffmpeg_is_content

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("mount") is None, reason="mounting needs root"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False)
    if done.returncode:
        pytest.skip("no mounts here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "all.m3u8"])
async def test_what_fitted_can_be_played(small_disk: Path, name: str) -> None:
    (video_spec, video), (audio_spec, audio) = media.video(seconds=8, bit_rate=8_000_000), media.audio(seconds=8)
    depot = Depot(small_disk)
    out = SegmentsOutput(SegmentsPlan("s", name, segment_s=1), depot) if "m3u" in name else FileOutput(name, depot)
    out.open([video_spec, audio_spec], media.EPOCH_NS)
    for packet in media.interleave(video, audio):
        out.write(packet)
    await out.close()
    assert out.failed == "the disk is full"
    played = Played(small_disk / name)
    assert played.counts[0] >= 60
    ffmpeg_is_content(small_disk / name, cut=True)


async def test_a_disk_full_from_the_start(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"\0" * (2 << 20))
    spec, packets = media.video()
    out = FileOutput("deep/a.mp4", Depot(small_disk))
    out.open([spec], 0)
    for packet in packets:
        out.write(packet)
    await out.close()
    assert out.failed == "the disk is full"
    assert out.result().files[0].size == 0
