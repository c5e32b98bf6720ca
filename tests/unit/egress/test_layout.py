"""Geometry: tiles are even, inside the canvas and apart from each other."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia.egress.layout import GAP, Rect, capacity, crop, inside, parse_layout, rectangles

SIZES = [(1280, 720), (1920, 1080), (720, 1280), (640, 360), (320, 240), (16, 16), (1080, 1080)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", ["grid", "speaker", "single-speaker"])
@pytest.mark.parametrize("tiles", [0, 1, 2, 3, 4, 5, 9, 10, 25, 40])
def test_tiles_fit(shape: str, size: tuple[int, int], tiles: int) -> None:
    width, height = size
    rects = rectangles(shape, tiles, width, height)  # type: ignore[arg-type]
    assert len(rects) == min(tiles, capacity(shape, width, height))  # type: ignore[arg-type]
    for rect in rects:
        assert all(value % 2 == 0 for value in rect)
        assert rect.x >= 0
        assert rect.y >= 0
        assert rect.x + rect.width <= width
        assert rect.y + rect.height <= height
    for a, b in combinations(rects, 2):
        apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
        assert apart
    least = 24 if min(size) >= 240 else 2
    assert all(rect.width >= least and rect.height >= least for rect in rects)


def test_known_pictures() -> None:
    assert rectangles("grid", 1, 1280, 720) == [Rect(0, 0, 1280, 720)]
    assert rectangles("grid", 4, 1280, 720)[3] == Rect(8 + 628 + GAP, 8 + 348 + GAP, 628, 348)
    two, upright = rectangles("grid", 2, 1280, 720), rectangles("grid", 2, 720, 1280)
    assert (two[0].y, two[1].y) == (8, 8)
    assert (upright[0].x, upright[1].x) == (8, 8)
    main, *side = rectangles("speaker", 3, 1280, 720)
    assert main.width > 4 * side[0].width
    assert all(rect.x < main.x for rect in side)


@pytest.mark.parametrize(
    ("name", "shape", "theme"),
    [
        ("", "grid", "dark"), ("grid-light", "grid", "light"), ("speaker", "speaker", "dark"),
        ("speaker-light", "speaker", "light"), ("single-speaker", "single-speaker", "dark"),
        ("single-speaker-light", "single-speaker", "light"), ("whatever", "grid", "dark"),
        ("speaker-dark", "speaker", "dark"),
    ],
)  # fmt: skip
def test_names(name: str, shape: str, theme: str) -> None:
    layout = parse_layout(name)
    assert (layout.shape, layout.theme) == (shape, theme)


sides = st.integers(2, 4000)
even = st.integers(1, 1000).map(lambda half: half * 2)


@given(sides, sides, even, even)
def test_contain_and_cover_stay_inside(source_width: int, source_height: int, width: int, height: int) -> None:
    rect = Rect(10, 20, width, height)
    whole = inside(rect, source_width, source_height)
    assert whole.width <= width
    assert whole.height <= height
    assert whole.x >= rect.x
    assert whole.x + whole.width <= rect.x + width
    assert whole.y + whole.height <= rect.y + height
    part = crop(source_width, source_height, width, height)
    assert part.x + part.width <= source_width
    assert part.y + part.height <= source_height
