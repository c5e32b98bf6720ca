"""Pictures: when, how large, under which name."""

import io
import os
from pathlib import Path

import av
from livekit.protocol import egress

from tertulia.egress.outputs.images import ImagesOutput, ImagesPlan
from tertulia.egress.outputs.upload import Depot
from tests.unit.egress_outputs import media
from tests.unit.egress_outputs.test_hls import Moody

SECOND = 1_000_000_000


async def record(depot: Depot, plan: ImagesPlan) -> ImagesOutput:
    out = ImagesOutput(plan, depot)
    out.open([], media.EPOCH_NS)
    for index in range(100):
        pts_ns = index * SECOND // 10
        if out.wants(pts_ns):
            out.picture(media._picture(index, 160, 96, noisy=False), pts_ns)
    await out.close()
    return out


async def test_one_picture_per_interval(tmp_path: Path) -> None:
    out = await record(Depot(tmp_path), ImagesPlan("shots/a", interval_s=2))
    assert out.failed is None
    assert sorted(os.listdir(tmp_path / "shots")) == [f"a_0000{i}.jpeg" for i in range(5)]
    [info] = out.result().images
    assert (info.filename_prefix, info.image_count) == ("shots/a", 5)
    assert (info.started_at, info.ended_at) == (media.EPOCH_NS, media.EPOCH_NS + 8 * SECOND)
    with av.open(io.BytesIO((tmp_path / "shots/a_00003.jpeg").read_bytes())) as picture:
        frame = next(picture.decode(video=0))
    assert (frame.width, frame.height) == (160, 96)
    brightness = frame.reformat(format="gray").to_ndarray().mean()
    whole = media._picture(60, 160, 96, noisy=False).reformat(format="gray").to_ndarray().mean()
    assert abs(brightness - whole) < 4


async def test_size_and_times_in_names(tmp_path: Path) -> None:
    suffix = egress.ImageFileSuffix.IMAGE_SUFFIX_TIMESTAMP
    await record(Depot(tmp_path), ImagesPlan("a", 5, 64, 48, suffix))
    names = sorted(os.listdir(tmp_path))
    assert names == ["a_20260921141320000.jpeg", "a_20260921141325000.jpeg"]
    with av.open(str(tmp_path / names[0])) as picture:
        assert (picture.streams.video[0].width, picture.streams.video[0].height) == (64, 48)


async def test_overwriting_one_name(tmp_path: Path) -> None:
    suffix = egress.ImageFileSuffix.IMAGE_SUFFIX_NONE_OVERWRITE
    storage = Moody(tmp_path / "far", 0)
    out = await record(Depot(tmp_path / "near", storage), ImagesPlan("a", 2, suffix=suffix))
    assert out.result().images[0].image_count == 5
    assert os.listdir(tmp_path / "far") == ["a.jpeg"]
    assert os.listdir(tmp_path / "near") == []


async def test_a_storage_that_refuses_keeps_pictures_here(tmp_path: Path) -> None:
    out = await record(Depot(tmp_path / "near", Moody(tmp_path / "far", 10**6)), ImagesPlan("a", 5))
    assert out.failed is not None
    assert out.failed.startswith("2 images were not uploaded; upload failed: s3: answered 500")
    assert len(os.listdir(tmp_path / "near")) == 2
