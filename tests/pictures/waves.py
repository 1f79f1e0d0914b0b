"""Requests whose pictures are known, and what of a picture is where."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import pictures
from pipeline.captioners.base import CaptionRequest
from pipeline.params import Picture
from pipeline.pictures.board import Board, board_of
from pipeline.pictures.pen import text_size, text_width
from pipeline.store import Description, Grid
from tests.fields import describe

LOW, HIGH = (538.0, -12.0), (542.0, -8.0)  # of the colour scales of `describe`: climatology ± 2 x 1


def request(window: int = 0, description: Description | None = None, frames: int = 3) -> CaptionRequest:
    """Waves within the colour scales, another one for each window, frame and variable."""
    description = description or describe((8, 16))
    rows, columns = np.mgrid[0:1:8j, 0:1:16j]
    phases = window + np.arange(frames)[:, None, None, None] + 0.5 * np.arange(2)[:, None, None]
    waves = np.sin(2 * np.pi * columns + phases) * rows
    values = (np.array([540, -10])[:, None, None] + 1.5 * waves).astype(np.float32)
    times = np.datetime64("2001-01-01T06", "s") + np.arange(frames) * np.timedelta64(6, "h")
    return CaptionRequest(window, values, times, description)


def pixels(picture: bytes) -> NDArray[np.uint8]:
    """(height, width, 3)"""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def board(of: CaptionRequest, settings: Picture) -> Board:
    """The board that `draw` has just used."""
    labels = pictures.frame_labels(of.times, True)
    size = text_size(settings.pixels)
    widest = max(text_width("".join("0" if c.isdigit() else c for c in label), size) for label in labels)
    frames = len(labels) if settings.layout == "sheet" else 1
    return board_of(pictures.ByIdentity(of.description), settings.pixels, frames, widest)


def maps(of: CaptionRequest, settings: Picture) -> list[list[NDArray[np.uint8]]]:
    """By frame and variable: the pixels of a map of the sheet, north up."""
    (sheet,) = pictures.draw(of, settings)
    image, plan = pixels(sheet), board(of, settings)
    height, width = plan.map_shape
    return [[image[row : row + height, left : left + width] for row in rows] for left, rows in plan.places]


PLANE = describe((8, 16), dims=("y", "x"))
TUNNEL = replace(PLANE, grid=Grid(("y", "x"), np.linspace(0, 3.5, 8), np.linspace(0, 30, 16), "m"))
