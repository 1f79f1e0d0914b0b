"""TaxiBJ's two layouts: customs, slots, context beside the flows, fetching, the whole way to a store, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from pipeline import paths
from pipeline.datasets.taxibj import TaxiBJ
from pipeline.datasets.traffic.slots import Slots, slot_names, slot_times
from pipeline.errors import UserError
from pipeline.store import Store
from stages import fetch, ingest
from tests.datasets.flow_files import counts, days, write_flows, write_weather
from tests.helpers import tiny_params

NAME = "BJ13_M32x32_T30_InOut.h5"
BOTH = ("inflow", "outflow")


def reader(source: object = None, variables: tuple[str, ...] = BOTH, years: Any = None, **settings: Any) -> TaxiBJ:
    params = tiny_params(
        dataset="taxibj",
        fetch={"source": None if source is None else str(source), "years": years},
        ingest={"variables": variables, **settings},
    )
    return TaxiBJ(params.fetch, params.ingest, params.seed)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def notes(data: xr.Dataset) -> str:
    return "; ".join(data.attrs["notes"])


def complaint(folder: Path, source: TaxiBJ | None = None) -> str:
    with pytest.raises(UserError) as error:
        (source or reader()).open(folder)
    return str(error.value)


# ---- flows by slot


def test_complete_days_are_read_with_time_stamps_cells_and_units(raw: Path) -> None:
    times, data = days("2013-07-01", 3), counts(144)
    write_flows(raw / NAME, times, data)
    found = reader().open(raw)
    assert list(found.data_vars) == ["inflow", "outflow"]
    for channel, name in enumerate(BOTH):
        assert found[name].dims == ("time", "y", "x")
        assert found[name].dtype == np.float32
        assert found[name].chunks is not None
        assert found[name].attrs["units"] == "vehicles per slot"
        np.testing.assert_array_equal(found[name].values, data[:, channel])
    np.testing.assert_array_equal(found["time"].values, times)
    np.testing.assert_array_equal(found["y"].values, range(4))
    assert notes(found).startswith(
        f"{NAME}: 144 of 144 slots of 30 minutes from 2013-07-01 to 2013-07-03 are there; 0 of 3"
    )
    assert "context" not in found.coords


def test_one_flow_can_be_chosen_and_others_are_unknown(raw: Path) -> None:
    data = counts(48)
    write_flows(raw / NAME, days("2013-07-01", 1), data)
    np.testing.assert_array_equal(reader(variables=("outflow",)).open(raw)["outflow"].values, data[:, 1])
    assert "'speed' is unknown; allowed are inflow and outflow" in complaint(raw, reader(variables=("speed",)))


def brute_force(times: np.ndarray, data: np.ndarray) -> dict[np.datetime64, np.ndarray]:
    """DeepST's customs and the first of repeated frames, a day at a time."""
    kept: dict[np.datetime64, np.ndarray] = {}
    for day in np.unique(times.astype("datetime64[D]")):
        of_day: dict[np.datetime64, np.ndarray] = {}
        for time, frame in zip(times, data, strict=True):
            if time.astype("datetime64[D]") == day:
                of_day.setdefault(time, np.maximum(frame, 0))
        if len(of_day) == 48:
            kept |= of_day
    return dict(sorted(kept.items()))


