"""Geometry of the report's line charts and map axes; the template turns it into SVG.

All lengths are in the SVG's own units, which a narrow screen shows at about one pixel each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.store import Grid

WIDTH, HEIGHT = 350, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 38  # margins
CATEGORY = 0.5  # of a category's width, over which its points are spread
MOST_TICKS = 6  # up to so many distinct places each have a tick
ROUND, WHOLE, DEGREES = (1, 2, 2.5, 5, 10), (1, 2, 5, 10), (1, 2, 3, 6, 9, 10)  # distances of ticks
MAP_WIDTH, MAP_LEFT, MAP_BOTTOM, MAP_MARGIN = 260, 34, 18, 6


@dataclass(frozen=True)
class Series:
    """A line before it is placed. style: the CSS class that colours it. spread: of each y, to both sides."""

    name: str
    style: str
    x: ArrayLike
    y: ArrayLike
    spread: ArrayLike = 0.0


@dataclass(frozen=True)
class Tick:
    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """whiskers: x, top and bottom of each. joined: whether the points are."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]
    whiskers: tuple[tuple[float, float, float], ...] = ()
    joined: bool = True

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """A placed line chart; `summary` is what a screen reader says. mark: where a vertical line stands, or None."""

    title: str
    x_label: str
    y_label: str
    summary: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    markers: bool
    mark: float | None = None

    @property
    def legend(self) -> list[Line]:
        """One line for each name, in order."""
        return list({line.name: line for line in self.lines}.values())


@dataclass(frozen=True)
class Interval:
    """A difference on a scale that a table's rows share, in per cent of its width.

    low, high: the interval; outer_low, outer_high: a wider one; None without. beyond: whether the difference lies
    outside of the scale, to the left (-1) or right (1).
    """

    zero: float | None
    middle: float | None
    low: float | None
    high: float | None
    outer_low: float | None
    outer_high: float | None
    beyond: int


@dataclass(frozen=True)
class MapFrame:
    """The axes of a map: where its picture lies, and the ticks along it."""

    width: float
    height: float
    left: float
    top: float
    picture_width: float
    picture_height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log: bool = False,
    log_x: bool = False,
    markers: bool = False,
    mark: float | None = None,
) -> Chart:
    """Places `series` on linear or logarithmic axes; a logarithmic one shows values above 0 alone.

    mark: where on the x axis a vertical line stands.
    """
    kept = [_finite(one, log, log_x) for one in series]
    x, y = (np.concatenate([one[axis] for one in kept]) for axis in (0, 1))
    x_low, x_high = _limits(np.log10(x) if log_x else x, 0)
    y_low, y_high = _limits(np.log10(y) if log else y, 0.05)
    lines = []
    for one, (xs, ys) in zip(series, kept, strict=True):
        places = np.log10(xs) if log_x else xs
        heights = np.log10(ys) if log else ys
        points = [
            (_along_x(a, x_low, x_high), _along_y(b, y_low, y_high)) for a, b in zip(places, heights, strict=True)
        ]
        lines.append(Line(one.name, one.style, tuple(points)))
    x_ticks = [Tick(_along_x(place, x_low, x_high), _number(value)) for place, value in _x_values(x, log_x)]
    y_values = _log_values(y_low, y_high) if log else [(value, value) for value in _round_values(y_low, y_high, 5)]
    y_ticks = [Tick(_along_y(place, y_low, y_high), _number(value)) for place, value in y_values]
    names = ", ".join(dict.fromkeys(one.name for one in series))
    summary = f"{title}: {y_label} against {x_label} for {names}"
    at = None if mark is None else _along_x(mark, x_low, x_high)
    return Chart(title, x_label, y_label, summary, tuple(x_ticks), tuple(y_ticks), tuple(lines), markers, at)


def category_chart(
    title: str, x_label: str, y_label: str, categories: Sequence[str], series: Sequence[Series]
) -> Chart:
    """Points with whiskers beside each other above each category; x of `series` counts categories from 0."""
    ends = [np.asarray(one.y, dtype=float) + side * np.asarray(one.spread) for one in series for side in (-1, 1)]
    x_low, x_high = -0.5, len(categories) - 0.5
    y_low, y_high = _limits(np.concatenate(ends), 0.05)
    lines = []
    for number, one in enumerate(series):
        beside = CATEGORY * (number - (len(series) - 1) / 2) / len(series)
        values, places = np.asarray(one.y, dtype=float), np.asarray(one.x, dtype=float) + beside
        columns = [_along_x(place, x_low, x_high) for place in places.tolist()]
        heights, tops, bottoms = (
            [_along_y(value, y_low, y_high) for value in (values + side * np.asarray(one.spread)).tolist()]
            for side in (0, 1, -1)
        )
        whiskers = tuple(zip(columns, tops, bottoms, strict=True))
        lines.append(Line(one.name, one.style, tuple(zip(columns, heights, strict=True)), whiskers, joined=False))
    x_ticks = tuple(Tick(_along_x(number, x_low, x_high), name) for number, name in enumerate(categories))
    y_ticks = tuple(Tick(_along_y(value, y_low, y_high), _number(value)) for value in _round_values(y_low, y_high, 5))
    names = ", ".join(one.name for one in series)
    summary = f"{title}: {y_label} for {names}, by {x_label}: {', '.join(categories)}"
    return Chart(title, x_label, y_label, summary, x_ticks, y_ticks, tuple(lines), markers=True)


