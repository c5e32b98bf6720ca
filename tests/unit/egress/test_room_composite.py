"""RoomComposite from request to file: right tiles, right times, through what people do in a call."""

import os
from pathlib import Path

import pytest
from livekit.protocol import egress

from tests.unit.egress.bench import Bench, near, play
from tests.unit.egress.studio import BLUE, GREEN, RED, YELLOW, camera, microphone


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
    assert file.size == os.path.getsize(file.location)
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
