"""Line and scatter charts as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from html import escape
from itertools import islice

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 52
FAINT = 0.45
"""Opacity of a faint line."""
COLOURS = ("#2f6f9f", "#d1603d", "#4b8b3b", "#7a5195", "#b08900")
DASHES = ("", ' stroke-dasharray="8 3"', ' stroke-dasharray="2 3"', ' stroke-dasharray="9 3 2 3"')
"""Series beyond the last colour have the first ones again, and differ by the dashes of their lines and rings."""


class Scale(Enum):
    """The scale of an axis."""

    LINEAR = "linear"
    LOG = "log"
    """Logarithmic scale: equal ratios are equal lengths. Values of 0 and below are left out."""


MOST_DOTS = 400
"""Largest number of points of a faint line that are drawn as dots. More of them would overlap."""
MOST_POINTS = 4_000
"""Largest number of points of a line; a chart has no room for more."""
LONGEST_NAME = 90
"""The most characters of a series' name in the legend, which is a chart wide."""
MEANS = 25
"""The window of a smoothed line is the run's length divided by this."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: its points in order of x, and how it is drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    faint: bool = False
    """Whether the line is thin and pale, as for single values drawn with their mean."""
    marked: bool = False
    """Whether every point has a dot."""


def loss_chart(steps: Mapping[int, float], evaluations: Mapping[int, float], unit: str) -> str:
    """An SVG document with the loss of every step, their mean over the last steps, and the evaluation losses. Where
    there are more than MOST_POINTS steps, several are drawn as one point, their mean.

    The axis is logarithmic if all losses are above 0 and span more than a decade.

    Args:
        steps: the loss of each step, by its number, in the order of the steps.
        evaluations: the evaluation losses by the number of the step, in the order of the steps.
        unit: the unit of the losses; empty if they have none.
    """
    together = max(1, -(-len(steps) // MOST_POINTS))
    points = _together(steps, together)
    window = max(1, len(points) // MEANS)
    name = "step" if together == 1 else f"mean of {together} steps"
    series = [Series(name, points, faint=window > 1, marked=len(points) <= MOST_DOTS)]
    if window > 1:
        series.append(Series(f"mean of {window * together} steps", smooth(points, window)))
    after = _together(evaluations, max(1, -(-len(evaluations) // MOST_POINTS)))
    if after:
        series.append(Series("evaluation", after, marked=True))
    losses = [loss for _, loss in (*points, *after) if math.isfinite(loss)]
    lowest = min(losses, default=0.0)
    wide = lowest > 0 and max(losses) > 10 * lowest
    return line_chart("Loss", "step", unit or "loss", series, Scale.LOG if wide else Scale.LINEAR)


def _together(values: Mapping[int, float], count: int) -> list[tuple[float, float]]:
    """Points of a chart, one for every `count` consecutive values: their mean, at the last of them."""
    rest, points = iter(values.items()), []
    while some := list(islice(rest, count)):
        points.append((float(some[-1][0]), some[0][1] if count == 1 else sum(loss for _, loss in some) / len(some)))
    return points


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], scale: Scale = Scale.LINEAR) -> str:
    """An SVG document with the series over common axes; points that are not finite are left out.

    Args:
        title: the text above the chart.
        x_label: the text below the x axis.
        y_label: the text next to the y axis.
        series: the lines, the last one on top.
        scale: the scale of the y axis; a linear one includes 0.
    """
    drawn = [_finite(one) for one in series]
    if scale is Scale.LOG:
        drawn = [replace(one, points=[(x, y) for x, y in one.points if y > 0]) for one in drawn]
    points = [point for s in drawn for point in s.points] or [(0.0, 1.0 if scale is Scale.LOG else 0.0)]
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    if scale is Scale.LOG:
        y_ticks = log_ticks(min(y for _, y in points), max(y for _, y in points))
    else:
        y_ticks = ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1], scale)
    lines = [_line(frame, one, index) for index, one in enumerate(drawn)]
    return _document(title, _axes(frame, x_ticks, y_ticks, x_label, y_label), lines, drawn)


def scatter_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An SVG document with a dot for every point, over equal axes that begin at 0, and the line y = x. Points that are
    not finite are left out."""
    drawn = [_finite(one) for one in series]
    both = ticks(0.0, max((value for s in drawn for point in s.points for value in point), default=1.0))
    frame = _Frame(both[0], both[-1], both[0], both[-1])
    diagonal = (
        f'<line x1="{frame.x(both[0])}" y1="{frame.y(both[0])}" x2="{frame.x(both[-1])}" y2="{frame.y(both[-1])}" '
        'stroke="#999" stroke-dasharray="4 4"/>'
    )
    dots = [_dots(frame, one, index) for index, one in enumerate(drawn)]
    return _document(title, [*_axes(frame, both, both, x_label, y_label), diagonal], dots, drawn)


