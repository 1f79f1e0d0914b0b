"""One window's pictures: maps and time labels on the board of its record."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np

from pipeline.captioners.base import CaptionRequest
from pipeline.params import Picture
from pipeline.pictures.board import Board, ByIdentity, board_of
from pipeline.pictures.colours import LEVELS, Levels
from pipeline.pictures.labels import frame_labels
from pipeline.pictures.layout import frames_side_by_side
from pipeline.pictures.pen import line_height, text_levels, text_size, text_width
from pipeline.store import Description

VERSION = "1"  # raise it whenever a pixel changes: finished captions are known by it
LATER_VERSION = "2"  # of what `drawing` tells apart; raise it if only such pictures change
ZLIB_LEVEL = 3  # more takes twice the time for a tenth of the size


class UndrawableError(ValueError):
    """Frames that cannot be drawn, because a value in them is NaN or infinite."""


def draw(request: CaptionRequest, settings: Picture) -> tuple[bytes, ...]:
    """PNG pictures of the input frames: one contact sheet, or one picture a frame, all of the same size.

    A sheet has a row for each variable and a column for each frame, in several blocks if it were too wide. Pictures
    of single frames have the variables below each other; layouts "images" and "video" differ only in how a captioner
    hands them on. Raises UndrawableError if a value is NaN or infinite.
    """
    _check_finite(request)
    labels = frame_labels(request.times, request.description.time_stamps != "nominal")
    widest = max(text_width(re.sub(r"\d", "0", label), text_size(settings.pixels)) for label in labels)
    count = len(labels) if settings.layout == "sheet" else 1
    board = board_of(ByIdentity(request.description), settings.pixels, count, widest)
    shares = (request.inputs - board.low) * board.factor
    levels = np.clip(shares, 0, LEVELS - 1).astype(np.uint8)[:, :, ::-1]  # (T, C, H, W), north up
    groups = [range(start, start + count) for start in range(0, len(labels), count)]
    return tuple(_picture(board, levels[group], [labels[frame] for frame in group]) for group in groups)


def drawing(description: Description, settings: Picture, frames: int) -> str:
    """LATER_VERSION for pictures that are drawn as they were not in VERSION 1; empty for all others."""
    in_blocks = settings.layout == "sheet" and frames_side_by_side(description.grid, settings.pixels, frames) < frames
    return LATER_VERSION if in_blocks or not description.grid.geographic else ""


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
        text = text_levels(label, board.text_size)
        left = column + (width - text.shape[1]) // 2
        for row, field in zip(rows, frame, strict=True):
            # of whole levels, so that it is arithmetic of integers: the same on every machine
            pixels = Image.fromarray(field).resize((width, height), Image.Resampling.BILINEAR)
            canvas[row : row + height, column : column + width] = np.asarray(pixels)
            top = row - line_height(board.text_size) + 1
            canvas[top : top + text.shape[0], left : left + text.shape[1]] = text
    picture = Image.fromarray(canvas)
    picture.putpalette(board.palette)
    stream = io.BytesIO()
    picture.save(stream, format="png", compress_level=ZLIB_LEVEL)
    return stream.getvalue()
