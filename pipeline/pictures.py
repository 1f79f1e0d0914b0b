"""A window's input frames -> PNG pictures made for a model's eyes, drawn by worker processes ahead of the model.

Maps are north up (on a plane, y up), with ticks along the axes, the time of each frame, the variable's name and
units, and a colour bar. One colour scale a variable, fixed by the training statistics, holds for every window, so
that a colour always means the same value. Pillow draws them, since a figure of matplotlib takes ten times as long.

A sheet wider than MOST_WIDTH is laid out in several blocks below each other, each with as many frames as the next
but for the last. Planes more than four times as wide as high, such as tunnels, are drawn twice as wide.

A picture is an array of bytes: LEVELS colours of the fields, then GREYS from black to white for what is
written. What pictures of one record have in common is drawn once (`Board`); a window only adds its maps
and time labels. Equal windows give equal bytes.
"""

from __future__ import annotations

import io
import math
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.errors import UserError
from pipeline.params import Picture
from pipeline.render import FIELD_COLOURS, Scale, units_text
from pipeline.store import Description, Grid, Variable

VERSION = "1"  # raise it whenever a pixel changes: finished captions are known by it
LATER_VERSION = "2"  # of what `drawing` tells apart; raise it if only such pictures change

AHEAD = 8  # windows that each worker may be ahead of the model
SPREADS = 2  # standard deviations about the climatology that a colour scale covers
LEVELS = 224  # colours of the fields
GREYS = 256 - LEVELS
TICK = 4  # pixels
ZLIB_LEVEL = 3  # more takes twice the time for a tenth of the size
LONGEST_TITLE = 60  # letters
MOST_WIDTH = 2048  # pixels of all maps side by side: models shrink larger pictures until nothing can be read
LABEL_WIDTH = 9  # times the size of the text: about what the time of a frame takes
FLATTEST = 0.25  # height to width of a map
DEGREES = (1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 180)
SIGNED_UNITS = re.compile(r"(deg(rees?)?_?(c|f|celsius|fahrenheit)|celsius|°[cf]|m|h?pa|[wj].*|.*s-[12]|.*/s[2²]?)")
NEVER_NEGATIVE = re.compile(r"rain|precipit|speed|smoke|soot|count|density|concentration|visibility|humidity|cloud")
UNITS_OF_TIME = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

Levels = NDArray[np.uint8]


class UndrawableError(ValueError):
    """Frames that cannot be drawn, because a value in them is NaN or infinite."""


@dataclass(frozen=True)
class Drawn:
    """A request with its pictures, or with what kept them from being drawn."""

    request: CaptionRequest
    pictures: tuple[bytes, ...]
    error: str = ""


@dataclass(frozen=True)
class Tick:
    """`place`: pixels from the left or top of the map."""

    place: float
    label: str


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


# What callers use.


def draw(request: CaptionRequest, settings: Picture) -> tuple[bytes, ...]:
    """PNG pictures of the input frames: one contact sheet, or one picture a frame, all of the same size.

    A sheet has a row for each variable and a column for each frame, in several blocks if it were too wide. Pictures
    of single frames have the variables below each other; layouts "images" and "video" differ only in how a captioner
    hands them on. Raises UndrawableError if a value is NaN or infinite.
    """
    _check_finite(request)
    labels = frame_labels(request.times, request.description.time_stamps != "nominal")
    widest = max(_text_width(re.sub(r"\d", "0", label), _text_size(settings.pixels)) for label in labels)
    count = len(labels) if settings.layout == "sheet" else 1
    board = _board(ByIdentity(request.description), settings.pixels, count, widest)
    shares = (request.inputs - board.low) * board.factor
    levels = np.clip(shares, 0, LEVELS - 1).astype(np.uint8)[:, :, ::-1]  # (T, C, H, W), north up
    groups = [range(start, start + count) for start in range(0, len(labels), count)]
    return tuple(_picture(board, levels[group], [labels[frame] for frame in group]) for group in groups)


