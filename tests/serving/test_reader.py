from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.datasets.weatherbench import WeatherBench
from pipeline.errors import UserError
from pipeline.params import Fetch, Ingest
from pipeline.serving.reader import open_windows
from pipeline.serving.spec import Spec
from tests.exported import Exported
from tests.helpers import write_weatherbench


@pytest.fixture
def record(exported: Exported) -> xr.Dataset:
    """The first 40 frames of the record that the model was made for."""
    return xr.open_zarr(exported.store.path)[["z500", "t850"]].isel(time=slice(0, 40)).load()


def saved(record: xr.Dataset, path: Path) -> str:
    for name in record.variables:
        record[name].encoding.clear()
    record.to_netcdf(path, engine="netcdf4")
    return str(path)


def test_every_window_whose_frames_are_all_there_is_found_across_gaps(
    record: xr.Dataset, exported: Exported, tmp_path: Path
) -> None:
    kept = [frame for frame in range(40) if frame not in (7, 20)]
    windows = open_windows(saved(record.isel(time=kept), tmp_path / "gaps.nc"), exported.spec)
    wanted = [last for last in range(4, 40) if {last, last - 2, last - 4} <= set(kept)]
    np.testing.assert_array_equal(windows.init_times, record["time"].values[wanted])
    for number in (0, len(wanted) - 1):
        frames = record.isel(time=[wanted[number] - 4, wanted[number] - 2, wanted[number]])
        expected = np.stack([frames["z500"], frames["t850"]], axis=1)
        np.testing.assert_array_equal(windows.inputs(number, number + 1)[0], expected)


def test_truth_is_what_comes_after_and_none_where_it_is_not_there(
    record: xr.Dataset, exported: Exported, tmp_path: Path
) -> None:
    windows = open_windows(saved(record, tmp_path / "all.nc"), exported.spec)
    truth = windows.truth(0)
    assert truth is not None
    np.testing.assert_array_equal(truth[:, 0], record["z500"].isel(time=[6, 8]).values)
    assert windows.truth(len(windows) - 1) is None


def test_files_of_a_glob_or_folder_are_joined_and_turned_and_read_in_the_models_order(
    record: xr.Dataset, exported: Exported, tmp_path: Path
) -> None:
    turned = record.isel(latitude=slice(None, None, -1)).transpose("longitude", "latitude", "time")[["t850", "z500"]]
    for name, part in (("b", slice(0, 20)), ("a", slice(20, 40))):
        saved(turned.isel(time=part), tmp_path / f"{name}.nc")
    whole = open_windows(saved(record, tmp_path / "whole.cdf"), exported.spec)
    Path(tmp_path / "whole.cdf").rename(tmp_path.parent / "whole.cdf")
    for source in (str(tmp_path), str(tmp_path / "*.nc")):
        windows = open_windows(source, exported.spec)
        assert len(windows) == 36
        np.testing.assert_array_equal(windows.inputs(17, 18), _inputs(record, 17))
    assert len(whole) == 36


def _inputs(record: xr.Dataset, number: int) -> np.ndarray:
    frames = record.isel(time=[number, number + 2, number + 4])
    return np.stack([frames["z500"], frames["t850"]], axis=1)[None]


def test_raw_files_are_read_as_the_data_set_was(exported: Exported, tmp_path: Path) -> None:
    write_weatherbench(tmp_path, days=5)
    reader = exported.spec.reader
    assert reader.dataset == "weatherbench"
    windows = open_windows(str(tmp_path), exported.spec, raw=True)
    ours = WeatherBench(Fetch(), Ingest(variables=reader.variables), 0).open(tmp_path)
    np.testing.assert_array_equal(windows.inputs(0, 1)[0, :, 1], ours["t850"].isel(time=[0, 2, 4]).values)


Change = Callable[[xr.Dataset], xr.Dataset]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.drop_vars("t850"), "has no variable 't850': the model reads z500, t850; there are z500"),
        (lambda data: data.isel(latitude=slice(0, 6)), "has another grid than the model: latitude of 6 values"),
        (lambda data: data.assign_coords(longitude=data.longitude + 1), "has another grid than the model: longitude"),
        (lambda data: data.isel(time=slice(None, None, 3)), "mostly 18 hours apart, and the model reads 3 frames"),
        (lambda data: data.isel(time=[0]), "it has one frame, and the model reads 3 frames that are 12 hours apart"),
        (
            lambda data: data.assign(t850=data.t850.assign_attrs(units="degC")),
            "t850 is in degC; the model was made for K",
        ),
        (
            lambda data: data.rename(latitude="y", longitude="x").drop_vars(["y", "x"]),
            "lies on y x x; the model was made for latitude x longitude",
        ),
    ],
)
def test_what_the_model_was_not_made_for_is_refused_in_a_sentence(
    record: xr.Dataset, exported: Exported, tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(UserError) as error:
        open_windows(saved(change(record), tmp_path / "other.nc"), exported.spec)
    assert message in str(error.value)
    assert "other.nc" in str(error.value)
    assert "\n" not in str(error.value)


def test_units_written_otherwise_are_the_same(record: xr.Dataset, exported: Exported, tmp_path: Path) -> None:
    record["z500"].attrs["units"] = "m2 s-2"
    assert len(open_windows(saved(record, tmp_path / "units.nc"), exported.spec)) == 36


def test_a_missing_value_is_named_with_its_time(record: xr.Dataset, exported: Exported, tmp_path: Path) -> None:
    record["t850"][10, 3, 3] = np.nan
    windows = open_windows(saved(record, tmp_path / "nan.nc"), exported.spec)
    windows.inputs(0, 6)
    with pytest.raises(UserError, match=r"t850 has NaN or infinite values at 2001-01-03T12:00:00"):
        windows.inputs(6, 8)


@pytest.mark.parametrize("source", ["nowhere.nc", "nothing/*.nc", "https://127.0.0.1:9/data.nc"])
def test_a_source_that_cannot_be_read_is_named(exported: Exported, source: str) -> None:
    spec: Spec = exported.spec
    with pytest.raises(UserError, match=r"nowhere\.nc is not there|nothing/|a Zarr store can be read at an address"):
        open_windows(source, spec)
