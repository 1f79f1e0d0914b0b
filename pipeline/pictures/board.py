"""What the pictures of one record have in common: titles, axes, colour bars, and the places of the maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.colours import LEVELS, Levels, low_and_factor, palette, scales
from pipeline.pictures.labels import axis_names, title_of
from pipeline.pictures.layout import axis_ticks, bar_ticks, frames_side_by_side, map_shape
from pipeline.pictures.pen import TICK, Pen, line_height, text_size, text_width, widest
from pipeline.store import Description


@dataclass(frozen=True)
class Board:
    """What the pictures of one record have in common, and where the maps and time labels go."""

    background: Levels  # (height, width)
    palette: bytes
    low: NDArray[np.float32]  # (C, 1, 1), the values at the low ends of the colour scales
    factor: NDArray[np.float32]  # (C, 1, 1), levels per unit
    map_shape: tuple[int, int]
    places: tuple[tuple[int, tuple[int, ...]], ...]  # of each frame: left of its maps, top of each variable's map
    text_size: int


class ByIdentity:
    """A description as the key of a cache: two are the same only if they are the same object."""

    def __init__(self, description: Description) -> None:
        self.description = description

    def __hash__(self) -> int:
        return id(self.description)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.description is other.description


@lru_cache(maxsize=8)
def board_of(record: ByIdentity, pixels: int, count: int, label_width: int) -> Board:
    """`count` columns of maps, or several blocks of them, under labels of up to `label_width` pixels."""
    description, size = record.description, text_size(pixels)
    line, gap = line_height(size), size // 2
    height, wide = shape = map_shape(description.grid, pixels)
    y_ticks, x_ticks = (axis_ticks(description.grid, axis, shape[axis], size) for axis in (0, 1))
    names = axis_names(description.grid)
    bars = [bar_ticks(scale, height, size) for scale in scales(description)]
    titles = [title_of(variable, description.grid) for variable in description.variables]

    slot = max(wide, label_width)
    room = (slot - wide) // 2
    left = gap + max(widest(y_ticks, size), *(text_width(name, size) for name in names)) + TICK + 3 + room
    per_block = frames_side_by_side(description.grid, pixels, count)
    columns = [left + (slot + gap) * column for column in range(per_block)]
    block = len(bars) * (2 * line + height + gap) + line + TICK
    blocks = [
        tuple(top + gap // 2 + 2 * line + (2 * line + height + gap) * row for row in range(len(bars)))
        for top in range(0, block * math.ceil(count / per_block), block)
    ]
    places = tuple((columns[frame % per_block], blocks[frame // per_block]) for frame in range(count))
    bar_left = columns[-1] + (slot + wide) // 2 + gap
    width = bar_left + size + TICK + 3 + max(widest(ticks, size) for ticks in bars) + gap
    width = max(width, left + max(text_width(title, size) for title in titles) + gap)

    pen = Pen(blocks[-1][-1] + height + line + TICK + gap // 2, width, size)
    for rows in blocks:
        for row, title, ticks in zip(rows, titles, bars, strict=True):
            pen.text(left, row - 1.5 * line, title, "lm")
            pen.text(left - room - TICK - 3, row - 0.8 * line, names[0], "rm")
            pen.ticks_beside(left, row, y_ticks, -1)
            pen.ticks_beside(bar_left + size, row, ticks, +1)
            pen.frame(bar_left, row, size, height)
        pen.text(left - room - TICK - 3, rows[-1] + height + TICK + 1, names[1], "ra")
    for column, rows in places:
        for row in rows:
            pen.frame(column, row, wide, height)
        pen.ticks_below(column, rows[-1] + height, x_ticks, room, wide)
    background = pen.levels()
    for row in chain.from_iterable(blocks):
        ramp = np.linspace(LEVELS - 1, 0, height).round().astype(np.uint8)
        background[row : row + height, bar_left : bar_left + size] = ramp[:, None]
    return Board(background, palette(), *low_and_factor(description), shape, places, size)