@pytest.mark.parametrize("seed", range(3))
def test_missing_repeated_and_disordered_slots_and_negative_counts_are_put_right(raw: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.delete(days("2013-07-01", 8), [60, 61, 200])  # days 2 and 5 lack slots
    times = np.append(times, times[[5, 90]])
    data = counts(len(times), seed=seed) - np.float32(8)
    order = rng.permutation(len(times))
    times, data = times[order], data[order]
    write_flows(raw / NAME, times, data)
    found = reader().open(raw)
    wanted = brute_force(times, data)
    np.testing.assert_array_equal(found["time"].values, list(wanted))
    np.testing.assert_array_equal(found["inflow"].values, np.stack(list(wanted.values()))[:, 0])
    np.testing.assert_array_equal(found["outflow"].values, np.stack(list(wanted.values()))[:, 1])
    _, first = np.unique(times, return_index=True)
    whole = [row for row in first if times[row] in wanted]
    negative = int((data[whole] < 0).sum())
    assert "381 of 384 slots of 30 minutes from 2013-07-01 to 2013-07-08 are there; 2 of 8 days lack some" in notes(
        found
    )
    assert "are left out, with 93 frames" in notes(found)
    assert "2 frames repeat a time stamp; the first of each is kept" in notes(found)
    assert "time stamps do not ascend; the frames were put in order" in notes(found)
    assert negative > 0
    assert f"{negative} negative counts were set to 0" in notes(found)


def test_files_of_several_years_join_in_order_of_time_with_a_gap_between(raw: Path) -> None:
    first, second = counts(96, seed=1), counts(144, seed=2)
    write_flows(raw / "a" / "BJ14_M32x32_T30_InOut.h5", days("2014-03-01", 3), second)
    write_flows(raw / "z" / NAME, days("2013-07-01", 2), first)
    found = reader().open(raw)
    np.testing.assert_array_equal(found["inflow"].values, np.concatenate([first, second])[:, 0])
    assert found["inflow"].attrs["source_files"] == {f"z/{NAME}": 96, "a/BJ14_M32x32_T30_InOut.h5": 144}
    assert len(found.attrs["notes"]) == 2


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("BJ16_M32x32_T30_InOut.h5", Slots(30, 1)),
        ("TaxiNYC_T30.h5", Slots(30, 0)),
        ("NYC14_M16x8_T60_InOut.h5", Slots(60, 1)),
        ("TaxiNYC_T60.h5", Slots(60, 0)),
        ("city.h5", Slots(30, 1)),
        ("city.h5", Slots(30, 0)),
        ("city.h5", Slots(60, 1)),
        ("city.h5", Slots(60, 0)),
    ],
)
def test_slots_are_half_hours_or_hours_counted_from_nought_or_one(raw: Path, name: str, slots: Slots) -> None:
    times = days("2015-02-27", 3, slots.minutes)
    path = write_flows(raw / name, times, counts(len(times)), slots)
    found, how = slot_times(path)
    assert how == slots
    np.testing.assert_array_equal(found, times)
    np.testing.assert_array_equal(reader().open(raw)["time"].values, times)


def test_the_first_slot_of_taxibj_is_midnight_and_the_last_half_past_eleven(raw: Path) -> None:
    path = write_flows(raw / NAME, days("2016-04-10", 1), counts(48))
    with h5py.File(path) as file:
        assert (file["date"][0], file["date"][47]) == (b"2016041001", b"2016041048")
    times = reader().open(raw)["time"].values
    assert (str(times[0])[:16], str(times[47])[:16]) == ("2016-04-10T00:00", "2016-04-10T23:30")
    assert slot_names(times[[47]], Slots(30, 1))[0] == b"2016041048"


def test_trips_that_begin_come_first_in_bikenycs_file(raw: Path) -> None:
    data = counts(48)
    write_flows(raw / "NYC14_M16x8_T60_NewEnd.h5", days("2014-04-01", 2, 60), data, Slots(60, 1))
    found = reader().open(raw)
    np.testing.assert_array_equal(found["outflow"].values, data[:, 0])
    np.testing.assert_array_equal(found["inflow"].values, data[:, 1])


def test_missing_values_stay_missing(raw: Path) -> None:
    data = counts(48) - 10
    data[3, 0, 1, 2] = np.nan
    write_flows(raw / NAME, days("2013-07-01", 1), data)
    found = reader().open(raw)["inflow"].values
    assert np.isnan(found).sum() == 1
    assert np.nanmin(found) == 0


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint16"])
def test_counts_of_any_type_of_number_are_read(raw: Path, dtype: str) -> None:
    data = counts(48)
    write_flows(raw / NAME, days("2013-07-01", 1), data.astype(dtype))
    np.testing.assert_array_equal(reader().open(raw)["inflow"].values, data[:, 0])


# ---- weather and holidays beside the flows


