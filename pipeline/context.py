"""What was known at the time of a frame besides the fields: weather, holidays, events, from tables with time stamps.

It goes in words to the captioner's prompt, never to a model. A fact holds from a moment up to, and without, another;
a frame is told what holds at its own time stamp, so nothing that a table says of later times, nor when an event
will end, reaches it. Times are on the record's own clock.

Tables are CSV (UTF-8, commas) or Parquet, with a column `time`, perhaps `until`, and others, each of which gives
"column: value" where it is not empty. A row holds

    with `until`           from `time` up to it
    with a date as `time`  on that day: a value of the whole day is taken as known when the day begins
    otherwise              until the time of the next such row of the table, for a day at most
"""

from __future__ import annotations

import csv
import datetime
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.captions import clean
from pipeline.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)

LONGEST_NAME = 36  # characters of a column's name, a value, and all that one frame is told
LONGEST_VALUE = 80
LONGEST_LINE = 480
DAY: Any = np.timedelta64(24 * 60 * 60 * 1000, "ms")
PLAIN = re.compile(r"[\w.:°%/+-]+( [\w.:°%/+-]+)*", re.ASCII)  # what `clean`, which takes its time, would leave
STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?)?")


@dataclass(frozen=True)
class Facts:
    """Words with the time in which each holds: from `start` up to, and without, `end`; datetime64[ms]."""

    source: str
    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]
    words: Sequence[tuple[str, ...]]

    @classmethod
    def of_days(cls, source: str, days: NDArray[np.datetime64], words: Sequence[tuple[str, ...]]) -> Facts:
        """Each holds on its day."""
        start = days.astype("datetime64[D]").astype("datetime64[ms]")
        return cls(source, start, start + DAY, words)

    @classmethod
    def until_the_next(cls, source: str, times: NDArray[np.datetime64], words: Sequence[tuple[str, ...]]) -> Facts:
        """Each holds until the next time stamp that differs from its own, for a day at most."""
        start = times.astype("datetime64[ms]")
        moments = np.unique(start)
        last = moments[-1:] + DAY
        after = np.concatenate([moments[1:], last])[np.searchsorted(moments, start)]
        return cls(source, start, np.where(after < start + DAY, after, start + DAY), words)


def joined(data: xr.Dataset, folder: Path) -> xr.Dataset:
    """`data` with the coordinate `context` of the tables in `folder`, behind what it has already.

    Raises UserError, naming file and row, for a table that cannot be used.
    """
    tables = read(folder)
    if not tables:
        return data
    own = data["context"].values if "context" in data.coords else None
    words, notes = lines(data["time"].values, tables, own)
    notes = [*data.attrs.get("notes", []), *notes]
    return data.assign_coords(context=("time", words)).assign_attrs(notes=notes)


def lines(
    times: NDArray[np.datetime64], tables: Iterable[Facts], before: Sequence[str] | NDArray[Any] | None = None
) -> tuple[NDArray[np.object_], list[str]]:
    """(time,) what is known at each of the ascending `times`, facts parted by "; ", and notes about the tables."""
    moments = times.astype("datetime64[ms]")
    said: list[dict[str, None]] = [{} for _ in moments] if before is None else [_parted(line) for line in before]
    notes = []
    for table in tables:
        told = np.zeros(len(moments), dtype=bool)
        first, last = (np.searchsorted(moments, edge, side="left") for edge in (table.start, table.end))
        for start, stop, words in zip(first, last, table.words, strict=True):
            told[start:stop] |= bool(words)
            for frame in range(start, stop):
                said[frame].update(dict.fromkeys(words))
        notes.append(_note(table, moments, int(told.sum())))
    whole = ["; ".join(words) for words in said]
    kept = np.array([_cut(line) for line in whole], dtype=object)
    longer = sum(len(line) > LONGEST_LINE for line in whole)
    if longer:
        notes.append(f"{longer} frames have more context than {LONGEST_LINE} characters; the rest is left out")
    return kept, notes


def fact(name: str, value: Any) -> str:
    """One line of plain text of bounded length, "name: value"; empty if the value is empty or no finite number."""
    if isinstance(value, float | np.floating):
        value = f"{value:.6g}" if np.isfinite(value) else ""
    label, text = (_plain(str(part)) for part in (name, value))
    return f"{label[:LONGEST_NAME].strip()}: {text[:LONGEST_VALUE].strip()}" if text else ""


def _plain(text: str) -> str:
    return text if PLAIN.fullmatch(text) else clean(text).replace(";", ",")


def _parted(line: str) -> dict[str, None]:
    return dict.fromkeys(part for part in line.split("; ") if part)


def _cut(line: str) -> str:
    """Whole facts only."""
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE + 2].rpartition("; ")[0]


