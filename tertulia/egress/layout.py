"""Pictures on a canvas: which rectangle each of n tiles gets.

Decides geometry only, in pixels, all numbers even (chroma planes have half the size). Names and shapes follow the
default template of LiveKit's egress: `grid`, `speaker`, `single-speaker`, each also with `-light` and `-dark`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Shape = Literal["grid", "speaker", "single-speaker"]
Theme = Literal["dark", "light"]

GAP = 8
SIDE_TILES = 3
"""People beside the speaker."""
SPEAKER_LEAST = 180
"""On a canvas smaller than this there is no room beside the speaker."""

# columns = rows (two tiles are a pair), how many tiles, and the width below which the next smaller grid is taken
_GRIDS = ((1, 1, 0), (2, 2, 160), (2, 4, 560), (3, 9, 700), (4, 16, 960), (5, 25, 1100))
GRID_LIMIT = 25


class Rect(NamedTuple):
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Layout:
    shape: Shape
    theme: Theme


def parse_layout(name: str) -> Layout:
    """Any name is a layout, as in LiveKit: what is not known is a grid."""
    theme: Theme = "light" if name.endswith("-light") else "dark"
    if name.startswith("single-speaker"):
        return Layout("single-speaker", theme)
    return Layout("speaker" if name.startswith("speaker") else "grid", theme)


def capacity(shape: Shape, width: int, height: int) -> int:
    """How many tiles can be seen at once."""
    match shape:
        case "single-speaker":
            return 1
        case "speaker":
            return 1 + SIDE_TILES if min(width, height) >= SPEAKER_LEAST else 1
        case "grid":
            return max(count for _, count, least in _GRIDS if max(width, height) >= least)


def rectangles(shape: Shape, tiles: int, width: int, height: int) -> list[Rect]:
    """The rectangle of each tile that fits, the most important first; a tile alone has the whole canvas."""
    tiles = min(tiles, capacity(shape, width, height))
    if tiles == 0:
        return []
    if tiles == 1:
        return [Rect(0, 0, width, height)]
    return _speaker(tiles, width, height) if shape == "speaker" else _grid(tiles, width, height)


def inside(rect: Rect, source_width: int, source_height: int) -> Rect:
    """The largest rectangle with the source's shape that fits in `rect`, in its middle (contain)."""
    if source_width * rect.height >= source_height * rect.width:
        width, height = rect.width, _even(rect.width * source_height // source_width)
    else:
        width, height = _even(rect.height * source_width // source_height), rect.height
    width, height = max(2, min(width, rect.width)), max(2, min(height, rect.height))
    return Rect(rect.x + _even((rect.width - width) // 2), rect.y + _even((rect.height - height) // 2), width, height)


def crop(source_width: int, source_height: int, width: int, height: int) -> Rect:
    """The part of the source, as large as possible and from its middle, with the shape of width x height (cover)."""
    if source_width * height >= source_height * width:
        part_width, part_height = _even(source_height * width // height), source_height
    else:
        part_width, part_height = source_width, _even(source_width * height // width)
    part_width, part_height = max(2, min(part_width, source_width)), max(2, min(part_height, source_height))
    x, y = _even((source_width - part_width) // 2), _even((source_height - part_height) // 2)
    return Rect(x, y, part_width, part_height)


def _grid(tiles: int, width: int, height: int) -> list[Rect]:
    if tiles == 2:
        columns, rows = (2, 1) if width >= height else (1, 2)
    else:
        columns = next(side for side, count, _ in _GRIDS if count >= tiles)
        rows = -(-tiles // columns)
        if height > width:
            columns, rows = rows, columns
    tile_width = _even((width - GAP * (columns + 1)) // columns)
    tile_height = _even((height - GAP * (rows + 1)) // rows)
    left = _even((width - columns * tile_width - GAP * (columns - 1)) // 2)
    top = _even((height - rows * tile_height - GAP * (rows - 1)) // 2)
    rects = []
    for index in range(tiles):
        row, column = divmod(index, columns)
        in_row = min(columns, tiles - row * columns)
        # An unfinished last row stands in the middle.
        indent = _even((columns - in_row) * (tile_width + GAP) // 2)
        rects.append(
            Rect(left + indent + column * (tile_width + GAP), top + row * (tile_height + GAP), tile_width, tile_height)
        )
    return rects


def _speaker(tiles: int, width: int, height: int) -> list[Rect]:
    """A column of side tiles (a sixth of the width, 16:10) to the left; upright canvases have it as a row on top."""
    side = tiles - 1
    if width >= height:
        column = _even((width - 3 * GAP) // 6)
        tile_height = _even(min(column * 10 // 16, (height - GAP * (side + 1)) // side))
        main = Rect(column + 2 * GAP, GAP, _even(width - column - 3 * GAP), _even(height - 2 * GAP))
        return [main] + [Rect(GAP, GAP + i * (tile_height + GAP), column, tile_height) for i in range(side)]
    tile_width = _even((width - GAP * (SIDE_TILES + 1)) // SIDE_TILES)
    tile_height = _even(tile_width * 10 // 16)
    top = tile_height + 2 * GAP
    main = Rect(GAP, top, _even(width - 2 * GAP), _even(height - top - GAP))
    return [main] + [Rect(GAP + i * (tile_width + GAP), GAP, tile_width, tile_height) for i in range(side)]


def _even(value: int) -> int:
    return value & ~1
