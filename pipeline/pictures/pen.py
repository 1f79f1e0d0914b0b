"""Text and lines in black on white, and their levels in the palette."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pictures.colours import GREYS, LEVELS, Levels

TICK = 4  # pixels


@dataclass(frozen=True)
class Tick:
    """`place`: pixels from the left or top of the map."""

    place: float
    label: str


class Pen:
    """Draws text and lines in black on a white canvas."""

    def __init__(self, height: int, width: int, text_size: int) -> None:
        from PIL import Image, ImageDraw

        self.size = text_size
        self.canvas = Image.new("L", (width, height), 255)
        self.draw = ImageDraw.Draw(self.canvas)

    def text(self, x: float, y: float, words: str, anchor: str) -> None:
        self.draw.text((round(x), round(y)), words, font=_font(self.size), fill=0, anchor=anchor)

    def frame(self, left: int, top: int, width: int, height: int) -> None:
        """A line of one pixel around a map."""
        self.draw.rectangle((left - 1, top - 1, left + width, top + height), outline=0)

    def ticks_beside(self, edge: int, top: int, ticks: Sequence[Tick], side: int) -> None:
        """Ticks left (side -1) or right (+1) of an edge, with their labels, which stay beside the edge."""
        for tick in ticks:
            y, start = round(top + tick.place), edge if side > 0 else edge - 1
            self.draw.line((start, y, start + side * TICK, y), fill=0)
            self.text(start + side * (TICK + 3), y, tick.label, "lm" if side > 0 else "rm")

    def ticks_below(self, left: int, edge: int, ticks: Sequence[Tick], room: int, width: int) -> None:
        """Ticks below a map; a label stays within the map and `room` pixels on either side, and off the one before."""
        free = 0.0
        for tick in ticks:
            x, half = left + tick.place, text_width(tick.label, self.size) / 2
            self.draw.line((round(x), edge, round(x), edge + TICK), fill=0)
            centre = min(max(x, left - room + half), left + width + room - half)
            if centre - half >= free:
                self.text(centre, edge + TICK + 1, tick.label, "ma")
                free = centre + half + self.size / 4

    def levels(self) -> Levels:
        return _grey_levels(self.canvas)


def text_size(pixels: int) -> int:
    """In pixels, for maps of a width: models shrink large pictures, so text grows with them."""
    return max(10, round(pixels / 16))


def line_height(size: int) -> int:
    return round(1.4 * size)


@lru_cache
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib carries and most charts are written in: it has superscripts and many alphabets.

    With Pillow's own layout of text: the other depends on a library of the system.
    """
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))


def widest(ticks: Sequence[Tick], size: int) -> int:
    return max((text_width(tick.label, size) for tick in ticks), default=0)


@lru_cache(maxsize=512)
def text_levels(text: str, size: int) -> Levels:
    """(height, width): a line of text, a little lower than a line's height."""
    pen = Pen(line_height(size) - 3, text_width(text, size), size)
    pen.text(0, pen.canvas.height / 2, text, "lm")
    return pen.levels()


def _grey_levels(canvas: Any) -> Levels:
    """A picture of greys -> its levels in the palette."""
    greys = np.asarray(canvas).astype(np.uint16) * (GREYS - 1) // 255
    return (LEVELS + greys).astype(np.uint8)