def _note(table: Facts, times: NDArray[np.datetime64], told: int) -> str:
    if told or not len(table.words):
        return f"{table.source} tells of {told} of {len(times)} frames"
    return (
        f"{table.source} tells of no frame: its times go from {table.start.min()} to {table.end.max()}, the record's "
        f"from {times[0]} to {times[-1]}"
    )


# ---- tables


def read(folder: Path) -> list[Facts]:
    """The tables in a folder, by their names; raises UserError for what is no table."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [part for path in files for part in table(path)]


def table(path: Path) -> list[Facts]:
    """The rows of a CSV or Parquet file, those that hold in the same manner together. Raises UserError."""
    rows = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    if rows is None:
        raise UserError(f"{path} is no table of context; allowed are .csv and .parquet files")
    parsed = [_row(f"{path}, {place}", row) for place, row in rows(path)]
    name = f"context/{path.name}"
    with_end = [row for row in parsed if row.until is not None]
    of_days = [row for row in parsed if row.until is None and row.is_day]
    others = [row for row in parsed if row.until is None and not row.is_day]
    found = (
        Facts(name, _stamps(row.start for row in with_end), _stamps(row.until for row in with_end), _words(with_end)),
        Facts.of_days(name, _stamps(row.start for row in of_days), _words(of_days)),
        Facts.until_the_next(name, _stamps(row.start for row in others), _words(others)),
    )
    return [facts for facts in found if len(facts.words)]


@dataclass(frozen=True)
class _Row:
    start: np.datetime64
    is_day: bool  # its time is a date alone
    until: np.datetime64 | None
    words: tuple[str, ...]


def _stamps(moments: Iterable[Any]) -> NDArray[np.datetime64]:
    return np.array(list(moments), dtype="datetime64[ms]")


def _words(rows: Sequence[_Row]) -> list[tuple[str, ...]]:
    return [row.words for row in rows]


def _row(place: str, row: dict[str, Any]) -> _Row:
    start, is_day = _moment(row["time"], f"{place}: time")
    until = _moment(row["until"], f"{place}: until")[0] if row.get("until") else None
    if until is not None and until <= start:
        raise UserError(f"{place}: until {row['until']} does not come after time {row['time']}")
    words = [fact(name, value) for name, value in row.items() if name not in ("time", "until")]
    return _Row(start, is_day, until, tuple(word for word in words if word))


def _moment(value: Any, what: str) -> tuple[np.datetime64, bool]:
    """A time stamp, and whether it is a date alone; raises UserError about `what`."""
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return np.datetime64(value, "ms"), True
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        value = (value + datetime.timedelta(microseconds=-value.microsecond % 1000)).isoformat(timespec="milliseconds")
    matched = STAMP.fullmatch(str(value).strip())
    try:
        if matched:
            return np.datetime64(matched[0].replace(" ", "T"), "ms"), matched[2] is None
    except ValueError:
        pass  # a month 13
    raise UserError(
        f"{what} is '{clean(str(value))[:LONGEST_VALUE]}'; allowed are 2019-03-01 and 2019-03-01 09:30[:00[.000]], "
        "on the record's clock and without a time zone"
    )


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            names = _checked_names(path, next(reader, []))
            for row in filter(None, reader):
                place = f"line {reader.line_num}"
                if len(row) != len(names):
                    raise UserError(f"{path}, {place} has {len(row)} values; the header has {len(names)} names")
                yield place, dict(zip(names, row, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV table in UTF-8: {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no Parquet file, is cut short or damaged: {error}") from None
    names = _checked_names(path, rows.column_names)
    for field in rows.schema:
        if not _is_plain(field.type):
            raise UserError(f"{path}: column '{clean(field.name)}' holds {field.type}; allowed are texts and numbers")
    number = 0
    for batch in rows.to_batches(max_chunksize=10000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            number += 1
            yield f"row {number}", dict(zip(names, ("" if value is None else value for value in row), strict=True))


def _is_plain(kind: Any) -> bool:
    """Whether values of an Arrow type are texts, numbers or times."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    allowed = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    return any(test(kind) for test in (*allowed, types.is_decimal, types.is_temporal, types.is_null))


def _checked_names(path: Path, names: Sequence[str]) -> list[str]:
    cleaned = [clean(name) for name in names]
    cleaned = [name.lower() if name.lower() in ("time", "until") else name for name in cleaned]
    if "time" not in cleaned or not set(cleaned) - {"time", "until"}:
        raise UserError(
            f"{path} has the columns {', '.join(cleaned) or '(none)'}; needed are 'time' and one or more others"
        )
    if len(set(cleaned)) < len(cleaned) or "" in cleaned:
        raise UserError(f"{path} has the columns {', '.join(cleaned)}; every column needs a name of its own")
    return cleaned
