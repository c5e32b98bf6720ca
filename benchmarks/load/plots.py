"""Line plots as SVG, written by hand: axes, grid, a line per series, a legend. No scripts, no libraries.

Nothing is measured here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 50
COLOURS = ("#1f6feb", "#d1570c", "#1a7f37", "#8250df", "#bf3989", "#6e7781")


@dataclass(frozen=True, slots=True)
class Series:
    """One line."""

    name: str
    points: Sequence[tuple[float, float]]


def line_plot(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> str:
    """An SVG document. The x axis is logarithmic when sizes span more than a factor of 20; y begins at 0."""
    series = [one for one in series if one.points]
    xs = sorted({x for one in series for x, _ in one.points})
    ys = [y for one in series for _, y in one.points]
    if not xs:
        return _document(title, [_text(WIDTH / 2, HEIGHT / 2, "no data", "middle")])
    logarithmic = xs[0] > 0 and xs[-1] / xs[0] > 20
    top = nice_top(max(ys))

    def place_x(x: float) -> float:
        if len(xs) == 1:
            return LEFT + (WIDTH - LEFT - RIGHT) / 2
        low, high = (math.log(xs[0]), math.log(xs[-1])) if logarithmic else (xs[0], xs[-1])
        return LEFT + ((math.log(x) if logarithmic else x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def place_y(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = []
    for index in range(6):
        value = top * index / 5
        y = place_y(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", "end"))
    last = -math.inf
    for x in xs:
        if place_x(x) - last >= 26:
            last = place_x(x)
            parts.append(_text(last, HEIGHT - BOTTOM + 18, f"{x:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name, "middle"))
    parts.append(
        f'<text x="16" y="{HEIGHT / 2:.0f}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2:.0f})">'
        f"{escape(y_name)}</text>"
    )
    for index, one in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        points = [(place_x(x), place_y(y)) for x, y in sorted(one.points)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = TOP + 10 + 18 * index
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 32, y, one.name, "start"))
    return _document(title, parts)


def nice_top(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#1f2328">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>'
    )
    return head + "".join(parts) + "</svg>\n"
