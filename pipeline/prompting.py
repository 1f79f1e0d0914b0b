"""Prompt templates: what a model is told beside the pictures.

A template is a text file with `$name` placeholders: `caption.template`, or if that is a folder (by default the
package's own) `<dataset>.txt` in it, or `default.txt` for data sets without one. What is filled in comes from the
record's description and the input frames' time stamps alone, as plain text: in it, neither `$` nor markup means
anything.
"""

from __future__ import annotations

import hashlib
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import guard
from pipeline.captioners.base import CaptionRequest
from pipeline.captions import clean
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.pictures import ByIdentity, degrees_east, degrees_north, frame_labels, number, scales
from pipeline.render import units_text
from pipeline.store import Description, Grid

PLACEHOLDERS = {
    "description": "the data set's fixed description",
    "variables": "the fields with their units",
    "region": "what the grid covers",
    "times": "the first and the last time stamp, or that time stamps are nominal",
    "step": "the time between two frames",
    "frames": "the number of frames",
    "statistics": "mean and standard deviation of each field in the training record",
    "pictures": "how the pictures are laid out",
    "colours": "which values the colours stand for",
    "words": "caption.max_words",
    "answer": "the form of the answer, by caption.output",
}
TEXT_ANSWER = "Answer with the caption alone, as one paragraph without headings or lists."
GAP = "\0"  # stands where time stamps go; no text of a template or description holds it
PERIODS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class Template:
    """A prompt with placeholders that are all known."""

    text: str
    words: int
    output: Literal["text", "json"]
    layout: Literal["sheet", "images", "video"]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def of_record(self, description: Description) -> list[str]:
        """The prompt for frames an hour apart without its time stamps: all in it that a record decides."""
        return _pieces(self, ByIdentity(description), 2, 3600)

    def fill(self, request: CaptionRequest) -> str:
        """The prompt for a window. Nothing in it comes from the values of the fields."""
        times = request.times.astype("datetime64[s]")
        step = int((times[1] - times[0]).astype(int)) if len(times) > 1 else int(request.description.frame_seconds)
        pieces = _pieces(self, ByIdentity(request.description), len(times), step)
        return pieces[0] if len(pieces) == 1 else _times(request).join(pieces)


def load(settings: CaptionParams, dataset: str) -> Template:
    """The template for a data set. Raises UserError for a file that cannot be read or a placeholder nobody fills."""
    name, text = _read(settings.template, dataset)
    text = text.replace(GAP, "").strip()
    known = ", ".join(f"${placeholder}" for placeholder in PLACEHOLDERS)
    template = string.Template(text)
    if not template.is_valid():
        raise UserError(
            f"{name}: a '$' is followed by no placeholder; write '$$' for the sign itself, or one of {known}"
        )
    unknown = [placeholder for placeholder in template.get_identifiers() if placeholder not in PLACEHOLDERS]
    if unknown:
        raise UserError(f"{name}: placeholder '${unknown[0]}' is not known; known are {known}")
    if not text:
        raise UserError(f"{name} is empty; a prompt is expected")
    return Template(text, settings.max_words, settings.output, settings.picture.layout)


def _read(chosen: str | None, dataset: str) -> tuple[str, str]:
    """Name and text of the template's file."""
    path = Path(chosen or str(resources.files("pipeline") / "prompts"))
    if path.is_dir():
        path = path / (f"{dataset}.txt" if (path / f"{dataset}.txt").is_file() else "default.txt")
    try:
        return f"caption.template {path}", path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"caption.template {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"caption.template {path} is not a text file in UTF-8") from None