def test_weather_and_holidays_are_told_to_the_frames_of_their_time(raw: Path) -> None:
    times = days("2013-07-01", 2)
    write_flows(raw / NAME, times, counts(96))
    kinds = np.zeros(96, int)
    kinds[10:20] = 11
    temperature = np.arange(96) / 2 - 5
    temperature[30] = np.nan
    write_weather(raw / "BJ_Meteorology.h5", times, temperature, np.full(96, 20.25), kinds)
    (raw / "BJ_Holiday.txt").write_bytes(b"20130702\r\n\r\n20140101\r\n")
    found = reader().open(raw)
    words = found["context"].values
    assert words[0] == "temperature: -5 °C; wind speed: 20.25 mph; weather: sunny"
    assert words[11] == "temperature: 0.5 °C; wind speed: 20.25 mph; weather: light snow"
    assert words[30] == "wind speed: 20.25 mph; weather: sunny"
    assert words[48].endswith("weather: sunny; holiday")
    assert [line.endswith("holiday") for line in words] == [False] * 48 + [True] * 48
    assert "BJ_Meteorology.h5 tells of 96 of 96 frames; BJ_Holiday.txt tells of 48 of 96 frames" in notes(found)


def test_no_frame_is_told_later_weather(raw: Path) -> None:
    """Later rows may be anything: what earlier frames are told stays."""
    times = days("2013-07-01", 2)
    write_flows(raw / NAME, times, counts(96))
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(96, 40, replace=False))
    temperature, kinds = rng.normal(size=40), rng.integers(0, 17, 40)
    path = raw / "BJ_Meteorology.h5"
    write_weather(path, times[rows], temperature, np.zeros(40), kinds)
    whole = reader().open(raw)["context"].values
    for frame in range(0, 96, 5):
        later = times[rows] > times[frame]
        write_weather(path, times[rows], np.where(later, 99, temperature), later * 50, np.where(later, 16, kinds))
        assert list(reader().open(raw)["context"].values[: frame + 1]) == list(whole[: frame + 1])


def test_bad_weather_and_holidays_are_named(raw: Path) -> None:
    times = days("2013-07-01", 1)
    write_flows(raw / NAME, times, counts(48))
    path = write_weather(raw / "BJ_Meteorology.h5", times, np.zeros(48), np.zeros(48), np.zeros(48, int))
    with h5py.File(path, "a") as file:
        del file["Weather"]
        file["Weather"] = np.zeros((48, 3))
    assert f"{path}: 'Weather' has the shape (48, 3); needed is (48 as 'date', 17)" in complaint(raw)
    with h5py.File(path, "a") as file:
        del file["Weather"]
    assert f"{path} has no data set 'Weather'; it holds Temperature, WindSpeed, date" in complaint(raw)
    path.unlink()
    (raw / "BJ_Holiday.txt").write_text("20130701\n1st of May\n")
    assert "BJ_Holiday.txt, line 2 is '1st of May'; needed is a day as YYYYMMDD" in complaint(raw)
    (raw / "BJ_Holiday.txt").write_text("20130732\n")
    assert "line 1 is '20130732', which is no day of the calendar" in complaint(raw)


# ---- packed windows


