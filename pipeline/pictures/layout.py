"""How large maps are, how many stand side by side, and where the ticks of axes and colour bars lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.labels import degrees_east, degrees_north, number
from pipeline.pictures.pen import Tick, text_size, text_width
from pipeline.render import Scale
from pipeline.store import Grid

MOST_WIDTH = 2048  # pixels of all maps side by side: models shrink larger pictures until nothing can be read
LABEL_WIDTH = 9  # times the size of the text: about what the time of a frame takes
FLATTEST = 0.25  # height to width of a map
DEGREES = (1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 180)


def frames_side_by_side(grid: Grid, pixels: int, frames: int) -> int:
    """How many of a sheet's frames stand side by side."""
    slot = max(map_shape(grid, pixels)[1], LABEL_WIDTH * text_size(pixels))
    blocks = math.ceil(frames / max(1, MOST_WIDTH // slot)) or 1
    return math.ceil(frames / blocks)


def map_shape(grid: Grid, width: int) -> tuple[int, int]:
    """Height and width as the grid's extents have it, but for extremes; a region keeps its shape at its middle
    latitude.
    """
    (low, high), (west, east) = _edges(grid.y), _edges(grid.x)
    ratio = (high - low) / (east - west)
    if grid.geographic and not grid.periodic:
        ratio /= max(math.cos(math.radians((low + high) / 2)), 0.1)
    if not grid.geographic and ratio < FLATTEST:
        width *= 2
    return round(width * min(max(ratio, FLATTEST), 2)), width


def axis_ticks(grid: Grid, axis: int, length: int, size: int) -> list[Tick]:
    """Round coordinates along the rows (axis 0, from the top) or columns of a map `length` pixels long."""
    values = (grid.y, grid.x)[axis]
    low, high = _edges(values)
    label = (degrees_north, degrees_east)[axis] if grid.geographic else number
    steps = DEGREES if grid.geographic and high - low > 10 else ()
    likely = [label(value) for value in ((-150,) if steps else (round(low, 1), round(high, 1)))]
    room = 1.25 * (size if axis == 0 else max(text_width(text, size) for text in likely))
    ticks = []
    for value in _round_values(low, high, max(1, int(length / room)), steps):
        share = (_index_of(value, values) + 0.5) / len(values)  # a row takes as many pixels as any other
        ticks.append(Tick(length * (1 - share if axis == 0 else share), label(value)))
    return ticks


def bar_ticks(scale: Scale, height: int, size: int) -> list[Tick]:
    values = _round_values(scale.low, scale.high, max(2, int(height / (1.25 * size))))
    return [Tick((height - 1) * (scale.high - value) / (scale.high - scale.low), number(value)) for value in values]


def _round_values(low: float, high: float, most: int, steps: Sequence[float] = ()) -> list[float]:
    """At most `most` multiples of a round number between `low` and `high`, at least one where there is any."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    found: list[float] = []
    for step in steps or (power, 2 * power, 5 * power, 10 * power, 20 * power, 50 * power, 100 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [round(number * step, 12) for number in range(first, last + 1)] or found
        if last - first < most:
            break
    return found[:most]


def _index_of(value: float, axis: NDArray[np.float64]) -> float:
    """Where on an ascending axis a coordinate lies, in cells; half a cell beyond its ends at most."""
    low, high = _edges(axis)
    places = np.concatenate([[-0.5], np.arange(len(axis)), [len(axis) - 0.5]])
    return float(np.interp(value, np.concatenate([[low], axis, [high]]), places))


def _edges(axis: NDArray[np.float64]) -> tuple[float, float]:
    """The outer rims of the first and the last cell."""
    half = (axis[-1] - axis[0]) / (len(axis) - 1) / 2 if len(axis) > 1 else 0.5
    return float(axis[0] - half), float(axis[-1] + half)
