"""Prompt templates: what a model is told beside the pictures.

A template is a text file with `$name` placeholders: `caption.template`, or if that is a folder (by default the
package's own) `<dataset>.txt` in it, or the one of its family, or `default.txt`. What is filled in comes from the
record's description, the input frames' time stamps and what was known at those times alone, as plain text: in it,
neither `$` nor markup means anything.
"""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import chain, groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import guard
from pipeline.captioners.base import CaptionRequest
from pipeline.captions import clean
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.params import Picture
from pipeline.pictures import (
    ByIdentity,
    degrees_east,
    degrees_north,
    frame_labels,
    frames_side_by_side,
    number,
    scales,
    shown_units,
)
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
    "context": "what was known at the time of the frames, where the record has it",
}
FAMILIES = {  # template -> the data sets that share it
    "fire": ("prometheus", "fire_twin"),
    "traffic": ("taxibj", "taxibj_plus", "traffic_twin"),
    "weatherbench": ("weatherbench2",),
}
TEXT_ANSWER = "Answer with the caption alone, as one paragraph without headings or lists."
GAP, TOLD = "\0", "\1"  # stand where time stamps and context go; no text of a template or description holds them
CONTEXT_LINE = re.compile(r"^[^\S\n]*\$(?:context|\{context\})[^\S\n]*\n", re.MULTILINE)
LONGEST_CONTEXT = 800  # characters
LONGEST_FACT = 120
SECOND = np.timedelta64(1, "s")
PERIODS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True)
class Template:
    """A prompt with placeholders that are all known."""

    text: str
    words: int
    output: Literal["text", "json"]
    picture: Picture

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def of_record(self, description: Description) -> list[str]:
        """The prompt for frames an hour apart without its time stamps: all in it that a record decides."""
        return _filled(self, ByIdentity(description), 2, 3600, False).split(GAP)

    def fill(self, request: CaptionRequest) -> str:
        """The prompt for a window. Nothing in it comes from the values of the fields."""
        times = request.times
        step = (times[1] - times[0]) / SECOND if len(times) > 1 else request.description.frame_seconds
        context = _context(request)
        text = _filled(self, ByIdentity(request.description), len(times), float(step), bool(context))
        return text.replace(GAP, _times(request)).replace(TOLD, context)


def load(settings: CaptionParams, dataset: str) -> Template:
    """The template for a data set. Raises UserError for a file that cannot be read or a placeholder nobody fills."""
    name, text = _read(settings.template, dataset)
    text = text.replace(GAP, "").replace(TOLD, "").strip()
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
    return Template(text, settings.max_words, settings.output, settings.picture)


def _read(chosen: str | None, dataset: str) -> tuple[str, str]:
    """Name and text of the template's file."""
    path = Path(chosen or str(resources.files("pipeline") / "prompts"))
    if path.is_dir():
        family = [name for name, members in FAMILIES.items() if dataset in members]
        names = [f"{name}.txt" for name in (dataset, *family)]
        path = path / next((name for name in names if (path / name).is_file()), "default.txt")
    try:
        return f"caption.template {path}", path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"caption.template {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"caption.template {path} is not a text file in UTF-8") from None


@lru_cache(maxsize=8)
def _filled(template: Template, record: ByIdentity, frames: int, step: float, told: bool) -> str:
    """The prompt but for time stamps and context: all that windows of one record share.

    told: whether there is context. A template that forgets it has it at its end; one with a line for it loses the
    line where there is none.
    """
    description = record.description
    fields = {
        "description": clean(description.text),
        "variables": _listed([f"{name} in {units}" if units else name for name, units in _variables(description)]),
        "region": _region(description.grid),
        "times": GAP,
        "step": _duration(step),
        "frames": str(frames),
        "statistics": _statistics(description),
        "pictures": _pictures(description, template.picture, frames),
        "colours": _colours(description),
        "words": str(template.words),
        "answer": _answer(template.output),
        "context": TOLD if told else "",
    }
    wanted = string.Template(template.text if told else CONTEXT_LINE.sub("", template.text))
    text = wanted.substitute(fields)
    if template.output == "json" and "answer" not in wanted.get_identifiers():
        text += f"\n\n{fields['answer']}"
    return f"{text}\n\n{TOLD}" if told and "context" not in wanted.get_identifiers() else text