def packed(raw: Path, train: int = 40, test: int = 5, save: Any = np.savez, **other: Any) -> dict[str, np.ndarray]:
    arrays = {
        name: np.tanh(np.random.default_rng(number).normal(size=(windows, 4, 2, 4, 5))).astype(np.float32)
        for number, (name, windows) in enumerate(
            (("X_train", train), ("Y_train", train), ("X_test", test), ("Y_test", test))
        )
    } | other
    save(raw / "dataset.npz", **arrays)
    return arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_packed_window_is_a_segment_and_the_end_of_train_is_validation(tmp_path: Path, raw: Path, save: Any) -> None:
    arrays = packed(raw, save=save)
    source = reader(raw, splits={"train": 0.6, "validation": 0.2, "test": 0.2})
    source.fetch(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.np?")) == sorted(f"{name}.npy" for name in arrays)
    found = source.open(tmp_path / "out")
    whole = np.concatenate(
        [np.concatenate([arrays[f"X_{split}"], arrays[f"Y_{split}"]], axis=1) for split in ("train", "test")]
    )
    for channel, name in enumerate(BOTH):
        np.testing.assert_array_equal(found[name].values, whole[:, :, channel].reshape(-1, 4, 5))
        np.testing.assert_array_equal(found[name][13:30].values, whole[:, :, channel].reshape(-1, 4, 5)[13:30])
    assert list(found["segment"].values) == list(np.repeat(range(45), 8))
    of_window = list(found["split"].values[::8])
    assert of_window == ["train"] * 22 + [""] * 8 + ["validation"] * 10 + ["test"] * 5
    assert found.attrs["time_stamps"] == "nominal"
    assert found["inflow"].attrs["units"] == "1"
    assert "min-max scaled to [-1, 1]" in notes(found)
    assert "validation is the last 10 of 40 training windows; the 8 before them are in no split" in notes(found)
    steps = np.diff(found["time"].values).astype("timedelta64[m]").astype(int)
    assert set(steps[7::8]) == {60}
    assert set(np.delete(steps, np.arange(7, len(steps), 8))) == {30}


def test_packed_windows_reach_the_store_one_for_each(tmp_path: Path, raw: Path) -> None:
    arrays = packed(raw)
    params = tiny_params(
        dataset="taxibj",
        fetch={"source": str(raw)},
        ingest={"variables": BOTH, "t_in": 4, "t_out": 4, "step": 1, "stride": 1},
    )
    fetch.main(params)
    ingest.main(params)
    store = Store(paths.STORE)
    assert store.description.time_stamps == "nominal"
    assert [len(store.windows.of(split)) for split in ("train", "validation", "test")] == [25, 7, 5]
    last = store.windows.of("test")[-1]
    frames = store.windows.input_frames(last)
    np.testing.assert_array_equal(store.frames(frames[0], frames[-1] + 1), arrays["X_test"][-1])


def test_packed_windows_that_do_not_fit_are_refused(tmp_path: Path, raw: Path) -> None:
    def told() -> str:
        reader(raw).fetch(out := tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        return complaint(out)

    packed(raw, Y_train=np.zeros((39, 4, 2, 4, 5)))
    assert "they differ in windows or grid" in told()
    packed(raw, X_train=np.zeros((40, 4, 3, 4, 5)))
    assert "needed is (windows, frames, 2, rows, columns)" in told()
    packed(raw, X_train=np.zeros((40, 4, 2, 20)))
    assert "it needs 5 axes" in told()
    packed(raw, X_test=np.zeros((5, 6, 2, 4, 5)))
    assert "have windows of 6 and 4 frames" in told()
    packed(raw, X_train=np.array([["a"]]))
    assert "allowed are floats or integers" in told()
    packed(raw, train=10)
    assert "10 training windows are too few: 2 for validation and 8 between leave none" in told()


# ---- fetching


def test_flows_of_the_chosen_years_are_fetched_with_their_context_and_nothing_else(tmp_path: Path, raw: Path) -> None:
    for year in (13, 14, 15):
        write_flows(raw / f"BJ{year}_M32x32_T30_InOut.h5", days(f"20{year}-07-01", 1), counts(48))
    write_flows(raw / "city.h5", days("2011-07-01", 1), counts(48))
    for name in ("BJ_Meteorology.h5", "BJ_Holiday.txt", "md5sum.txt", "README.md"):
        (raw / name).write_text("")
    reader(raw, years=(2014, 2015)).fetch(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "BJ14_M32x32_T30_InOut.h5",
        "BJ15_M32x32_T30_InOut.h5",
        "BJ_Holiday.txt",
        "BJ_Meteorology.h5",
        "city.h5",
    ]


def test_without_a_source_the_error_says_what_to_get_and_where_to_put_it(tmp_path: Path, raw: Path) -> None:
    for source in (None, raw, raw / "nowhere"):
        with pytest.raises(UserError) as error:
            reader(source).fetch(tmp_path / "out")
        assert "fetch.source" in str(error.value)
        assert "downloaded by hand" in str(error.value)
        assert "raw/taxibj" in str(error.value)
    (raw / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no \.h5 or \.npz file; TaxiBJ must be downloaded by hand"):
        reader(raw).fetch(tmp_path / "out")


def test_flows_and_context_reach_the_store(raw: Path) -> None:
    times = np.concatenate([days("2013-07-01", 3), days("2013-07-05", 5)])
    write_flows(raw / NAME, times, counts(len(times)))
    (raw / "BJ_Holiday.txt").write_text("20130702\n")
    (raw.parent / "events.csv").write_text("time,until,event\n2013-07-02 10:00,2013-07-02 12:00,marathon\n")
    params = tiny_params(
        dataset="taxibj",
        fetch={"source": str(raw), "context": [str(raw.parent / "events.csv")]},
        ingest={"variables": BOTH},
    )
    fetch.main(params)
    ingest.main(params)
    store = Store(paths.STORE)
    assert len(store.times) == 384
    assert store.context is not None
    told = dict(zip(store.times.astype("datetime64[m]").astype(str), store.context, strict=True))
    assert told["2013-07-02T11:30"] == "holiday; event: marathon"
    assert told["2013-07-02T12:00"] == told["2013-07-02T09:30"] == "holiday"
    assert told["2013-07-03T00:00"] == ""
    segment = store.array("segment")[:]
    assert list(np.unique(segment, return_counts=True)[1]) == [144, 240]


# ---- bad files


def test_bad_flows_are_named_with_what_is_wrong(raw: Path) -> None:
    times, path = days("2013-07-01", 2), raw / NAME
    write_flows(path, times, counts(95))
    assert f"{path}: 'data' has the shape (95, 2, 4, 5); needed is (96 as 'date', 2, rows, columns)" in complaint(raw)
    write_flows(path, times, np.zeros((96, 3, 4, 5)))
    assert "has the shape (96, 3, 4, 5); needed is (96 as 'date', 2" in complaint(raw)
    write_flows(path, times, np.zeros((96, 2, 4)))
    assert "it needs 4 axes" in complaint(raw)
    write_flows(path, times, np.full((96, 2, 4, 5), b"x"))
    assert "'data' holds |S1; allowed are floats or integers" in complaint(raw)
    write_flows(path, times[:47], counts(47))
    assert f"{path}: none of its 1 days from 2013-07-01 to 2013-07-01 has all 48 slots of 30 minutes" in complaint(raw)
    write_flows(path, times, counts(96))
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is no HDF5 file, is cut short or damaged" in complaint(raw)
    path.write_bytes(b"<html>log in first</html>")
    assert f"{path} is no HDF5 file" in complaint(raw)
    path.unlink()
    assert f"{raw} holds no flows; needed are files such as BJ16_M32x32_T30_InOut.h5" in complaint(raw)


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        ([b"2013070149"], "the slots of a day go from 49 to 49; known are half hours (T30) from 01 to 48"),
        ([b"2013070100", b"2013070148"], "the slots of a day go from 00 to 48; known are"),
        ([b"2013073201"], "date 0 is '2013073201', which is no day of the calendar"),
        ([b"2013-07-01"], "date 0 is '2013-07-01'; needed is YYYYMMDDSS"),
        ([b"2013070101", b"20130701"], "date 1 is '20130701'; needed is YYYYMMDDSS"),
        ([2013070101], "'date' holds int64; allowed are text"),
    ],
)
def test_bad_dates_are_named(raw: Path, dates: list[Any], words: str) -> None:
    with h5py.File(raw / NAME, "w") as file:
        file["data"], file["date"] = counts(len(dates)), np.array(dates)
    assert words in complaint(raw)


def test_a_name_that_says_hours_does_not_go_with_half_hours(raw: Path) -> None:
    write_flows(raw / "BJ13_M32x32_T60_InOut.h5", days("2013-07-01", 1), counts(48))
    assert "the slots of a day go from 01 to 48; known are" in complaint(raw)
    (raw / "BJ13_M32x32_T60_InOut.h5").rename(raw / "BJ13_M32x32_T15_InOut.h5")
    assert "known are half hours (T30)" in complaint(raw)


def test_files_of_other_slots_or_grids_are_not_mixed(raw: Path) -> None:
    write_flows(raw / NAME, days("2013-07-01", 1), counts(48))
    write_flows(raw / "BJ14_T60.h5", days("2014-07-01", 1, 60), counts(24), Slots(60, 1))
    assert "slots differ in their minutes: {" in complaint(raw)
    (raw / "BJ14_T60.h5").unlink()
    write_flows(raw / "BJ14_M8x8_T30_InOut.h5", days("2014-07-01", 1), counts(48, (8, 8)))
    assert "BJ14_M8x8_T30_InOut.h5 has another grid" in complaint(raw)


def test_flows_by_slot_and_packed_windows_are_not_mixed(tmp_path: Path, raw: Path) -> None:
    write_flows(raw / NAME, days("2013-07-01", 1), counts(48))
    packed(raw)
    reader(raw).fetch(tmp_path / "out")
    assert f"holds {NAME}, dataset; needed are" in complaint(tmp_path / "out")
