"""What is measured on a chart: peaks and how they move, drift, waves and slopes, in rows and columns.

Rows and columns may be fractions of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.captioners.narration.chart import Array, Chart


@dataclass(frozen=True)
class Centre:
    """A high or low of the anomaly in the last frame. Rows and columns may be fractions."""

    row: float
    column: float
    sign: int  # +1 for a high, -1 for a low
    strength: float  # sign times the anomaly there, physical units; negative where no anomaly has that sign
    rows: float  # how far it came over the inputs, towards higher rows
    columns: float  # and towards higher columns
    growth: float  # relative growth of its magnitude over the inputs


def peak(values: Array, rows: slice) -> tuple[int, int]:
    """Row and column of the largest value within `rows`."""
    row, column = np.unravel_index(int(np.argmax(values[rows])), values[rows].shape)
    return int(row) + (rows.start or 0), int(column)


def centre(chart: Chart, rows: slice, sign: int) -> Centre:
    """The strongest anomaly of one sign in the last frame, followed back through the inputs."""
    maps = sign * chart.anomaly
    row, column = end = peak(maps[-1], rows)
    for values in maps[-2::-1]:
        row, column = nearby_peak(values, row, column, chart.periodic)
    first, last = refined(maps[0], row, column, chart.periodic), refined(maps[-1], *end, chart.periodic)
    value, before = maps[-1][end], maps[0][row, column % maps.shape[2]]
    return Centre(
        row=last[0],
        column=last[1],
        sign=sign,
        strength=float(value),
        rows=last[0] - first[0],
        columns=last[1] - first[1],
        growth=float((value - before) / max(abs(before), 0.1 * chart.usual)),
    )


def nearby_peak(values: Array, row: int, column: int, periodic: bool) -> tuple[int, int]:
    """The largest value near a place; the column may leave 0..w-1 where the grid is periodic."""
    height, width = values.shape
    reach_y, reach_x = max(1, height // 16), max(2, width // 16)
    rows = np.arange(max(0, row - reach_y), min(height, row + reach_y + 1))
    columns = np.arange(column - reach_x, column + reach_x + 1)
    if not periodic:
        columns = columns[(columns >= 0) & (columns < width)]
    window = values[np.ix_(rows, columns % width)]
    here = values[row, column % width]
    if window.max() <= here + 1e-4 * abs(here):
        return row, column  # on a plateau a centre stays where it is
    best = np.unravel_index(int(np.argmax(window)), window.shape)
    return int(rows[best[0]]), int(columns[best[1]])


def refined(values: Array, row: int, column: int, periodic: bool) -> tuple[float, float]:
    """The peak's place between cells, by a parabola through its neighbours on each axis."""
    height, width = values.shape
    at = column % width
    along_y = vertex(*values[row - 1 : row + 2, at]) if 0 < row < height - 1 else 0.0
    inside = periodic or 0 < at < width - 1
    along_x = vertex(*values[row, [(at - 1) % width, at, (at + 1) % width]]) if inside else 0.0
    return row + along_y, column + along_x


def vertex(before: float, here: float, after: float) -> float:
    """Offset of a parabola's vertex from the middle of three points, within half a cell."""
    curvature = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature else 0.0


def drift(chart: Chart, rows: slice) -> tuple[float, float]:
    """Rows and columns by which the whole pattern moved over the inputs, by cross-correlation of frames in turn."""
    maps = chart.scaled[:, rows]
    maps = maps - (maps.mean(axis=2, keepdims=True) if chart.periodic else maps.mean(axis=(1, 2), keepdims=True))
    _, height, width = maps.shape
    shape = (2 * height, width if chart.periodic else 2 * width)  # zeros around what is not periodic
    spectra = np.fft.rfft2(maps, s=shape)
    correlation = np.fft.irfft2((spectra[1:] * spectra[:-1].conj()).sum(axis=0), s=shape)
    reach_y, reach_x = min(height - 1, max(1, height // 8)), min(width - 1, max(1, width // 8))
    window = correlation[np.ix_(np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1))]
    row, column = refined(window, *peak(window, slice(0, None)), periodic=False)
    steps = len(maps) - 1
    return steps * (row - reach_y), steps * (column - reach_x)


def dominant_wave(chart: Chart, rows: slice) -> int:
    """The zonal wave number that dominates the last frame's anomaly: its variance times the wave number is largest.

    The factor looks past the slow planetary waves to those that carry the weather.
    """
    power = (np.abs(np.fft.rfft(chart.anomaly[-1, rows], axis=1)) ** 2 * chart.weights[rows, :1]).sum(axis=0)
    return int(np.argmax(power * np.arange(len(power))))


def slopes(chart: Chart) -> tuple[Array, Array]:
    """Derivatives of the last frame towards higher rows and columns, per degree of arc or per cell."""
    field = chart.fields[-1]
    padded = np.pad(field, ((0, 0), (1, 1)), mode="wrap" if chart.periodic else "edge")
    along_x = (padded[:, 2:] - padded[:, :-2]) / 2
    along_y = np.gradient(field, axis=0) if len(field) > 1 else np.zeros_like(field)
    height, width = chart.extent
    cell_y, cell_x = (height / field.shape[0], width / field.shape[1]) if chart.geographic else (1.0, 1.0)
    shrink = np.cos(np.deg2rad(chart.y))[:, None].clip(0.05) if chart.geographic else 1.0
    return along_y / cell_y, along_x / (cell_x * shrink)
