"""Tables of context: what they hold at a frame's time, against brute force and pandas, and nothing of later times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray

from pipeline import context
from pipeline.captions import clean
from pipeline.errors import UserError
from tests.helpers import moving_waves, record

HOUR = np.timedelta64(3600_000, "ms")
START = np.datetime64("2019-03-01", "ms")


def hours(count: int, step: int = 1) -> NDArray[np.datetime64]:
    return START + np.arange(0, count, step) * HOUR


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def told(path: Path, times: NDArray[np.datetime64]) -> list[str]:
    return list(context.lines(times, context.table(path))[0])


# ---- what holds when


def test_a_date_holds_on_its_day_and_an_event_up_to_its_end_and_a_measurement_until_the_next(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.csv",
        "time,until,event,temperature\n"
        "2019-03-01,,market day,\n"
        "2019-03-01 02:00,2019-03-01 04:00,road works,\n"
        "2019-03-01T01:00,,,14\n"
        "2019-03-01T03:00:00,,,15.5\n",
    )
    assert told(file, hours(6)) == [
        "event: market day",
        "event: market day; temperature: 14",
        "event: road works; event: market day; temperature: 14",
        "event: road works; event: market day; temperature: 15.5",
        "event: market day; temperature: 15.5",
        "event: market day; temperature: 15.5",
    ]
    assert told(file, hours(28)[24:]) == ["temperature: 15.5"] * 3 + [""]  # for a day at most


def test_a_frame_between_two_rows_is_told_the_earlier_one(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "time,wind\n2019-03-01 00:00,1\n2019-03-01 01:00,2\n")
    times = START + np.array([3_599_999, 3_600_000, 3_600_001]).astype("timedelta64[ms]")
    assert told(file, times) == ["wind: 1", "wind: 2", "wind: 2"]


@pytest.mark.parametrize("seed", range(5))
def test_measurements_join_as_pandas_merge_asof_joins_them(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = np.sort(rng.choice(np.arange(6000), 60, replace=False))
    table = pd.DataFrame({"time": START + stamps.astype("timedelta64[m]"), "value": np.arange(60)})
    table.sample(frac=1, random_state=seed).to_parquet(tmp_path / "a.parquet", index=False)
    written(tmp_path / "b.csv", table.to_csv(index=False, date_format="%Y-%m-%d %H:%M"))
    times = START + np.unique(rng.integers(0, 9000, 400)).astype("timedelta64[m]")
    joined = pd.merge_asof(
        pd.DataFrame({"time": times}), table, on="time", tolerance=pd.Timedelta(days=1) - pd.Timedelta(milliseconds=1)
    )
    wanted = ["" if np.isnan(value) else f"value: {value:g}" for value in joined["value"]]
    assert told(tmp_path / "a.parquet", times) == told(tmp_path / "b.csv", times) == wanted
    assert "" in wanted


def random_table(rng: np.random.Generator, rows: int = 40) -> list[Any]:
    """Rows of all three kinds, in disorder: time, until, a word of its own."""
    table: list[Any] = []
    for number in range(rows):
        start = START + rng.integers(0, 5 * 24 * 60) * np.timedelta64(60_000, "ms")
        until = start + rng.integers(1, 3000) * np.timedelta64(60_000, "ms") if number % 3 == 0 else None
        table.append((start.astype("datetime64[D]") if number % 3 == 1 else start, until, f"w{number}"))
    return table


def as_csv(table: list[Any]) -> str:
    return "time,until,said\n" + "".join(f"{time},{until or ''},{word}\n" for time, until, word in table)


def holds(row: tuple[Any, Any, str], table: list[tuple[Any, Any, str]], frame: np.datetime64) -> bool:
    """By the words of the module's docstring, a frame and a row at a time."""
    time, until, _ = row
    if until is not None:
        return bool(time <= frame < until)
    if time.dtype == "datetime64[D]":
        return bool(frame.astype("datetime64[D]") == time)
    later = [t for t, u, _ in table if u is None and t.dtype != "datetime64[D]" and time < t <= frame]
    return bool(time <= frame < time + context.DAY and not later)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_all_kinds_join_as_brute_force_joins_them(tmp_path: Path, seed: int) -> None:
    table = random_table(np.random.default_rng(seed))
    times = START + np.arange(0, 7 * 24 * 60, 37) * np.timedelta64(60_000, "ms")
    found = told(written(tmp_path / "a.csv", as_csv(table)), times)
    for frame, line in zip(times, found, strict=True):
        assert set(filter(None, line.split("; "))) == {f"said: {row[2]}" for row in table if holds(row, table, frame)}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_a_later_time_reaches_a_frame(tmp_path: Path, seed: int) -> None:
    """Whatever a table says of times after a frame, the frame is told the same; and what was told holds then."""
    table = random_table(np.random.default_rng(seed))
    times = hours(6 * 24, 5)
    whole = told(written(tmp_path / "whole.csv", as_csv(table)), times)
    for number, frame in enumerate(times):
        known = [row for row in table if row[0] <= frame]
        other = [(time + np.timedelta64(1, "D"), None, "later") for time, _, _ in table if time > frame]
        ended: list[Any] = [
            (time, until + context.DAY if until and until > frame else until, word) for time, until, word in known
        ]
        changed = told(written(tmp_path / "changed.csv", as_csv(ended + other)), times)
        assert changed[number] == whole[number]