@lru_cache(maxsize=8)
def _pieces(template: Template, record: ByIdentity, frames: int, step: int) -> list[str]:
    """The filled-in prompt, split where the time stamps go: all that windows of one record share."""
    description = record.description
    fields = {
        "description": clean(description.text),
        "variables": _listed([f"{name} in {units}" if units else name for name, units in _variables(description)]),
        "region": _region(description.grid),
        "times": GAP,
        "step": _duration(step),
        "frames": str(frames),
        "statistics": _statistics(description),
        "pictures": _pictures(description, template.layout, frames),
        "colours": _colours(description),
        "words": str(template.words),
        "answer": _answer(template.output),
    }
    text = string.Template(template.text).substitute(fields)
    if template.output == "json" and "answer" not in string.Template(template.text).get_identifiers():
        text += f"\n\n{fields['answer']}"
    return text.split(GAP)


# The fields.


def _times(request: CaptionRequest) -> str:
    calendar = request.description.time_stamps == "calendar"
    first, last = _ends(request.times, calendar)
    if calendar:
        return f"from {first} to {last} UTC."
    return (
        "time stamps are nominal: they order the frames but tell no date, season or time of day. "
        f"The first frame is labelled {first}, the last {last}."
    )


def _ends(times: NDArray[np.datetime64], calendar: bool) -> tuple[str, str]:
    """The labels of the first and the last frame, as the pictures have them."""
    labels = frame_labels(times, calendar)
    return labels[0], labels[-1]


def _variables(description: Description) -> list[tuple[str, str]]:
    """Name and units of each variable, for people."""
    return [
        (clean(variable.long_name) or clean(variable.name), units_text(clean(variable.units)))
        for variable in description.variables
    ]


def _region(grid: Grid) -> str:
    (south, north), (west, east) = ((float(axis[0]), float(axis[-1])) for axis in (grid.y, grid.x))
    if not grid.geographic:
        rows, columns = grid.shape
        extents = (
            f"x runs from {number(west)} to {number(east)} to the right, y from {number(south)} to {number(north)}"
        )
        return f"a plane of {rows} rows and {columns} columns; {extents} upwards"
    south_to_north = f"{degrees_north(round(south, 1))} to {degrees_north(round(north, 1))}"
    if grid.periodic:
        return "the whole globe" if north - south > 150 else f"all around the globe, from {south_to_north}"
    west_to_east = f"{degrees_east(round(west, 1))} to {degrees_east(round(east, 1))}"
    return f"latitudes {south_to_north}, longitudes {west_to_east}"


def _statistics(description: Description) -> str:
    """Rounded to two digits of the standard deviation, which is as much as a caption can use."""
    found = []
    statistics = description.statistics
    for (name, units), mean, std in zip(_variables(description), statistics.mean, statistics.std, strict=True):
        digits = 1 - math.floor(math.log10(std)) if std > 0 else 6
        values = [number(round(float(value), digits)) for value in (mean, std)]
        found.append(f"{name}: mean {values[0]}, standard deviation {values[1]} {units}".rstrip())
    return "; ".join(found)


def _pictures(description: Description, layout: str, frames: int) -> str:
    order = ", then ".join(name for name, _ in _variables(description))
    up = "north is up and east to the right" if description.grid.geographic else "y points up and x to the right"
    if layout == "sheet":
        return (
            f"one sheet of maps, time running from left to right, a column a frame; rows from the top: {order}; {up}."
        )
    what = "a video" if layout == "video" else "a series of pictures"
    return f"{what}, the earliest frame first, {frames} in all; each shows, from the top, {order}; {up}."


def _colours(description: Description) -> str:
    """The values at the ends of the colour scales."""
    ends = [
        f"for {name} dark purple is {number(scale.low)} or less, bright yellow {number(scale.high)} {units}".rstrip()
        + " or more"
        for (name, units), scale in zip(_variables(description), scales(description), strict=True)
    ]
    return f"{'; '.join(ends)}; blue, teal and green lie between. A colour means the same value in all frames."


def _answer(output: str) -> str:
    if output == "text":
        return TEXT_ANSWER
    keys = _listed([f'"{key}"' for key in guard.SCHEMA["required"]])
    return f"Answer with one JSON object and nothing else; its keys are {keys}, and each holds one sentence."


def _duration(seconds: int) -> str:
    size, unit = next((size, unit) for size, unit in PERIODS if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _listed(items: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
