"""Ingest: statistics without leaks, missing values, bad input, resume, flat memory, Dask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import ingest as module
from pipeline import store as store_module
from pipeline.errors import UserError
from pipeline.store import SPLITS, Store
from tests.helpers import moving_waves, record, tiny_params, write_store

NAMES = ("time", "latitude", "longitude")


def raw(frames: int = 120, offset: float = 280) -> xr.Dataset:
    return record({"t": np.float32(offset) + 10 * moving_waves(frames)}, names=NAMES)


def ingested(path: Path, data: xr.Dataset, **settings: Any) -> Store:
    return write_store(path, data, tiny_params(ingest=settings))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def frames_of_split(store: Store, number: int) -> list[int]:
    windows = store.windows
    mine = np.flatnonzero(windows.split == number)
    return sorted({int(f) for w in mine for f in (*windows.input_frames(w), *windows.target_frames(w))})


# ---- values and statistics


def test_values_and_time_stamps_come_through_unchanged(tmp_path: Path) -> None:
    data = raw()
    store = ingested(tmp_path / "s", data)
    np.testing.assert_array_equal(store.frames(0, 120)[:, 0], data["t"].values)
    np.testing.assert_array_equal(store.times, data["time"].values.astype("datetime64[s]"))


@pytest.mark.parametrize("step", [1, 3])
def test_statistics_are_those_of_the_training_windows_frames(tmp_path: Path, step: int) -> None:
    store = ingested(tmp_path / "s", raw(), step=step, stride=5)
    values = store.frames(0, 120)[frames_of_split(store, 0)].astype(np.float64)
    found = store.description.statistics
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.std(axis=(0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(found.climatology, values.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(found.climatology_std, values.std(axis=0), rtol=1e-6)


def test_no_frame_outside_the_training_windows_enters_the_statistics(tmp_path: Path) -> None:
    before = ingested(tmp_path / "before", raw())
    training = frames_of_split(before, 0)
    changed = raw()
    others = [frame for frame in range(120) if frame not in training]
    assert set(frames_of_split(before, 1)) | set(frames_of_split(before, 2)) < set(others)
    changed["t"][others] += 100
    after = ingested(tmp_path / "after", changed)
    old, new = bytes_of(before.path), bytes_of(after.path)
    differing = {name for name in old if old[name] != new[name]}
    assert differing
    assert all(name.startswith("t/c/") for name in differing)


def test_a_changed_training_frame_does_change_the_statistics(tmp_path: Path) -> None:
    changed = raw()
    changed["t"][40] += 100
    first, second = ingested(tmp_path / "a", raw()), ingested(tmp_path / "b", changed)
    assert first.description.statistics.mean[0] != second.description.statistics.mean[0]


def test_the_shard_size_does_not_change_what_is_stored(tmp_path: Path) -> None:
    small = ingested(tmp_path / "small", raw(), shard_megabytes=0.003)
    large = ingested(tmp_path / "large", raw(), shard_megabytes=50)
    assert len(list((small.path / "t").rglob("0"))) > 0
    assert len(bytes_of(small.path / "t")) > len(bytes_of(large.path / "t"))
    np.testing.assert_array_equal(small.frames(0, 120), large.frames(0, 120))
    np.testing.assert_allclose(small.description.statistics.std, large.description.statistics.std, rtol=1e-12)


def test_the_windows_of_a_record_with_a_gap_do_not_cross_it(tmp_path: Path) -> None:
    data = raw().isel(time=[frame for frame in range(120) if not 30 <= frame < 37])
    store = ingested(tmp_path / "s", data)
    attributes = np.asarray(store.array("segment")[:])
    assert attributes.tolist() == [0] * 30 + [1] * 83
    for window in range(len(store.windows)):
        frames = [*store.windows.input_frames(window), *store.windows.target_frames(window)]
        assert len({int(attributes[frame]) for frame in frames}) == 1


def test_descending_axes_are_turned_and_noted(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    turned = raw().isel(latitude=slice(None, None, -1)).chunk()
    summary = module.ingest(turned, tiny_params().ingest, folder)
    assert summary["notes"] == "latitude was descending and was turned"
    store = Store(folder / module.STORE)
    assert (np.diff(store.description.grid.y) > 0).all()
    np.testing.assert_array_equal(store.frames(0, 120)[:, 0], raw()["t"].values)


def test_longitudes_from_minus_180_and_dimensions_in_another_order_are_taken(tmp_path: Path) -> None:
    data = raw().assign_coords(longitude=np.arange(16) * 22.5 - 180).transpose("longitude", "latitude", "time")
    store = ingested(tmp_path / "s", data)
    assert store.description.grid.x[0] == -180
    assert store.description.grid.periodic
    np.testing.assert_array_equal(store.frames(0, 120)[:, 0], raw()["t"].values)


def test_a_plane_has_rows_and_columns(tmp_path: Path) -> None:
    store = ingested(tmp_path / "s", raw().rename(latitude="y", longitude="x"))
    assert store.description.grid.dims == ("y", "x")
    assert not store.description.grid.geographic


def test_unknown_units_become_1_and_are_noted(tmp_path: Path) -> None:
    data = raw()
    del data["t"].attrs["units"]
    (tmp_path / "w").mkdir()
    summary = module.ingest(data.chunk(), tiny_params().ingest, tmp_path / "w")
    assert summary["notes"] == "t has no known units; they are taken as 1"
    assert summary["variables"]["t"]["units"] == "1"


# ---- missing values


def with_missing() -> xr.Dataset:
    data = raw()
    data["t"][0, 2, 3] = np.nan  # before any value at that point
    data["t"][10:13, 4, 5] = np.nan
    data["t"][11, 0, 0] = np.inf
    data["t"][100, 1, 1] = -np.inf
    return data


def test_missing_values_stop_the_run_and_are_counted_and_placed(tmp_path: Path) -> None:
    expected = (
        r"t has 6 NaN or infinite values in 5 of 120 frames, the first at 2001-01-01T00:00:00, "
        r"latitude -33.75, longitude 67.5; ingest.missing = fail"
    )
    with pytest.raises(UserError, match=expected):
        ingested(tmp_path / "s", with_missing())


def test_dropping_leaves_out_exactly_the_windows_that_read_a_missing_value(tmp_path: Path) -> None:
    whole = ingested(tmp_path / "whole", raw(), step=2)
    store = ingested(tmp_path / "s", with_missing(), step=2, missing="drop")
    bad = {0, 10, 11, 12, 100}
    windows = whole.windows
    clean = [
        int(windows.start[w])
        for w in range(len(windows))
        if not bad & {*windows.input_frames(w).tolist(), *windows.target_frames(w).tolist()}
    ]
    assert store.windows.start.tolist() == clean
    assert 0 < len(clean) < len(windows)
    assert np.isfinite(store.description.statistics.climatology).all()


def test_filling_carries_the_last_value_on_and_starts_from_the_climatology(tmp_path: Path) -> None:
    data = with_missing()
    store = ingested(tmp_path / "s", data, missing="fill")
    values, given = store.frames(0, 120)[:, 0], raw()["t"].values
    climatology = store.description.statistics.climatology[0]
    assert values[0, 2, 3] == climatology[2, 3]
    assert (values[10:13, 4, 5] == given[9, 4, 5]).all()
    assert values[11, 0, 0] == given[10, 0, 0]
    assert values[100, 1, 1] == given[99, 1, 1]
    measured = np.isfinite(data["t"].values)
    np.testing.assert_array_equal(values[measured], given[measured])
    training = data["t"].values[frames_of_split(store, 0)].astype(np.float64)
    training[~np.isfinite(training)] = np.nan
    np.testing.assert_allclose(climatology, np.nanmean(training, axis=0), rtol=1e-7)


def test_a_later_value_never_fills_an_earlier_gap(tmp_path: Path) -> None:
    changed = with_missing()
    changed["t"][13:, 4, 5] += 50
    first = ingested(tmp_path / "a", with_missing(), missing="fill")
    second = ingested(tmp_path / "b", changed, missing="fill")
    np.testing.assert_array_equal(first.frames(1, 13), second.frames(1, 13))


def test_a_point_without_any_value_is_filled_with_the_fields_training_mean(tmp_path: Path) -> None:
    data = raw()
    data["t"][:, 3, 3] = np.nan
    store = ingested(tmp_path / "s", data, missing="fill")
    np.testing.assert_allclose(store.frames(0, 120)[:, 0, 3, 3], store.description.statistics.mean[0], rtol=1e-6)
    assert store.description.statistics.climatology_std[0, 3, 3] == 0


def test_dropping_every_window_of_a_split_says_why(tmp_path: Path) -> None:
    data = raw()
    data["t"][85:, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"lies in validation and test.*windows were dropped for missing values"):
        ingested(tmp_path / "s", data, missing="drop")


# ---- bad input


def repeated_time(data: xr.Dataset) -> xr.Dataset:
    return data.isel(time=[*range(10), *range(9, 120)])


def backward_time(data: xr.Dataset) -> xr.Dataset:
    return data.isel(time=[*range(50, 120), *range(50)])


def fraction_of_a_millisecond(data: xr.Dataset) -> xr.Dataset:
    return data.assign_coords(time=data["time"] + np.timedelta64(500_001, "us"))


def missing_time(data: xr.Dataset) -> xr.Dataset:
    times = data["time"].values.copy()
    times[7] = np.datetime64("NaT")
    return data.assign_coords(time=times)


def constant(data: xr.Dataset) -> xr.Dataset:
    data["t"][:] = 273.16
    return data


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (repeated_time, r"2001-01-03T06:00:00 is repeated at frame 10"),
        (backward_time, r"2001-01-30T18:00:00 is followed by the earlier 2001-01-01T00:00:00 at frame 70"),
        (fraction_of_a_millisecond, r"2001-01-01T00:00:00.5\S* of frame 0 is finer than a millisecond"),
        (missing_time, r"time stamp of frame 7 is missing"),
        (constant, r"t is constant \(273.16\) over the training frames"),
        (lambda data: data.isel(time=slice(30)), r"has 30 frames; one window of 4 frames .* needs at least 35"),
        (lambda data: data.assign_coords(latitude=data["latitude"] * 2), r"latitude goes from -157.5 to 157.5"),
        (
            lambda data: data.isel(longitude=[0, 1, 3, 2]),
            r"longitude neither ascends nor descends: 67.5 is followed by 45",
        ),
    ],
)
def test_bad_input_is_refused_with_its_own_sentence(tmp_path: Path, spoil: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ingested(tmp_path / "s", spoil(raw()))


def test_too_many_gaps_for_a_window_are_told(tmp_path: Path) -> None:
    kept = [frame for frame in range(240) if frame % 8 < 6]
    with pytest.raises(UserError, match=r"no window of 7 frames lies in train and .*30 segments.*longest of 6 frames"):
        ingested(tmp_path / "s", raw(240).isel(time=kept), step=2)


# ---- determinism, resume, scale


def test_rewriting_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        ingested(tmp_path / "a", with_missing(), missing="fill"),
        ingested(tmp_path / "b", with_missing(), missing="fill"),
    )
    assert bytes_of(first.path) == bytes_of(second.path)


def test_a_run_repeated_over_its_finished_parts_changes_nothing(tmp_path: Path) -> None:
    settings = tiny_params(ingest={"missing": "fill"}).ingest
    module.ingest(with_missing().chunk(), settings, tmp_path)
    before = bytes_of(tmp_path)
    module.ingest(with_missing().chunk(), settings, tmp_path)
    assert bytes_of(tmp_path) == before


def test_a_lost_shard_is_written_again(tmp_path: Path) -> None:
    module.ingest(raw().chunk(), tiny_params().ingest, tmp_path)
    before = bytes_of(tmp_path)
    (tmp_path / module.STORE / "t" / "c" / "1" / "0" / "0").unlink()
    module.ingest(raw().chunk(), tiny_params().ingest, tmp_path)
    assert bytes_of(tmp_path / module.STORE) == {
        name.removeprefix("store.zarr/"): content for name, content in before.items() if name.startswith("store.zarr/")
    }


def test_every_split_has_windows_and_the_summary_counts_them(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    summary = module.ingest(raw().chunk(), tiny_params().ingest, folder)
    windows = Store(folder / module.STORE).windows
    assert summary["windows"] == {name: int((windows.split == number).sum()) for number, name in enumerate(SPLITS)}
    assert min(summary["windows"].values()) > 0
    assert summary["frames"] == 120
    assert store_module.FORMAT in (folder / module.STORE / "zarr.json").read_text()
