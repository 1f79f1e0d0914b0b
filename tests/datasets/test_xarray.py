"""The general reader: formats, dimensions, fetching with resume, and bad files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.datasets.xarray import XarraySource
from pipeline.errors import UserError
from pipeline.ingest import STORE, ingest
from pipeline.store import Store
from tests.helpers import moving_waves, record, tiny_params

REAL = Path(os.environ.get("S2KD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "era5_uk_t2m_201903.nc"


def reader(source: object = None, variables: tuple[str, ...] = ("t",), **settings: Any) -> XarraySource:
    params = tiny_params(
        dataset="xarray",
        fetch={"source": None if source is None else str(source)},
        ingest={"variables": variables, **settings},
    )
    return XarraySource(params.fetch, params.ingest, params.seed)


def data(frames: int = 40, names: tuple[str, str, str] = ("time", "lat", "lon")) -> xr.Dataset:
    return record({"t": 280 + 10 * moving_waves(frames)}, names=names)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


# ---- formats and dimensions


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA", "NETCDF4"])
def test_every_netcdf_kind_is_read(raw: Path, kind: Any) -> None:
    data().to_netcdf(raw / "any_name", format=kind, engine="netcdf4")
    found = reader().open(raw)["t"]
    np.testing.assert_array_equal(found.values, data()["t"].values)
    assert found.dims == ("time", "latitude", "longitude")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_is_fetched_without_its_unused_arrays_and_read(tmp_path: Path, raw: Path, version: Any) -> None:
    full = data().assign(u=lambda d: d["t"] * 2)
    full.to_zarr(raw / "a.zarr", zarr_format=version, consolidated=version == 2)
    source = reader(raw / "a.zarr")
    source.fetch(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "a.zarr").iterdir() if path.is_dir()} == {
        "t",
        "time",
        "lat",
        "lon",
    }
    np.testing.assert_array_equal(source.open(tmp_path / "out")["t"].values, full["t"].values)


def write_grib(path: Path, values: np.ndarray) -> None:
    """(time, H, W) 2 m temperature, 6-hourly from 2001-01-01, north first as GRIB has it."""
    eccodes = pytest.importorskip("eccodes")
    rows, columns = values.shape[1:]
    keys = {
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPointInDegrees": 90 - 90 / rows,
        "latitudeOfLastGridPointInDegrees": -90 + 90 / rows,
        "longitudeOfFirstGridPointInDegrees": 0,
        "longitudeOfLastGridPointInDegrees": 360 - 360 / columns,
        "iDirectionIncrementInDegrees": 360 / columns,
        "jDirectionIncrementInDegrees": 180 / rows,
        "shortName": "2t",
        "bitsPerValue": 24,
    }
    with path.open("wb") as stream:
        for frame, field in enumerate(values):
            message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
            time = {"dataDate": 20010101 + frame // 4, "dataTime": 600 * (frame % 4)}
            for key, value in {**keys, **time}.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, field[::-1].astype(np.float64).ravel())
            eccodes.codes_write(message, stream)
            eccodes.codes_release(message)


def test_grib_is_read_and_leaves_no_index_file(raw: Path) -> None:
    values = data(6)["t"].values
    write_grib(raw / "f.grib", values)
    found = reader(variables=("t2m",)).open(raw)["t2m"].sortby("latitude")
    np.testing.assert_allclose(found.values, values, atol=1e-3)
    np.testing.assert_array_equal(found["time"].values, data(6)["time"].values)
    assert [path.name for path in raw.iterdir()] == ["f.grib"]


def test_a_grib_file_cut_short_is_named(raw: Path) -> None:
    write_grib(raw / "f.grib", data(6)["t"].values)
    (raw / "f.grib").write_bytes((raw / "f.grib").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"f\.grib cannot be opened; it is cut short"):
        reader(variables=("t2m",)).open(raw)


def test_packed_integers_are_decoded_to_float32(raw: Path) -> None:
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
    data().to_netcdf(raw / "t.nc", encoding={"t": packed})
    found = reader().open(raw)["t"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.values, data()["t"].values, atol=0.0051)


def test_dimensions_are_known_by_their_attributes(raw: Path) -> None:
    data(names=("time", "breite", "laenge")).to_netcdf(raw / "t.nc")
    assert reader().open(raw)["t"].dims == ("time", "latitude", "longitude")


def test_unusual_dimensions_are_taken_by_the_users_word(raw: Path) -> None:
    strange = data().rename(time="instant", lat="a", lon="b")
    for name in ("a", "b"):
        strange[name].attrs.clear()
    strange.to_netcdf(raw / "t.nc")
    with pytest.raises(
        UserError, match=r"'t' has the dimensions \{'instant': 40, 'a': 8, 'b': 16\}.*ingest.dimensions"
    ):
        reader().open(raw)
    named = {"time": "instant", "latitude": "a", "longitude": "b"}
    assert reader(dimensions=named).open(raw)["t"].dims == ("time", "latitude", "longitude")


def test_a_plane_without_coordinates_gets_row_and_column_numbers(raw: Path) -> None:
    data().rename(lat="y", lon="x").drop_vars(["y", "x"]).to_netcdf(raw / "t.nc")
    found = reader().open(raw)["t"]
    assert found.dims == ("time", "y", "x")
    assert found["x"].values.tolist() == list(range(16))


def test_a_fourth_dimension_is_dropped_if_it_has_one_value_and_refused_otherwise(raw: Path) -> None:
    data().expand_dims(level=[500]).to_netcdf(raw / "t.nc")
    assert reader().open(raw)["t"].dims == ("time", "latitude", "longitude")
    data().expand_dims(level=[500, 850]).to_netcdf(raw / "t.nc")
    with pytest.raises(UserError, match=r"'t' has the dimensions .*'level': 2"):
        reader().open(raw)


def test_one_frame_a_file_and_variables_in_files_of_their_own_are_joined(raw: Path) -> None:
    whole = data(6).assign(u=lambda d: d["t"] * 2)
    for frame in range(6):
        whole["t"].isel(time=frame).to_netcdf(raw / f"{9 - frame}.nc")  # names against the order of time
    whole["u"].to_netcdf(raw / "u.nc")
    found = reader(variables=("u", "t")).open(raw)
    assert list(found.data_vars) == ["u", "t"]
    np.testing.assert_array_equal(found["t"].values, whole["t"].values)


# ---- bad files


def test_a_missing_variable_lists_what_is_there(raw: Path) -> None:
    data().to_netcdf(raw / "t.nc")
    with pytest.raises(UserError, match="no file has 'msl'; they hold t"):
        reader(variables=("msl",)).open(raw)


def test_an_empty_folder_is_named(raw: Path) -> None:
    with pytest.raises(UserError, match="raw holds no file"):
        reader().open(raw)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA", "NETCDF4"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.999])
def test_a_file_cut_short_is_named(raw: Path, kind: Any, share: float) -> None:
    data().to_netcdf(raw / "t.nc", format=kind, engine="netcdf4", unlimited_dims=["time"] if share > 0.5 else [])
    content = (raw / "t.nc").read_bytes()
    (raw / "t.nc").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"t\.nc .*(cut short|neither NetCDF nor GRIB)"):
        reader().open(raw)


def test_a_foreign_file_is_named(raw: Path) -> None:
    (raw / "page.nc").write_text("<html>Not found</html>")
    with pytest.raises(UserError, match=r"page\.nc is neither NetCDF nor GRIB: it starts with b'<html>No'"):
        reader().open(raw)


def test_a_file_damaged_inside_is_named_when_it_is_read(tmp_path: Path, raw: Path) -> None:
    data(120).to_netcdf(raw / "t.nc", encoding={"t": {"zlib": True, "fletcher32": True, "chunksizes": (10, 8, 16)}})
    content = bytearray((raw / "t.nc").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    (raw / "t.nc").write_bytes(content)
    with pytest.raises(UserError, match=r"t cannot be read in frames .* \(file t\.nc\)"):
        ingest(reader().open(raw), tiny_params().ingest, tmp_path)


def test_time_stamps_of_another_calendar_are_refused(raw: Path) -> None:
    odd = data().drop_vars("time").assign_coords(time=("time", np.arange(40), {"units": "days since 2001-01-01"}))
    odd["time"].attrs["calendar"] = "360_day"
    odd.to_netcdf(raw / "t.nc")
    with pytest.raises(UserError, match=r"calendar is 360_day; allowed are"):
        reader().open(raw)


def test_times_that_are_plain_numbers_are_refused(raw: Path) -> None:
    data().assign_coords(time=np.arange(40.0)).to_netcdf(raw / "t.nc")
    with pytest.raises(UserError, match=r"calendar is none, they are plain numbers"):
        reader().open(raw)


# ---- real data


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there; S2KD_TEST_DATA names its folder")
def test_a_month_of_era5_is_ingested(tmp_path: Path) -> None:
    settings = tiny_params(ingest={"variables": ["t2m"], "t_in": 4, "t_out": 4, "shard_megabytes": 1}).ingest
    source = reader(REAL, ("t2m",))
    source.fetch(tmp_path / "out")
    summary = ingest(source.open(tmp_path / "out"), settings, tmp_path)
    store = Store(tmp_path / STORE)
    assert summary["notes"] == "latitude was descending and was turned"
    assert (summary["frames"], summary["frame_seconds"], summary["segments"]) == (744, 3600, 1)
    assert store.description.variables[0].units == "K"
    with xr.open_dataset(REAL) as real:
        expected = real["t2m"].values[:, ::-1].astype(np.float32)
    np.testing.assert_array_equal(store.frames(0, 744)[:, 0], expected)
    values = store.frames(0, 744)
    test = store.windows.of("test")
    inputs = np.stack([values[store.windows.input_frames(window)][-1] for window in test])
    targets = np.stack([values[store.windows.target_frames(window)] for window in test])
    persistence = ((targets - inputs[:, None]) ** 2).mean() / values.std() ** 2
    assert 0.3 < persistence < 0.5  # about 0.40 at the end of the month


def test_tables_of_context_are_not_taken_for_fields(raw: Path) -> None:
    data().to_netcdf(raw / "a.nc")
    (raw / "context").mkdir()
    (raw / "context" / "storms.csv").write_text("time,storm\n2001-01-01,Ada\n")
    np.testing.assert_array_equal(reader().open(raw)["t"].values, data()["t"].values)