def drawn_ahead(requests: Iterable[CaptionRequest], settings: Picture, workers: int) -> Generator[Drawn, None, None]:
    """Draws in `workers` processes and yields in order, AHEAD windows a worker ahead of what is taken.

    `requests`, all of one record, are read lazily; closing the generator ends the processes. A window that
    cannot be drawn has its `error` set. Raises UserError if a process dies.
    """
    iterator = iter(requests)
    first = next(iterator, None)
    if first is None:
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(first.description, settings)
    )
    waiting: deque[tuple[CaptionRequest, Future[tuple[bytes, ...] | str]]] = deque()
    try:
        for request in chain([first], iterator):
            if request.description is not first.description:
                raise ValueError("the requests are of several records; pictures are drawn for one at a time")
            waiting.append((request, pool.submit(_drawn, request.window, request.inputs, request.times)))
            if len(waiting) > AHEAD * workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    except BrokenProcessPool:
        raise UserError(
            f"a process that draws pictures died, perhaps for want of memory; caption.workers is {workers}, "
            f"caption.picture.pixels {settings.pixels}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def scales(description: Description) -> tuple[Scale, ...]:
    """Each variable's colour scale: the climatology of the training frames, two standard deviations either way.

    Its ends are those of the cell that reaches furthest, rounded outwards to about a twentieth of the span, so
    that they are round numbers and small changes of the statistics leave them alone. What cannot be negative
    (counts, smoke, rain) has no colours below 0. Values beyond them take the end's colour: 0.1 % of the values of
    the weather twin.
    """
    statistics = description.statistics
    return tuple(
        _rounded_scale(_low_end(variable, description.grid, mean, std), float((mean + SPREADS * std).max()))
        for variable, mean, std in zip(
            description.variables, statistics.climatology, statistics.climatology_std, strict=True
        )
    )


def drawing(description: Description, settings: Picture, frames: int) -> str:
    """LATER_VERSION for pictures that are drawn as they were not in VERSION 1; empty for all others."""
    in_blocks = settings.layout == "sheet" and frames_side_by_side(description.grid, settings.pixels, frames) < frames
    return LATER_VERSION if in_blocks or not description.grid.geographic else ""


def frames_side_by_side(grid: Grid, pixels: int, frames: int) -> int:
    """How many of a sheet's frames stand side by side."""
    slot = max(_map_shape(grid, pixels)[1], LABEL_WIDTH * _text_size(pixels))
    blocks = math.ceil(frames / max(1, MOST_WIDTH // slot)) or 1
    return math.ceil(frames / blocks)


def frame_labels(times: NDArray[np.datetime64], calendar: bool) -> list[str]:
    """The frames' time stamps, or if they are nominal the time before the last frame: t−12 h."""
    if calendar:
        whole_minutes = not (times.astype("datetime64[s]").astype(np.int64) % 60).any()
        whole_seconds = not (times - times.astype("datetime64[s]")).astype(np.int64).any()
        unit = "m" if whole_minutes and whole_seconds else "s" if whole_seconds else "ms"
        return [str(time).replace("T", " ") for time in times.astype(f"datetime64[{unit}]")]
    seconds = ((times[-1] - times) / np.timedelta64(1, "s")).round(3).tolist()
    size, unit = next((pair for pair in UNITS_OF_TIME if not any(s % pair[0] for s in seconds)), UNITS_OF_TIME[-1])
    return [f"t\N{MINUS SIGN}{number(second / size)} {unit}" if second else "t" for second in seconds]


def plain_name(name: str) -> str:
    """A name from a file as one short line without control characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def degrees_north(value: float) -> str:
    return f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}"


def degrees_east(value: float) -> str:
    """Whatever the grid counts from; the date line is 180°."""
    east = round((value + 180) % 360 - 180, 6)
    return f"{abs(east):g}°{'' if east in (0, -180) else 'E' if east > 0 else 'W'}"


# The worker processes.

_shared: dict[str, Any] = {}  # what a worker was started with


def _start(description: Description, settings: Picture) -> None:
    """Once in each worker. It ends with its parent, even one that is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared.update(description=description, settings=settings)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _drawn(window: int, inputs: NDArray[np.float32], times: NDArray[np.datetime64]) -> tuple[bytes, ...] | str:
    """The pictures of a window, or what keeps them from being drawn."""
    try:
        return draw(CaptionRequest(window, inputs, times, _shared["description"]), _shared["settings"])
    except UndrawableError as error:
        return str(error)


def _finished(request: CaptionRequest, future: Future[tuple[bytes, ...] | str]) -> Drawn:
    result = future.result()
    return Drawn(request, (), result) if isinstance(result, str) else Drawn(request, result)


# One window.


def _check_finite(request: CaptionRequest) -> None:
    if np.isfinite(request.inputs).all():
        return
    bad = ~np.isfinite(request.inputs)
    frame, variable = (int(index) for index in np.argwhere(bad.any((2, 3)))[0])
    name = request.description.variables[variable].name
    count = int(bad[frame, variable].sum())
    raise UndrawableError(
        f"input frame {frame + 1} of {len(bad)} holds {count} values of {name} that are NaN or infinite"
    )


def _picture(board: Board, levels: Levels, labels: Sequence[str]) -> bytes:
    """levels: (columns, C, H, W), rows from north to south -> a PNG."""
    from PIL import Image

    canvas = board.background.copy()
    height, width = board.map_shape
    for (column, rows), label, frame in zip(board.places, labels, levels, strict=True):
        text = _text_levels(label, board.text_size)
        left = column + (width - text.shape[1]) // 2
        for row, field in zip(rows, frame, strict=True):
            # of whole levels, so that it is arithmetic of integers: the same on every machine
            pixels = Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR)
            canvas[row : row + height, column : column + width] = np.asarray(pixels)
            top = row - _line_height(board.text_size) + 1
            canvas[top : top + text.shape[0], left : left + text.shape[1]] = text
    picture = Image.fromarray(canvas)
    picture.putpalette(board.palette)
    stream = io.BytesIO()
    picture.save(stream, format="png", compress_level=ZLIB_LEVEL)
    return stream.getvalue()


# What the pictures of a record have in common.


@lru_cache(maxsize=8)
def _board(record: ByIdentity, pixels: int, count: int, label_width: int) -> Board:
    """`count` columns of maps, or several blocks of them, under labels of up to `label_width` pixels."""
    description, size = record.description, _text_size(pixels)
    line, gap = _line_height(size), size // 2
    height, wide = shape = _map_shape(description.grid, pixels)
    y_ticks, x_ticks = (_axis_ticks(description.grid, axis, shape[axis], size) for axis in (0, 1))
    names = _axis_names(description.grid)
    bars = [_bar_ticks(scale, height, size) for scale in scales(description)]
    titles = [_title(variable, description.grid) for variable in description.variables]

    slot = max(wide, label_width)
    room = (slot - wide) // 2
    left = gap + max(_widest(y_ticks, size), *(_text_width(name, size) for name in names)) + TICK + 3 + room
    per_block = frames_side_by_side(description.grid, pixels, count)
    columns = [left + (slot + gap) * column for column in range(per_block)]
    block = len(bars) * (2 * line + height + gap) + line + TICK
    blocks = [
        tuple(top + gap // 2 + 2 * line + (2 * line + height + gap) * row for row in range(len(bars)))
        for top in range(0, block * math.ceil(count / per_block), block)
    ]
    places = tuple((columns[frame % per_block], blocks[frame // per_block]) for frame in range(count))
    bar_left = columns[-1] + (slot + wide) // 2 + gap
    width = bar_left + size + TICK + 3 + max(_widest(ticks, size) for ticks in bars) + gap
    width = max(width, left + max(_text_width(title, size) for title in titles) + gap)

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
    return Board(background, _palette(), *_low_and_factor(description), shape, places, size)


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
            x, half = left + tick.place, _text_width(tick.label, self.size) / 2
            self.draw.line((round(x), edge, round(x), edge + TICK), fill=0)
            centre = min(max(x, left - room + half), left + width + room - half)
            if centre - half >= free:
                self.text(centre, edge + TICK + 1, tick.label, "ma")
                free = centre + half + self.size / 4

    def levels(self) -> Levels:
        return _grey_levels(self.canvas)


def _title(variable: Variable, grid: Grid) -> str:
    units = units_text(shown_units(variable, grid))
    return plain_name(f"{variable.long_name or variable.name}, {units}".removesuffix(", "))


def shown_units(variable: Variable, grid: Grid) -> str:
    """A count on a plane has units of 1, which say nothing. On the globe they stand, as they always have."""
    return "" if variable.units == "1" and not grid.geographic else variable.units


def _map_shape(grid: Grid, width: int) -> tuple[int, int]:
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


def _axis_names(grid: Grid) -> tuple[str, str]:
    """What stands beside the axes of a plane, with their units; degrees speak for themselves."""
    if grid.geographic:
        return "", ""
    units = units_text(plain_name(grid.units))
    return f"y, {units}".removesuffix(", "), f"x, {units}".removesuffix(", ")


def _axis_ticks(grid: Grid, axis: int, length: int, size: int) -> list[Tick]:
    """Round coordinates along the rows (axis 0, from the top) or columns of a map `length` pixels long."""
    values = (grid.y, grid.x)[axis]
    low, high = _edges(values)
    label = (degrees_north, degrees_east)[axis] if grid.geographic else number
    steps = DEGREES if grid.geographic and high - low > 10 else ()
    likely = [label(value) for value in ((-150,) if steps else (round(low, 1), round(high, 1)))]
    room = 1.25 * (size if axis == 0 else max(_text_width(text, size) for text in likely))
    ticks = []
    for value in _round_values(low, high, max(1, int(length / room)), steps):
        share = (_index_of(value, values) + 0.5) / len(values)  # a row takes as many pixels as any other
        ticks.append(Tick(length * (1 - share if axis == 0 else share), label(value)))
    return ticks


def _bar_ticks(scale: Scale, height: int, size: int) -> list[Tick]:
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


def _low_end(variable: Variable, grid: Grid, mean: NDArray[np.float32], std: NDArray[np.float32]) -> float:
    """Two standard deviations below the climatology, unless the values cannot lie there.

    On a plane, what cannot be negative is often quiet but for bursts (flames, rush hours); then nothing falls below
    the quietest cell, though it would where bursts are frequent if they went either way.
    """
    low = float((mean - SPREADS * std).min())
    words = f"{variable.long_name} {variable.name} {variable.standard_name}".lower()
    signed = SIGNED_UNITS.fullmatch(re.sub(r"[*^ .]", "", variable.units.lower())) and not NEVER_NEGATIVE.search(words)
    if signed or float(mean.min()) < 0:
        return low
    calm = int(mean.argmin())
    bound = 0.0 if grid.geographic else float(mean.flat[calm] - SPREADS * std.flat[calm])
    return max(low, bound, 0.0)


def _rounded_scale(low: float, high: float) -> Scale:
    """With ends on multiples of 1, 2 or 5 times a power of ten; a field that never changed gets some width."""
    margin = 0.0 if high > low else max(abs(high), 1.0) * 1e-3
    low, high = low - margin, high + margin
    power = 10 ** math.floor(math.log10((high - low) / 20))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 20 * (1 - 1e-9))
    return Scale(round(math.floor(low / step) * step, 12), round(math.ceil(high / step) * step, 12), FIELD_COLOURS)


def _low_and_factor(description: Description) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C, 1, 1) each: the colour scales' low ends, and levels per unit."""
    found = scales(description)
    low = np.array([scale.low for scale in found], dtype=np.float32)
    factor = np.array([LEVELS / (scale.high - scale.low) for scale in found], dtype=np.float32)
    return low[:, None, None], factor[:, None, None]


def number(value: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    return np.format_float_positional(value, precision=8, trim="-").replace("-", "\N{MINUS SIGN}")


def _palette() -> bytes:
    """(256 x red, green, blue): the fields' colours, then greys."""
    from matplotlib import colormaps

    colours = colormaps[FIELD_COLOURS](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    greys = np.linspace(0, 255, GREYS).round().astype(np.uint8)
    return bytes(np.concatenate([colours, np.repeat(greys[:, None], 3, axis=1)]).tobytes())


# Text.


def _text_size(pixels: int) -> int:
    """In pixels, for maps of a width: models shrink large pictures, so text grows with them."""
    return max(10, round(pixels / 16))


def _line_height(size: int) -> int:
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
def _text_width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))


def _widest(ticks: Sequence[Tick], size: int) -> int:
    return max((_text_width(tick.label, size) for tick in ticks), default=0)


@lru_cache(maxsize=512)
def _text_levels(text: str, size: int) -> Levels:
    """(height, width): a line of text, a little lower than a line's height."""
    pen = Pen(_line_height(size) - 3, _text_width(text, size), size)
    pen.text(0, pen.canvas.height / 2, text, "lm")
    return pen.levels()


def _grey_levels(canvas: Any) -> Levels:
    """A picture of greys -> its levels in the palette."""
    greys = np.asarray(canvas).astype(np.uint16) * (GREYS - 1) // 255
    return (LEVELS + greys).astype(np.uint8)