# The fields.


def _times(request: CaptionRequest) -> str:
    calendar = request.description.time_stamps != "nominal"
    first, last = _ends(request.times, calendar)
    if calendar:
        return f"from {first} to {last} {'UTC' if request.description.time_stamps == 'calendar' else 'local time'}."
    return (
        "time stamps are nominal: they order the frames but tell no date, season or time of day. "
        f"The first frame is labelled {first}, the last {last}."
    )


def _context(request: CaptionRequest) -> str:
    """A sentence about what was known at the time of the frames; empty if nothing was.

    Facts that hold in the same frames stand together, behind the time of the first and last of them.
    """
    runs: dict[tuple[int, int], list[str]] = {}
    facts = [_facts(line) for line in request.context]
    for fact in dict.fromkeys(chain.from_iterable(facts)):
        for run in _runs([fact in known for known in facts]):
            runs.setdefault(run, []).append(fact)
    labels = _short_labels(request)
    said, length = [], 0
    for (first, last), known in sorted(runs.items(), key=lambda item: (item[0][0], -item[0][1])):
        when = "" if last - first + 1 == len(labels) else " to ".join(dict.fromkeys((labels[first], labels[last])))
        said.append(f"{when} {', '.join(known)}".strip())
        length += len(said[-1])
        if length > LONGEST_CONTEXT:
            said[-1] = "and more"
            break
    return f"Known at the time of the frames: {'; '.join(said)}." if said else ""


def _facts(line: str) -> list[str]:
    """What one frame's context tells, each as plain text of bounded length."""
    parts = [clean(part)[:LONGEST_FACT].strip(" .") for part in line.split(";")]
    return [part for part in parts if part]


def _runs(holds: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """First and last place of each run of True."""
    for value, places in groupby(range(len(holds)), key=holds.__getitem__):
        if value:
            several = list(places)
            yield several[0], several[-1]


def _short_labels(request: CaptionRequest) -> list[str]:
    """The frames' labels, without the date where they are all of one day."""
    labels = frame_labels(request.times, request.description.time_stamps != "nominal")
    one_day = len({label.split(" ")[0] for label in labels}) == 1 and request.description.time_stamps != "nominal"
    return [label.split(" ")[1] for label in labels] if one_day else labels


def _ends(times: NDArray[np.datetime64], calendar: bool) -> tuple[str, str]:
    """The labels of the first and the last frame, as the pictures have them."""
    labels = frame_labels(times, calendar)
    return labels[0], labels[-1]


def _variables(description: Description) -> list[tuple[str, str]]:
    """Name and units of each variable, for people."""
    return [
        (clean(variable.long_name) or clean(variable.name), units_text(clean(shown_units(variable, description.grid))))
        for variable in description.variables
    ]


def _region(grid: Grid) -> str:
    (south, north), (west, east) = ((float(axis[0]), float(axis[-1])) for axis in (grid.y, grid.x))
    if not grid.geographic:
        rows, columns = grid.shape
        left, right, low, high = (number(float(f"{edge:.4g}")) for edge in (west, east, south, north))
        extents = f"x runs from {left} to {right} to the right, y from {low} to {high}"
        units = f", in {units_text(clean(grid.units))}" if grid.units else ""
        return f"a plane of {rows} rows and {columns} columns; {extents} upwards{units}"
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


def _pictures(description: Description, picture: Picture, frames: int) -> str:
    order = ", then ".join(name for name, _ in _variables(description))
    up = "north is up and east to the right" if description.grid.geographic else "y points up and x to the right"
    side_by_side = frames_side_by_side(description.grid, picture.pixels, frames)
    if picture.layout == "sheet" and side_by_side < frames:
        return (
            f"one sheet of maps in blocks of {side_by_side} frames, time running from left to right and on in the "
            f"block below, a column a frame; rows of a block from the top: {order}; {up}."
        )
    if picture.layout == "sheet":
        return (
            f"one sheet of maps, time running from left to right, a column a frame; rows from the top: {order}; {up}."
        )
    what = "a video" if picture.layout == "video" else "a series of pictures"
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


def _duration(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in PERIODS if seconds % size == 0), PERIODS[-1])
    count = number(round(seconds / size, 3))
    return f"{count} {unit}{'' if count == '1' else 's'}"


def _listed(items: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