Ends = tuple[float, float | None, float | None, float | None, float | None]


def intervals(rows: Sequence[Ends], scaled: Sequence[bool]) -> list[Interval]:
    """Rows of (difference, low, high, outer low, outer high) on one linear scale that holds zero.

    scaled: which rows the scale must hold; the others are cut at its ends.
    """
    chosen = [row for row, inside in zip(rows, scaled, strict=True) if inside] or rows
    values = [0.0, *(value for row in chosen for value in row if value is not None)]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float | None) -> float | None:
        return None if value is None else min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    found = []
    for row in rows:
        middle, inner_low, inner_high, outer_low, outer_high = (place(end) for end in row)
        beyond = int(row[0] > high) - int(row[0] < low)
        found.append(Interval(place(0.0), middle, inner_low, inner_high, outer_low, outer_high, beyond))
    return found


def map_frame(grid: Grid) -> MapFrame:
    """Axes for a picture of `grid` with a pixel per cell; cells are taken as evenly spaced."""
    x_low, x_high = _edges(grid.x)
    y_low, y_high = _edges(grid.y)
    ratio = (y_high - y_low) / (x_high - x_low)
    if grid.geographic and not grid.periodic:
        ratio /= math.cos(math.radians((y_low + y_high) / 2))  # a region keeps its shape
    width = MAP_WIDTH - MAP_LEFT - MAP_MARGIN
    height = width * min(max(ratio, 0.25), 2)
    columns = [
        Tick(
            MAP_LEFT + width * (value - x_low) / (x_high - x_low),
            _longitude(value) if grid.geographic else _number(value),
        )
        for value in _round_values(x_low, x_high, 4, DEGREES if grid.geographic else ROUND)
    ]
    rows = [
        Tick(
            MAP_MARGIN + height * (y_high - value) / (y_high - y_low),
            _latitude(value) if grid.geographic else _number(value),
        )
        for value in _round_values(y_low, y_high, 4, DEGREES if grid.geographic else ROUND)
    ]
    total = MAP_MARGIN + height + MAP_BOTTOM
    return MapFrame(MAP_WIDTH, total, MAP_LEFT, MAP_MARGIN, width, height, tuple(columns), tuple(rows))


def _finite(series: Series, log: bool, log_x: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    kept = np.isfinite(y) & (y > 0 if log else True) & (x > 0 if log_x else True)
    return x[kept], y[kept]


def _x_values(x: np.ndarray, log: bool) -> list[tuple[float, float]]:
    """Places and values of the ticks: every place where they are few, else round numbers."""
    low, high = _limits(np.log10(x) if log else x, 0)
    if log:
        return _log_values(low, high)
    values = sorted(set(x.tolist()))
    if len(values) > MOST_TICKS:
        values = _round_values(low, high, 5, WHOLE)
    return [(value, value) for value in values]


def _limits(values: np.ndarray, margin: float) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low == high:
        return low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def _along_x(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _along_y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _round_values(low: float, high: float, count: int, steps: Sequence[float] = ROUND) -> list[float]:
    """About `count` round numbers between `low` and `high`; `steps` are their distances but for a power of ten."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(count, steps=steps).tick_values(low, high)
    return [float(value) for value in values if low - 1e-9 <= value <= high + 1e-9]


def _log_values(low: float, high: float) -> list[tuple[float, float]]:
    """Places and values of the ticks between two powers of ten: 1, 2, 5, ... or, over many decades, 1, 10, ..."""
    leading = (1, 2, 5) if high - low < 3 else (1,)
    if high - low < 0.6:
        return [(math.log10(value), value) for value in _round_values(10**low, 10**high, 4)]
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in leading]
    return [(math.log10(value), value) for value in values if low <= math.log10(value) <= high]


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _edges(centres: np.ndarray) -> tuple[float, float]:
    half = (centres[-1] - centres[0]) / (len(centres) - 1) / 2 if len(centres) > 1 else 0.5
    return float(centres[0] - half), float(centres[-1] + half)


def _longitude(value: float) -> str:
    east = (value + 180) % 360 - 180
    if east in (0, -180):
        return f"{abs(east):g}°"
    return f"{abs(east):g}°{'E' if east > 0 else 'W'}"


def _latitude(value: float) -> str:
    return f"{abs(value):g}°{'' if value == 0 else 'N' if value > 0 else 'S'}"
