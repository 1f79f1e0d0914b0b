"""Places and directions on a chart in words: degrees on the globe, sides and coordinates on a plane."""

from __future__ import annotations

import numpy as np

from pipeline.captioners.narration.chart import Chart
from pipeline.captioners.narration.rounding import binned, rounded, smaller


def place(chart: Chart, row: float, column: float) -> str:
    """Where a cell lies: degrees on the globe, which ninth and the coordinates on a plane."""
    y = float(np.interp(row, np.arange(len(chart.y)), chart.y))
    columns = np.arange(len(chart.x) + 1)
    x = float(np.interp(column % len(chart.x) if chart.periodic else column, columns, [*chart.x, chart.x[0] + 360]))
    if chart.geographic:
        return f"at {latitude(y, chart.grain)} {longitude(x, chart.grain)}"
    vertical = binned(row / max(1, len(chart.y) - 1), (1 / 3, 2 / 3), ("lower", "middle", "upper"))
    horizontal = binned(column / max(1, len(chart.x) - 1), (1 / 3, 2 / 3), ("left", "centre", "right"))
    return f"at {vertical} {horizontal} (x {rounded(x, chart.grains[1]):g} y {rounded(y, chart.grains[0]):g})"


def movement(chart: Chart, rows: float, columns: float, still: str) -> str:
    """A displacement in cells as degrees east and north, or right and up in the axes' units."""
    steps = (chart.step, chart.step) if chart.geographic else tuple(smaller(grain) for grain in chart.grains)
    up = rounded(rows * chart.extent[0] / len(chart.y), steps[0])
    along = rounded(columns * chart.extent[1] / len(chart.x), steps[1])
    names = (("east", "west"), ("north", "south")) if chart.geographic else (("right", "left"), ("up", "down"))
    parts = [f"{abs(value):g} {pair[value < 0]}" for value, pair in zip((along, up), names, strict=True) if value]
    return " and ".join(parts) or still


def direction(chart: Chart, up: float, along: float) -> str:
    """One of eight directions of a vector."""
    vertical, horizontal = (
        (("north", "south"), ("east", "west")) if chart.geographic else (("up", "down"), ("right", "left"))
    )
    eighth = round(np.degrees(np.arctan2(up, along)) / 45) % 8
    first = vertical[0] if eighth in (1, 2, 3) else vertical[1] if eighth in (5, 6, 7) else ""
    second = horizontal[0] if eighth in (7, 0, 1) else horizontal[1] if eighth in (3, 4, 5) else ""
    return first + second if chart.geographic else " and ".join(filter(None, (first, second)))


def latitude(degrees: float, grain: float) -> str:
    value = rounded(degrees, grain)
    return f"{abs(value):g}{'NS'[value < 0]}"


def longitude(degrees: float, grain: float) -> str:
    """Degrees east or west of Greenwich, whatever the grid counts from; the date line is 180E."""
    value = rounded((degrees + 180) % 360 - 180, grain)
    return f"{abs(value):g}{'EW'[-180 < value < 0]}"
