"""Weather and holidays as TaxiBJ has them beside its flows, as facts for the captioner.

`*_Meteorology.h5`: `date` as the flows have it, `Temperature`, `WindSpeed` and `Weather`, one-hot of 17 kinds; a row
holds until the next. `*_Holiday.txt`: a line YYYYMMDD for each holiday, which is known when the day begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Facts, fact
from pipeline.datasets.files.arrays import hdf5_values
from pipeline.datasets.traffic.slots import day_of, slot_times
from pipeline.errors import UserError

METEOROLOGY, HOLIDAYS = "_Meteorology.h5", "_Holiday.txt"  # how the files' names end
UNITS = {"temperature": "°C", "wind speed": "mph"}  # as the paper's table of the data has them
WEATHER = (  # the columns of the one-hot `Weather`
    "sunny",
    "cloudy",
    "overcast",
    "rain",
    "sprinkle",
    "moderate rain",
    "heavy rain",
    "rainstorm",
    "thunderstorm",
    "freezing rain",
    "snow",
    "light snow",
    "moderate snow",
    "heavy snow",
    "fog",
    "sandstorm",
    "dust",
)


def weather(files: Iterable[Path]) -> list[Facts]:
    """What each slot's row of a file of meteorology tells, until the next row."""
    found = []
    for path in (path for path in files if path.name.endswith(METEOROLOGY)):
        times, _ = slot_times(path)
        columns = {"temperature": "Temperature", "wind speed": "WindSpeed"}
        values = {name: hdf5_values(path, column, rank=1) for name, column in columns.items()}
        kinds = hdf5_values(path, "Weather", rank=2)
        lengths = {len(times), len(kinds), *map(len, values.values())}
        if len(lengths) > 1 or kinds.shape[1] != len(WEATHER):
            raise UserError(
                f"{path}: 'Weather' has the shape {kinds.shape}; needed is ({len(times)} as 'date', {len(WEATHER)}), "
                "and Temperature and WindSpeed of that length"
            )
        found.append(Facts.until_the_next(path.name, times, _told(values, kinds)))
    return found


def _told(values: Mapping[str, NDArray[Any]], kinds: NDArray[Any]) -> list[tuple[str, ...]]:
    told = []
    for row, kind in enumerate(kinds):
        kinds_told = " and ".join(WEATHER[number] for number in np.flatnonzero(kind > 0))
        measured = {name: float(column[row]) for name, column in values.items()}
        facts = [fact(name, f"{value:.6g} {UNITS[name]}") for name, value in measured.items() if np.isfinite(value)]
        facts += [fact("weather", kinds_told)]
        told.append(tuple(filter(None, facts)))
    return told


def holidays(files: Iterable[Path]) -> list[Facts]:
    found = []
    for path in (path for path in files if path.name.endswith(HOLIDAYS)):
        days = []
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            text = line.decode("latin-1").strip()
            if text and not re.fullmatch(r"\d{8}", text):
                raise UserError(f"{path}, line {number} is {text[:20]!r}; needed is a day as YYYYMMDD")
            days += [day_of(text, f"{path}, line {number}")] if text else []
        found.append(Facts.of_days(path.name, np.array(days, "datetime64[D]"), [("holiday",)] * len(days)))
    return found
