"""The canvas and the mixer: pixels where they belong, sums that do not break."""

import av
import numpy as np
import pytest

from tertulia.egress.compose import Canvas, TilePainter, planes_of
from tertulia.egress.layout import Rect
from tertulia.egress.mixer import Mixer
from tertulia.egress.timeline import Placement
from tests.unit.egress.studio import BLUE, RED


def quarters(width: int, height: int) -> av.VideoFrame:
    """Luma 40, 80, 120, 160 in the four quarters."""
    frame = av.VideoFrame(width, height, "yuv420p")
    luma, cb, cr = planes_of(frame)
    for index in range(4):
        y, x = index // 2 * height // 2, index % 2 * width // 2
        luma[y : y + height // 2, x : x + width // 2] = 40 + 40 * index
    cb[:], cr[:] = 128, 128
    return frame


def luma_of(canvas: Canvas) -> np.ndarray:
    return planes_of(canvas.frame)[0]


@pytest.mark.parametrize("size", [(320, 180), (640, 360), (330, 186), (160, 90), (1280, 720), (318, 178)])
def test_any_size_fills_the_tile(size: tuple[int, int]) -> None:
    canvas = Canvas(640, 360)
    rect = Rect(100, 50, 320, 180)
    TilePainter(rect, "fill", "dark").paint(canvas, quarters(*size))
    luma = luma_of(canvas)
    for index, (x, y) in enumerate(((110, 60), (410, 60), (110, 220), (410, 220))):
        assert abs(int(luma[y, x]) - (40 + 40 * index)) <= 2
    assert luma[49, 200] == 16
    assert luma[50, 200] != 16
    assert luma[229, 200] != 16
    assert luma[230, 200] == 16
    assert luma[100, 99] == 16
    assert luma[100, 420] == 16


def test_fill_cuts_and_whole_keeps() -> None:
    square = quarters(400, 400)
    canvas = Canvas(640, 360)
    TilePainter(Rect(0, 0, 640, 360), "fill", "dark").paint(canvas, square)
    assert luma_of(canvas)[5, 5] == 40
    TilePainter(Rect(0, 0, 640, 360), "whole", "light").paint(canvas, square)
    luma = luma_of(canvas)
    assert luma[5, 5] == 235
    assert luma[5, 145] == 40
    assert luma[355, 495] == 160


def test_upright_pictures_are_never_cut() -> None:
    canvas = Canvas(640, 360)
    TilePainter(Rect(0, 0, 640, 360), "fill", "dark").paint(canvas, quarters(180, 320))
    assert luma_of(canvas)[100, 100] == 16
    assert luma_of(canvas)[100, 300] == 40


def test_other_pixel_formats_are_converted() -> None:
    rgb = np.zeros((180, 320, 3), np.uint8)
    rgb[:, :, 0] = 255
    canvas = Canvas(320, 180)
    TilePainter(canvas.whole, "fill", "dark").paint(canvas, av.VideoFrame.from_ndarray(rgb, format="rgb24"))
    luma, cb, cr = planes_of(canvas.frame)
    assert all(abs(int(a) - b) < 6 for a, b in zip((luma[90, 90], cb[45, 45], cr[45, 45]), RED, strict=True))


def test_a_copy_is_not_changed_by_what_follows() -> None:
    canvas = Canvas(64, 36)
    canvas.fill(canvas.whole, RED)
    still = canvas.copy()
    canvas.fill(canvas.whole, BLUE)
    assert planes_of(still)[0][0, 0] == RED[0]


def tone(level: int, count: int = 960) -> np.ndarray:
    return np.full((count, 2), level, np.int16)


def test_voices_add_up_where_they_belong() -> None:
    mixer = Mixer()
    mixer.add(tone(1000), Placement(0, 0, 960))
    mixer.add(tone(500), Placement(480, 0, 960))
    mixer.add(tone(100), Placement(960, 0, 960), channel="left")
    block = mixer.take(1920)
    assert block[0].tolist() == [1000, 1000]
    assert block[500].tolist() == [1500, 1500]
    assert block[1000].tolist() == [600, 500]
    assert block[1500].tolist() == [100, 0]
    assert mixer.position == 1920


def test_what_is_too_late_or_too_far_ahead_is_counted() -> None:
    mixer = Mixer()
    mixer.take(960)
    mixer.add(tone(1000), Placement(480, 0, 960))
    mixer.add(tone(1000), Placement(0, 0, 960))
    mixer.add(tone(1000), Placement(48_000 * 60, 0, 960))
    assert (mixer.late, mixer.ahead) == (2, 1)
    block = mixer.take(960)
    assert block[0, 0] == 1000
    assert block[500, 0] == 0


def test_shouting_together_is_turned_down_not_clipped() -> None:
    mixer = Mixer()
    at = np.arange(960)
    peaks = []
    for block in range(90):
        wave = (np.sin(2 * np.pi * 500 * (at + block * 960) / 48_000) * 30_000).astype(np.int16)
        voices = 3 if block < 10 else 1
        for _ in range(voices):
            mixer.add(np.repeat(wave, 2).reshape(-1, 2), Placement(block * 960, 0, 960))
        out = mixer.take(960)
        peaks.append(int(np.abs(out).max()))
        assert np.mean(np.abs(out) >= 32_700) < 0.01
    assert peaks[-1] == pytest.approx(30_000, rel=0.02)  # and up again when one is left


def test_stretching_keeps_the_sound() -> None:
    mixer = Mixer()
    wave = (np.sin(2 * np.pi * 500 * np.arange(960) / 48_000) * 10_000).astype(np.int16)
    mixer.add(np.repeat(wave, 2).reshape(-1, 2), Placement(0, 0, 962))
    block = mixer.take(962)
    expected = np.sin(2 * np.pi * 500 * np.arange(962) * 959 / 961 / 48_000) * 10_000
    assert np.abs(block[:, 0] - expected).max() < 150