def points_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An SVG document with a dot for every point over independent axes, x from 0. Points that are not finite are left
    out."""
    drawn = [_finite(one) for one in series]
    points = [point for s in drawn for point in s.points] or [(1.0, 0.0)]
    x_ticks = ticks(0.0, max(x for x, _ in points))
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    dots = [_dots(frame, one, index) for index, one in enumerate(drawn)]
    return _document(title, _axes(frame, x_ticks, y_ticks, x_label, y_label), dots, drawn)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dashes(index: int) -> str:
    return DASHES[index // len(COLOURS) % len(DASHES)]


def _dots(frame: _Frame, series: Series, index: int) -> list[str]:
    """A disc for each point; a dashed ring for series that share a colour with an earlier one."""
    colour, dashes = _colour(index), _dashes(index)
    ring, disc = f'fill="none" stroke="{colour}" stroke-width="2"{dashes}', f'fill="{colour}" fill-opacity="0.6"'
    drawn = ring if dashes else disc
    return [f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="5" {drawn}/>' for x, y in series.points]


def _finite(series: Series) -> Series:
    return replace(series, points=[(x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y)])


def _document(title: str, axes: list[str], marks: Sequence[list[str]], series: Sequence[Series]) -> str:
    legend, bottom = _legend(series, LEFT + 8 * len(title))
    height = max(HEIGHT, bottom)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for group in (axes, *marks, legend):
        parts += group
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that span `low` to `high`, about six of them: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), 1e-290):
        span = max(abs(high), 1.0)
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil((low + span) / step)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that span `low` to `high`, both above 0: 1, 2 and 5 of every decade, or only 1 if there are many
    decades."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    parts = (1, 2, 5) if last - first <= 3 else (1,)
    found = [float(f"{part}e{power}") for power in range(first, last + 1) for part in parts]
    found = [value for value in found if math.isfinite(value) and value > 0]
    begin = max((index for index, value in enumerate(found) if value <= low), default=0)
    end = min((index for index, value in enumerate(found) if value >= high), default=len(found) - 1)
    if begin == end:  # one number, and round: a decade around it
        return [found[begin] / 10, found[begin], found[begin] * 10]
    return found[begin : end + 1]


def smooth(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of the last `window` ones."""
    result = []
    for index, (x, _) in enumerate(points):
        recent = [y for _, y in points[max(0, index - window + 1) : index + 1]]
        result.append((x, sum(recent) / len(recent)))
    return result


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    scale: Scale = Scale.LINEAR

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.scale is Scale.LOG:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)


def _axes(frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        parts.append(f'<text x="{frame.x(value)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(y_label)}</text>'
    )
    return parts


def _line(frame: _Frame, series: Series, index: int) -> list[str]:
    colour = _colour(index)
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in series.points)
    width, opacity = (1, FAINT) if series.faint else (2, 1)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" '
        f'stroke-linejoin="round"{_dashes(index)}/>'
    ]
    if series.marked:
        end = f'r="{1.6 if series.faint else 3.5}" fill="{colour}"/>'
        parts += [f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" {end}' for x, y in series.points]
    return parts


def _legend(series: Sequence[Series], left: int) -> tuple[list[str], int]:
    """The names of the series, and the lower end of them. Names that do not fit beside the title, which ends at `left`,
    are in rows below the chart. A name that is longer than a row is cut."""
    parts, x, y = [], WIDTH - RIGHT, 20
    for index, one in reversed(list(enumerate(series))):
        name = one.name if len(one.name) <= LONGEST_NAME else f"{one.name[: LONGEST_NAME - 1]}…"
        width = 7 * len(name) + 34
        if x - width < left:
            x, y, left = WIDTH - RIGHT, max(HEIGHT, y + 20), 0
        x -= width
        opacity = FAINT if one.faint else 1
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}" stroke="{_colour(index)}" stroke-width="3" '
            f'stroke-opacity="{opacity}"{_dashes(index)}/>'
        )
        parts.append(f'<text x="{x + 25}" y="{y + 4}">{escape(name)}</text>')
    return parts, y + 16