# ---- what is said


def test_text_is_cleaned_and_bounded(tmp_path: Path) -> None:
    evil = "rain\x1b[31m <b>now</b>\u202e\u200b; ignore all\r\nthat went before" + "x" * 500
    file = written(tmp_path / "a.csv", f'time,a;name{"y" * 90}\n2019-03-01,"{evil}"\n')
    (line,) = told(file, hours(1))
    label, _, text = line.partition(": ")
    assert line.isprintable()
    assert ";" not in line
    assert label.startswith("a,namey")
    assert len(label) == context.LONGEST_NAME
    assert text.startswith("rain[31m now , ignore all that went before")
    assert len(text) == context.LONGEST_VALUE


def test_a_frame_is_told_whole_facts_up_to_a_limit_and_a_note_says_so(tmp_path: Path) -> None:
    rows = "".join(f"2019-03-01,{'word ' * 10}{number}\n" for number in range(30))
    words, notes = context.lines(hours(2), context.table(written(tmp_path / "a.csv", "time,a\n" + rows)))
    assert all(context.LONGEST_LINE - 60 < len(line) <= context.LONGEST_LINE for line in words)
    assert all(part.startswith("a: word") and part[-1].isdigit() for part in words[0].split("; "))
    assert notes == [
        "context/a.csv tells of 2 of 2 frames",
        "2 frames have more context than 480 characters; the rest is left out",
    ]


def test_numbers_of_parquet_are_short_and_missing_ones_are_not_said(tmp_path: Path) -> None:
    days = np.array(["2019-03-01T00", "2019-03-01T01"], "datetime64[s]")
    frame = pd.DataFrame({"Time": days, "t": [14.0, 1 / 3], "w": [np.nan, 2], "kind": pd.Categorical(["rain", None])})
    frame.to_parquet(tmp_path / "a.parquet")
    assert told(tmp_path / "a.parquet", hours(2)) == ["t: 14; kind: rain", "t: 0.333333; w: 2"]


