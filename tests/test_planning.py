"""Which frames are train, validation and test, and what else the store keeps of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from pipeline.datasets.base import mark, nominal_times
from pipeline.errors import UserError
from pipeline.ingest import STORE, checked, ingest
from pipeline.params import Ingest
from pipeline.planning import planned
from pipeline.store import Environment, Store

HEAT = {"cool": {"heat_MW": 5.0}, "warm": {"heat_MW": 20.0}, "hot": {"heat_MW": 60.0}}
LENGTHS = [12, 9, 10, 14, 11, 12, 10, 13, 12, 11]
NAMES = ["cool", "cool", "cool", "hot", "warm", "warm", "warm", "warm", "hot", "cool"]


def fields(times: NDArray[np.datetime64]) -> xr.Dataset:
    """One smoke field on 4 x 6 cells with x and y in metres."""
    values = np.random.default_rng(0).random((len(times), 4, 6)).astype(np.float32)
    coordinates = {
        "time": times.astype("datetime64[ns]"),
        "y": ("y", np.arange(4.0), {"units": "m"}),
        "x": ("x", 2.0 * np.arange(6), {"units": "m"}),
    }
    smoke = xr.DataArray(values, dims=("time", "y", "x"), coords=coordinates, attrs={"units": "1"})
    return xr.Dataset({"smoke": smoke.chunk(time=7)})


def simulations() -> xr.Dataset:
    """Ten simulations in three environments, half a second between frames."""
    numbers = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    return mark(
        fields(nominal_times(LENGTHS, 500)),
        segment=numbers,
        environment=np.array(NAMES)[numbers],
        environments=HEAT,
        notes=["two values were repaired"],
    )


def settings(**changes: Any) -> Ingest:
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    return Ingest.model_validate(
        {"variables": ("smoke",), "t_in": 2, "t_out": 2, "step": 1, "stride": 2, "splits": splits} | changes
    )


def stored(raw: xr.Dataset, tmp_path: Path, **changes: Any) -> tuple[Store, dict[str, Any]]:
    summary = ingest(raw, settings(**changes), tmp_path, "nominal")
    return Store(tmp_path / STORE), summary


def refusal(raw: xr.Dataset, **changes: Any) -> str:
    record = checked(raw)
    with pytest.raises(UserError) as error:
        planned(record.times, record.marks, settings(**changes))
    return str(error.value)


def test_unseen_environments_are_test_alone_and_windows_stay_in_their_simulation(tmp_path: Path) -> None:
    store, summary = stored(simulations(), tmp_path, environments={"unseen": {"heat_MW": [50, 100]}})
    assert store.environments == (
        Environment("cool", {"heat_MW": 5.0}, True),
        Environment("warm", {"heat_MW": 20.0}, True),
        Environment("hot", {"heat_MW": 60.0}, False),
    )
    simulation = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    windows, of_window = store.windows, store.window_environment
    assert of_window is not None
    splits_of: dict[int, set[int]] = {}
    for start, split, environment in zip(windows.start, windows.split, of_window, strict=True):
        numbers = set(simulation[start : start + 4])
        assert len(numbers) == 1
        number = numbers.pop()
        assert store.environments[environment].name == NAMES[number]
        splits_of.setdefault(number, set()).add(int(split))
    assert all(len(found) == 1 for found in splits_of.values())
    assert {number for number, found in splits_of.items() if NAMES[number] == "hot"} == {3, 8}
    assert splits_of[3] == splits_of[8] == {2}
    assert {found for number in (0, 1, 2, 4, 5, 6, 7, 9) for found in splits_of[number]} == {0, 1, 2}
    hot = summary["environments"]["hot"]
    assert (hot["seen"], hot["train"], hot["validation"], hot["test"]) == (False, 0, 0, 6 + 5)
    assert summary["notes"].startswith("two values were repaired")


def test_statistics_and_climatology_leave_out_unseen_environments(tmp_path: Path) -> None:
    raw = simulations()
    hot = np.array([name == "hot" for name in raw["environment"].values])
    raw["smoke"] = raw["smoke"].where(xr.DataArray(~hot, dims="time"), 1e6)
    store, _ = stored(raw, tmp_path, environments={"unseen": ["hot"]})
    assert store.description.statistics.mean[0] < 1
    assert float(store.description.statistics.climatology.max()) < 1


def test_environments_that_are_neither_seen_nor_unseen_are_left_out(tmp_path: Path) -> None:
    chosen = {"seen": ["cool"], "unseen": ["hot"]}
    store, _ = stored(simulations(), tmp_path, environments=chosen)
    assert store.window_environment is not None
    assert [environment.name for environment in store.environments] == ["cool", "hot"]
    assert set(store.window_environment) == {0, 1}
    assert (np.asarray(store.array("environment")[:]) == -1).sum() == sum(
        length for length, name in zip(LENGTHS, NAMES, strict=True) if name == "warm"
    )


def test_time_stamps_of_half_a_second_and_units_of_the_plane_come_back_from_xarray_too(tmp_path: Path) -> None:
    store, summary = stored(simulations(), tmp_path)
    np.testing.assert_array_equal(store.times, nominal_times(LENGTHS, 500))
    assert (store.description.frame_seconds, summary["segments"]) == (0.5, len(LENGTHS))
    assert store.description.grid.units == "m"
    opened = xr.open_zarr(tmp_path / STORE)
    np.testing.assert_array_equal(opened["time"].values.astype("datetime64[ms]"), store.times)
    assert opened["x"].attrs["units"] == "m"


def test_words_about_a_frames_time_are_kept_and_stay_out_where_there_are_none(tmp_path: Path) -> None:
    raw = simulations()
    words = [f"wind {number} m/s, \u00fc" if number % 3 else "" for number in range(raw.sizes["time"])]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    store, _ = stored(mark(raw, context=words), tmp_path / "with")
    assert store.context is not None
    assert store.context.tolist() == words
    assert xr.open_zarr(store.path)["context"].values.tolist() == words
    silent, _ = stored(mark(raw, context=[""] * len(words)), tmp_path / "without")
    assert silent.context is None


def test_the_data_sets_own_splits_win_over_the_parameters(tmp_path: Path) -> None:
    raw = simulations().drop_vars("environment")
    own = np.repeat(["train", "", "validation", "test"], [40, 20, 24, 30])
    store, _ = stored(mark(raw, split=own), tmp_path)
    for start, split in zip(store.windows.start, store.windows.split, strict=True):
        assert set(own[start : start + 4]) == {("train", "validation", "test")[split]}


def test_dates_as_splits_reach_the_windows(tmp_path: Path) -> None:
    times = np.arange("2001-01-01", "2001-03-01", dtype="datetime64[D]").astype("datetime64[ms]")
    dates = {"train": ["2001-01-01", "2001-01-31"], "validation": ["2001-02-01", "2001-02-10"]}
    store, _ = stored(fields(times), tmp_path, splits=dates | {"test": ["2001-02-11", "2001-02"]})
    windows = store.windows
    first, last = (store.times[windows.start + offset].astype("datetime64[D]") for offset in (0, 3))
    train, validation, test = (windows.split == number for number in range(3))
    assert [str(day) for day in (first[train][0], last[train][-1])] == ["2001-01-01", "2001-01-26"]
    assert [str(day) for day in (first[validation][0], first[test][0])] == ["2001-02-01", "2001-02-11"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environments": {"unseen": ["tepid"]}}, "environments.unseen: 'tepid' is unknown; known: cool, warm, hot"),
        ({"environments": {"seen": {"wind": [0, 1]}}}, "environment 'cool' has no parameter 'wind'; it has heat_MW"),
        ({"environments": {"unseen": {"heat_MW": [70, 80]}}}, "unseen: no environment lies in {'heat_MW': (70.0, 80"),
        (
            {"environments": {"seen": ["warm", "hot"], "unseen": {"heat_MW": [50, 70]}}},
            "'hot' is seen and unseen; an environment can be one of them",
        ),
        (
            {"splits": {"train": [2001, 2001], "validation": [2002, 2002], "test": [2003, 2003]}},
            "ingest.splits gives dates, but the record consists of simulations",
        ),
        ({"t_in": 12}, "no window of 14 frames lies in"),
    ],
)
def test_a_choice_that_cannot_be_made_is_named(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(simulations(), **changes)


def test_environments_of_a_record_that_has_none_are_refused() -> None:
    raw = fields(np.arange("2001-01-01", "2001-03-01", dtype="datetime64[D]").astype("datetime64[ms]"))
    assert "the data set has none" in refusal(raw, environments={"unseen": ["hot"]})


def test_an_environment_without_parameters_is_named() -> None:
    raw = simulations()
    del raw.attrs["environments"]["hot"]
    with pytest.raises(UserError, match="environment 'hot' has no parameters; those that have: cool, warm"):
        checked(raw)
