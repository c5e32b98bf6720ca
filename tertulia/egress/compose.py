"""Pictures onto a canvas (imports av and numpy: import this module lazily).

Decides how a picture is brought to its tile: copied where the sizes are close, scaled by libswscale where not. One
yuv420p canvas is kept and only what changed is painted; where tiles stand is `layout`'s business.
"""

from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from tertulia.egress.layout import Rect, Theme, crop, inside

Plane = npt.NDArray[np.uint8]
Fit = Literal["whole", "fill"]

CUT_INSTEAD_OF_SCALE = 1.06
"""A picture this much larger than its tile is cut, not scaled: cheaper, and sharper."""

BLACK, WHITE = (16, 128, 128), (235, 128, 128)
_BACKGROUND: dict[Theme, tuple[int, int, int]] = {"dark": BLACK, "light": WHITE}
_EMPTY_TILE: dict[Theme, tuple[int, int, int]] = {"dark": (36, 130, 127), "light": (208, 128, 128)}
_SILHOUETTE: dict[Theme, tuple[int, int, int]] = {"dark": (78, 130, 127), "light": (160, 128, 128)}


def planes_of(frame: av.VideoFrame) -> tuple[Plane, Plane, Plane]:
    """The three planes as arrays, without the padding at the end of lines; writing to them writes to the frame."""
    width, height = frame.width, frame.height
    found = []
    for index, plane in enumerate(frame.planes[:3]):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        shift = 0 if index == 0 else 1
        found.append(rows[: (height + shift) >> shift, : (width + shift) >> shift])
    return found[0], found[1], found[2]


class Canvas:
    """The picture that is encoded; `frame` stays the same object."""

    def __init__(self, width: int, height: int) -> None:
        self.frame = av.VideoFrame(width, height, "yuv420p")
        self._planes = planes_of(self.frame)
        self.whole = Rect(0, 0, width, height)
        self.clear("dark")

    def copy(self) -> av.VideoFrame:
        """The picture as it is now, for somebody who keeps it."""
        still = av.VideoFrame(self.whole.width, self.whole.height, "yuv420p")
        for to, plane in zip(planes_of(still), self._planes, strict=True):
            to[:] = plane
        return still

    def clear(self, theme: Theme) -> None:
        self.fill(self.whole, _BACKGROUND[theme])

    def fill(self, rect: Rect, colour: tuple[int, int, int]) -> None:
        for plane, part, value in zip(self._planes, _parts(rect), colour, strict=True):
            plane[part] = value

    def placeholder(self, rect: Rect, theme: Theme) -> None:
        """Somebody is there whose camera is off."""
        self.fill(rect, _EMPTY_TILE[theme])
        tone = _SILHOUETTE[theme]
        unit = min(rect.width, rect.height)
        for index, plane in enumerate(self._planes):
            scale = 1 if index == 0 else 2
            tile = plane[_parts(rect)[index]]
            tile[_silhouette(tile.shape[0], tile.shape[1], unit / scale)] = tone[index]

    def paint(self, picture: av.VideoFrame, rect: Rect) -> None:
        """Copy a yuv420p picture of the rectangle's size or larger, its middle."""
        part = Rect((picture.width - rect.width) // 2 & ~1, (picture.height - rect.height) // 2 & ~1, *rect[2:])
        for plane, source, to, cut in zip(self._planes, planes_of(picture), _parts(rect), _parts(part), strict=True):
            plane[to] = source[cut]


class TilePainter:
    """Brings one track's pictures to one tile."""

    def __init__(self, rect: Rect, fit: Fit, theme: Theme) -> None:
        self.rect = rect
        self._fit: Fit = fit
        self._theme: Theme = theme
        self._scaler = VideoReformatter()
        self._shown: Rect | None = None

    def blank(self, canvas: Canvas) -> None:
        self._shown = None
        canvas.placeholder(self.rect, self._theme)

    def paint(self, canvas: Canvas, picture: av.VideoFrame) -> None:
        where = self.rect
        if self._fit == "whole" or picture.height > picture.width:
            where = inside(self.rect, picture.width, picture.height)
        if where != self._shown and where != self.rect:
            canvas.fill(self.rect, _BACKGROUND[self._theme])
        self._shown = where
        canvas.paint(self._scaled(picture, where), where)

    def _scaled(self, picture: av.VideoFrame, where: Rect) -> av.VideoFrame:
        if picture.format.name == "yuv420p" and _close(picture.width, picture.height, where):
            return picture
        part = crop(picture.width, picture.height, where.width, where.height)
        width = max(where.width, round(picture.width * where.width / part.width / 2) * 2)
        height = max(where.height, round(picture.height * where.height / part.height / 2) * 2)
        return self._scaler.reformat(picture, width, height, "yuv420p", interpolation="BILINEAR", threads=1)


def _close(width: int, height: int, rect: Rect) -> bool:
    return (
        rect.width <= width <= rect.width * CUT_INSTEAD_OF_SCALE
        and rect.height <= height <= rect.height * CUT_INSTEAD_OF_SCALE
    )


def _parts(rect: Rect) -> tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]:
    luma = slice(rect.y, rect.y + rect.height), slice(rect.x, rect.x + rect.width)
    half = slice(rect.y // 2, (rect.y + rect.height) // 2), slice(rect.x // 2, (rect.x + rect.width) // 2)
    return luma, half, half


def _silhouette(height: int, width: int, unit: float) -> npt.NDArray[np.bool_]:
    """A head and shoulders in the middle of the tile."""
    y, x = np.ogrid[0:height, 0:width]
    middle_y, middle_x = height / 2, width / 2
    head = (x - middle_x) ** 2 + (y - (middle_y - 0.10 * unit)) ** 2 < (0.11 * unit) ** 2
    below = y - (middle_y + 0.22 * unit)
    shoulders = ((x - middle_x) / 0.21) ** 2 + (below / 0.17) ** 2 < unit**2
    found: npt.NDArray[np.bool_] = head | (shoulders & (below < 0))
    return found