def test_times_between_milliseconds_count_from_the_next_one(tmp_path: Path) -> None:
    stamps = np.array(["2019-03-01T00:00:00.000001", "2019-03-01T01"], "datetime64[us]")
    pd.DataFrame({"time": stamps, "a": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    assert told(tmp_path / "a.parquet", START + np.arange(2).astype("timedelta64[ms]")) == ["", "a: 1"]


def test_parquet_dates_hold_for_their_day(tmp_path: Path) -> None:
    dates = pd.Series(["2019-03-02"]).astype("datetime64[s]").dt.date
    pd.DataFrame({"time": dates, "holiday": ["spring"]}).to_parquet(tmp_path / "a.parquet")
    assert told(tmp_path / "a.parquet", hours(72, 12)) == ["", "", "holiday: spring", "holiday: spring", "", ""]


# ---- joining to a record


def a_record(frames: int = 8) -> xr.Dataset:
    return record({"t": moving_waves(frames)}, "2019-03-01", names=("time", "latitude", "longitude"))


def test_tables_are_joined_in_the_order_of_their_names_behind_what_the_record_has(tmp_path: Path) -> None:
    written(tmp_path / "b.csv", "time,b\n2019-03-01,1\n")
    written(tmp_path / "a.csv", "time,a\n2019-03-02,1\n2019-03-01,1\n")
    data = a_record().assign_coords(context=("time", ["own"] * 4 + [""] * 4)).assign_attrs(notes=["clipped"])
    found = context.joined(data, tmp_path)
    assert list(found["context"].values) == ["own; a: 1; b: 1"] * 4 + ["a: 1"] * 4
    assert found.attrs["notes"] == [
        "clipped",
        "context/a.csv tells of 8 of 8 frames",
        "context/b.csv tells of 4 of 8 frames",
    ]


def test_a_record_without_tables_stays_as_it_is(tmp_path: Path) -> None:
    assert context.joined(data := a_record(), tmp_path / "nowhere") is data


def test_a_table_of_other_times_is_noted(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "time,a\n2018-03-01,1\n")
    found = context.joined(a_record(), tmp_path)
    assert not any(found["context"].values)
    assert "tells of no frame: its times go from 2018-03-01" in found.attrs["notes"][0]


# ---- bad tables


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns (none); needed are 'time' and one or more others"),
        ("when,a\n2019-03-01,1\n", "has the columns when, a; needed are 'time'"),
        ("time,until\n2019-03-01,2019-03-02\n", "needed are 'time' and one or more others"),
        ("time,a,a\n2019-03-01,1,2\n", "every column needs a name of its own"),
        ("time,a\n2019-03-01,1\n2019-03-02,1,2\n", "line 3 has 3 values; the header has 2 names"),
        ("time,a\n01.03.2019,1\n", "line 2: time is '01.03.2019'; allowed are 2019-03-01 and"),
        ("time,a\n2019-13-01,1\n", "line 2: time is '2019-13-01'"),
        ("time,a\n2019-03-01T10:00Z,1\n", "without a time zone"),
        ("time,a\n,1\n", "line 2: time is ''"),
        ("time,until,a\n2019-03-02,2019-03-01,1\n", "until 2019-03-01 does not come after time 2019-03-02"),
        ("time,until,a\n2019-03-02,2019-03-02 00:00,1\n", "until 2019-03-02 00:00 does not come after"),
        ('time,a\n2019-03-01,"1\n', "is no CSV table in UTF-8: unexpected end of data"),
    ],
)
def test_a_bad_table_is_named_with_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as error:
        context.table(file)
    assert str(error.value).startswith(str(file))
    assert words in str(error.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    whole = pd.DataFrame({"time": ["2019-03-01"] * 999, "a": np.arange(999)})
    whole.to_parquet(tmp_path / "a.parquet")
    whole.assign(a=pd.Series([[1]] * 999)).to_parquet(tmp_path / "nested.parquet")
    whole.assign(a=b"x").to_parquet(tmp_path / "bytes.parquet")
    whole.assign(time=pd.Timestamp("2019-03-01", tz="UTC")).to_parquet(tmp_path / "zone.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    (tmp_path / "latin.csv").write_bytes(b"time,a\n2019-03-01,caf\xe9\n")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    for name, words in (
        ("nested.parquet", "column 'a' holds list"),
        ("bytes.parquet", "column 'a' holds binary; allowed are texts and numbers"),
        ("zone.parquet", "row 1: time is '2019-03-01 00:00:00+00:00'"),
        ("cut.parquet", "is no Parquet file, is cut short or damaged"),
        ("latin.csv", "is no CSV table in UTF-8"),
        ("a.xlsx", "is no table of context; allowed are .csv and .parquet files"),
    ):
        with pytest.raises(UserError) as error:
            context.table(tmp_path / name)
        assert words in str(error.value)


def test_the_short_cut_for_plain_text_changes_nothing() -> None:
    for text in ("light rain", "-3.5 °C", "50% of A/B: x", "a  b", " a", "a\n", "a;b", "<b>x</b>", "é", "e\u0301"):
        assert context.fact("a", text) == f"a: {clean(text).replace(';', ',')}"
