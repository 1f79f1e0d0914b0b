"""The store: open to xarray, CF attributes, sharding, checksums, and what a reader says about a bad one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.errors import UserError
from pipeline.store import Grid, Store, create_array, rows_per_shard, shard_is_written
from tests.helpers import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store") / "store.zarr", step=2, stride=3)


def test_xarray_opens_it_without_a_warning_and_decodes_times_and_units(store: Store) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(store.path)
    assert data["time"].dtype.kind == "M"
    assert str(data["time"].values[5])[:16] == "2001-01-02T06:00"
    np.testing.assert_array_equal(data["t850"].values, store.frames(0, 120)[:, 1])
    assert data["t850"].dims == ("time", "latitude", "longitude")
    assert data["t850"].attrs["units"] == "K"
    assert set(data.coords) == {"time", "latitude", "longitude"}


def test_the_attributes_follow_cf(store: Store) -> None:
    data = xr.open_zarr(store.path, decode_times=False)
    assert data.attrs["Conventions"].startswith("CF-")
    axes = {name: (data[name].attrs["standard_name"], data[name].attrs["axis"]) for name in data.coords}
    assert axes == {"time": ("time", "T"), "latitude": ("latitude", "Y"), "longitude": ("longitude", "X")}
    assert data["latitude"].attrs["units"] == "degrees_north"
    assert data["time"].attrs["units"] == "seconds since 1970-01-01"
    assert data["z500"].attrs["standard_name"] == "geopotential"
    assert data["t850_climatology"].attrs["units"] == "K"
    assert data["window_split"].attrs["flag_meanings"] == "train validation test"


def test_the_description_says_what_was_ingested(store: Store) -> None:
    description = store.description
    assert [variable.name for variable in description.variables] == ["z500", "t850"]
    assert description.variables[0].long_name == "geopotential at 500 hPa"
    assert description.frame_seconds == 6 * 3600
    assert description.time_stamps == "calendar"
    assert description.grid.shape == (8, 16)
    assert description.grid.periodic
    assert (store.windows.t_in, store.windows.t_out, store.windows.step) == (2, 2, 2)


def test_frames_of_a_window_are_a_step_apart(store: Store) -> None:
    windows = store.windows
    assert windows.input_frames(1).tolist() == [3, 5]
    assert windows.target_frames(1).tolist() == [7, 9]


def test_a_flipped_byte_in_a_chunk_is_noticed(tmp_path: Path) -> None:
    damaged = make_store(tmp_path / "store.zarr")
    shard = damaged.path / "z500" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        damaged.frames(0, 4)


def test_shards_hold_whole_chunks_just_below_the_asked_size(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g")
    array = create_array(group, "a", (1000, 10, 10), "float32", ("time", "y", "x"), 7, shard_megabytes=0.03)
    assert array.chunks == (7, 10, 10)
    assert rows_per_shard(array) == 70  # 28 kB; eleven chunks would be 30.8 kB
    array[70:140] = 1
    assert [shard_is_written(array, tmp_path / "g", index) for index in (0, 1, 2)] == [False, True, False]
    file = tmp_path / "g" / "a" / "c" / "1" / "0" / "0"
    assert file.is_file()


def test_latitude_weights_have_mean_one_and_are_even_on_a_plane() -> None:
    latitude = np.array([-60.0, 0.0, 60.0])
    weights = Grid(("latitude", "longitude"), latitude, latitude).latitude_weights
    np.testing.assert_allclose(weights, [0.75, 1.5, 0.75])
    assert (Grid(("y", "x"), latitude, latitude).latitude_weights == 1).all()


def test_a_missing_or_foreign_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.zarr is missing"):
        Store(tmp_path / "nothing.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(UserError, match=r"other\.zarr is not a store of format s2kd-store/1"):
        Store(tmp_path / "other.zarr")


def test_a_missing_array_is_named_beside_those_that_are_there(store: Store) -> None:
    with pytest.raises(UserError, match=r"lacks the array 'u10'; it holds .*t850.*z500"):
        store.array("u10")
