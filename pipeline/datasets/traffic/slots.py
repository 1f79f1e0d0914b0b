"""Slots of a day: how files of TaxiBJ's family name their times, YYYYMMDDSS, and which days are whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.files.arrays import hdf5_values
from pipeline.errors import UserError

DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Slots:
    """How a file counts the slots of a day: `minutes` each, numbered from `first`."""

    minutes: int
    first: int

    @property
    def per_day(self) -> int:
        return DAY_MINUTES // self.minutes

    @classmethod
    def of(cls, numbers: NDArray[np.integer], path: Path) -> Slots:
        """From T30 or T60 in the file's name, else from the numbers; raises UserError if the two do not fit."""
        named = re.search(r"_T(\d+)", path.name)
        low, high = int(numbers.min()), int(numbers.max())
        first = 1 if low else 0
        minutes = int(named[1]) if named else 30 if high - first >= 24 else 60
        if minutes not in (30, 60) or high >= first + DAY_MINUTES // minutes:
            raise UserError(
                f"{path}: the slots of a day go from {low:02d} to {high:02d}; "
                "known are half hours (T30) from 01 to 48 or 00 to 47 and hours (T60) from 01 to 24 or 00 to 23"
            )
        return cls(minutes, first)


def slot_times(path: Path) -> tuple[NDArray[np.datetime64], Slots]:
    """(T,) the start of each slot that the `date` of an HDF5 file names, and how it counts; raises UserError."""
    dates = hdf5_values(path, "date", rank=1, kinds="S")
    texts = [date.decode("latin-1").strip() for date in dates.tolist()]
    for number, text in enumerate(texts):
        if not re.fullmatch(r"\d{10}", text):
            raise UserError(f"{path}: date {number} is {text!r}; needed is YYYYMMDDSS, such as 2016041048")
    days = [day_of(text, f"{path}: date {number}") for number, text in enumerate(texts)]
    numbers = np.array([int(text[8:]) for text in texts])
    slots = Slots.of(numbers, path)
    since = (numbers - slots.first) * slots.minutes
    return np.array(days, "datetime64[m]").astype("datetime64[ms]") + since.astype("timedelta64[m]"), slots


def slot_names(times: NDArray[np.datetime64], slots: Slots) -> NDArray[np.bytes_]:
    """(T,) `times` as `date` has them, YYYYMMDDSS: the inverse of `slot_times`."""
    days = times.astype("datetime64[D]")
    numbers = (times - days).astype("timedelta64[m]").astype(int) // slots.minutes + slots.first
    return np.array([f"{day}".replace("-", "") + f"{slot:02d}" for day, slot in zip(days, numbers, strict=True)], "S10")


def day_of(text: str, what: str) -> np.datetime64:
    try:
        return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}", "D")
    except ValueError:
        raise UserError(f"{what} is '{text}', which is no day of the calendar; needed is YYYYMMDD first") from None


def complete_days(times: NDArray[np.datetime64], slots: Slots, path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """The rows of the days that have all their slots, in order of time, each once; and notes."""
    moments, rows = np.unique(times, return_index=True)
    days, day, counts = np.unique(moments.astype("datetime64[D]"), return_inverse=True, return_counts=True)
    whole = counts == slots.per_day
    span = int((days[-1] - days[0]).astype(int)) + 1
    if not whole.any():
        raise UserError(
            f"{path}: none of its {span} days from {days[0]} to {days[-1]} has all {slots.per_day} slots of "
            f"{slots.minutes} minutes; the fullest has {counts.max()}"
        )
    notes = [
        f"{path.name}: {len(moments)} of {span * slots.per_day} slots of {slots.minutes} minutes from {days[0]} to "
        f"{days[-1]} are there; {span - int(whole.sum())} of {span} days lack some and are left out, with "
        f"{int((~whole[day]).sum())} frames"
    ]
    if len(moments) < len(times):
        notes.append(f"{path.name}: {len(times) - len(moments)} frames repeat a time stamp; the first of each is kept")
    if (np.diff(rows) < 0).any():
        notes.append(f"{path.name}: time stamps do not ascend; the frames were put in order")
    return rows[whole[day]], notes
