"""The WeatherBench 2 reader: a small store in the public one's layout, on this disk and on real servers."""

from __future__ import annotations

import multiprocessing
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import transfer
from pipeline.datasets import weatherbench2
from pipeline.datasets.weatherbench2 import WeatherBench2
from pipeline.errors import UserError
from pipeline.ingest import checked
from tests import remote
from tests.helpers import moving_waves, tiny_params

STORE = "era5-6h-16x8.zarr"
FRAMES, CHUNK = 120, 10
LEVELS = [500, 700, 850]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)


def waves(name: str, level: int) -> np.ndarray:
    """(time, latitude, longitude)"""
    return np.float32(270 + level / 10) + 10 * moving_waves(FRAMES, seed=ord(name[0]) + level)


def public(start: str = "2001-12-20") -> xr.Dataset:
    """As the 64x32 store is: longitude before latitude, whole numbers for levels, static fields beside the others."""
    times = np.datetime64(start, "ns") + np.arange(FRAMES) * np.timedelta64(6, "h")
    dims = ("time", "level", "longitude", "latitude")
    fields: dict[str, Any] = {
        name: (dims, np.stack([waves(name, level).transpose(0, 2, 1) for level in LEVELS], axis=1), {"units": units})
        for name, units in (("geopotential", "m**2 s**-2"), ("temperature", "K"), ("specific_humidity", "kg kg**-1"))
    }
    fields["2m_temperature"] = (("time", "longitude", "latitude"), waves("s", 0).transpose(0, 2, 1), {"units": "K"})
    fields["land_sea_mask"] = (("longitude", "latitude"), np.zeros((16, 8), np.float32))
    coordinates = {
        "time": times,
        "level": LEVELS,
        "longitude": ("longitude", np.arange(16) * 22.5, {"units": "degrees_east"}),
        "latitude": ("latitude", -78.75 + np.arange(8) * 22.5, {"units": "degrees_north"}),
    }
    return xr.Dataset(fields, coordinates)


def written(folder: Path, dataset: xr.Dataset | None = None, **settings: Any) -> Path:
    dataset = public() if dataset is None else dataset
    chunks = {
        str(name): tuple(CHUNK if dim == "time" else size for dim, size in data.sizes.items())
        for name, data in dataset.data_vars.items()
    }
    encoding: dict[str, dict[str, Any]] = {name: {"chunks": chunk} for name, chunk in chunks.items()}
    encoding["time"] = {"units": "hours since 1959-01-01", "dtype": "int64"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(folder / STORE, encoding=encoding, **{"zarr_format": 2, "consolidated": True, **settings})
    return folder / STORE


def reader(
    source: object, variables: tuple[str, ...] = ("geopotential_500", "temperature_850", "2m_temperature"), **fetch: Any
) -> WeatherBench2:
    params = tiny_params(fetch={"source": str(source), **fetch}, ingest={"variables": list(variables)})
    return WeatherBench2(params.fetch, params.ingest, params.seed)


def fetched(source: object, folder: Path, *args: Any, **fetch: Any) -> xr.Dataset:
    folder.mkdir()
    data = reader(source, *args, **fetch)
    data.fetch(folder)
    return data.open(folder)


def assert_same(data: xr.Dataset, frames: slice = slice(None)) -> None:
    assert list(data.data_vars) == ["z500", "t850", "t2m"]
    for name, expected in (("z500", waves("g", 500)), ("t850", waves("t", 850)), ("t2m", waves("s", 0))):
        assert data[name].dims == ("time", "latitude", "longitude")
        np.testing.assert_array_equal(data[name].values, expected[frames])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_chosen_variables_and_levels_come_in_the_pipelines_order(tmp_path: Path) -> None:
    data = fetched(written(tmp_path), tmp_path / "out")
    assert_same(data)
    assert data["z500"].dtype == np.float32
    assert data["z500"].chunks is not None
    assert {key: data["z500"].attrs[key] for key in ("units", "long_name", "standard_name")} == {
        "units": "m**2 s**-2",
        "long_name": "geopotential at 500 hPa",
        "standard_name": "geopotential",
    }
    np.testing.assert_array_equal(data["time"].values, public()["time"].values)
    stored = {path.name for path in (tmp_path / "out" / "record.zarr").iterdir() if path.is_dir()}
    assert stored == {"geopotential_500", "temperature_850", "2m_temperature", "time", "latitude", "longitude"}
    record = checked(data)
    assert record.grid.dims == ("latitude", "longitude")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.transpose("time", "level", "latitude", "longitude"),
        lambda data: data.isel(latitude=slice(None, None, -1)),
        lambda data: data.rename(latitude="lat", longitude="lon"),
        lambda data: data.assign_coords(level=np.array(LEVELS, dtype=np.float64)),
        lambda data: data.rename(level="pressure_level"),
    ],
)
def test_other_orders_and_names_end_in_the_same_values(change: Any, tmp_path: Path) -> None:
    data = fetched(written(tmp_path, change(public())), tmp_path / "out")
    assert_same(data.sortby("latitude"))


@pytest.mark.parametrize("settings", [{"zarr_format": 3, "consolidated": False}, {"consolidated": False}])
def test_other_versions_of_zarr_are_read(settings: dict[str, Any], tmp_path: Path) -> None:
    assert_same(fetched(written(tmp_path, **settings), tmp_path / "out"))


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")
def test_packed_integers_are_unpacked(tmp_path: Path) -> None:
    data = public()
    values = np.round(data["2m_temperature"].values, 2).astype(np.float32)
    data["2m_temperature"].values[:] = values
    packed = data[["2m_temperature"]]
    packed["2m_temperature"].encoding = {
        "dtype": "int16",
        "scale_factor": 0.01,
        "add_offset": 270.0,
        "_FillValue": None,
    }
    packed.to_zarr(tmp_path / STORE, zarr_format=2)
    result = fetched(tmp_path / STORE, tmp_path / "out", ("2m_temperature",))
    np.testing.assert_allclose(result["t2m"].values, values.transpose(0, 2, 1), atol=0.006)


@pytest.mark.parametrize(("years", "frames"), [([2001, 2001], slice(0, 48)), ([2002, 2002], slice(48, None))])
def test_of_the_years_only_the_blocks_that_hold_them_are_read(
    years: list[int], frames: slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.datasets.base.CHUNK_BYTES", CHUNK * 8 * 16 * 4)
    source = written(tmp_path)
    elsewhere = range(5, 12) if years == [2001, 2001] else range(4)  # chunk 4 holds frames of both years
    for chunk in elsewhere:
        shutil.rmtree(source / f"geopotential/{chunk}.0.0.0", ignore_errors=True)
        (source / f"geopotential/{chunk}.0.0.0").unlink(missing_ok=True)
        (source / f"geopotential/{chunk}.0.0.0").write_bytes(b"would be an error")
    assert_same(fetched(source, tmp_path / "out", years=years), frames)


def test_the_default_is_the_public_store_read_by_nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(address: str, storage: dict[str, Any]) -> xr.Dataset:
        asked.append((address, storage))
        return public()

    monkeypatch.setattr(transfer, "zarr_opened", opened)
    Path("out").mkdir()
    params = tiny_params(ingest={"variables": ["2m_temperature"]})
    WeatherBench2(params.fetch, params.ingest, params.seed).fetch(Path("out"))
    fetched("gs://mine/a.zarr", Path("mine"), ("2m_temperature",))
    name = "era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"
    assert asked == [(f"gs://weatherbench2/datasets/{name}", {"token": "anon"}), ("gs://mine/a.zarr", {})]


@pytest.mark.parametrize("kind", ["http", "s3", "gcs"])
def test_a_store_elsewhere_ends_in_the_same_bytes(kind: str, tmp_path: Path) -> None:
    bucket = tmp_path / "served" / remote.BUCKET
    bucket.mkdir(parents=True)
    source = written(bucket)
    assert_same(fetched(source, tmp_path / "local"))
    if kind == "http":
        with remote.web(bucket) as web:
            data = fetched(f"{web.address}/{STORE}", tmp_path / "out")
    else:
        with remote.s3(tmp_path / "served") if kind == "s3" else remote.gcs(bucket) as (address, storage):
            data = fetched(f"{address}/{STORE}", tmp_path / "out", storage=storage)
    assert_same(data)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_a_server_that_breaks_off_now_and_then_is_asked_again(tmp_path: Path) -> None:
    written(tmp_path)
    with remote.web(tmp_path, breaks_after=700, breaks=2) as web:
        web.breaks = 0
        source = reader(f"{web.address}/{STORE}")
        (tmp_path / "out").mkdir()
        original = weatherbench2._create

        def create(*args: Any) -> None:
            original(*args)
            web.breaks = 2

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weatherbench2, "_create", create)
            source.fetch(tmp_path / "out")
        assert web.breaks == 0
    assert_same(source.open(tmp_path / "out"))


def _fetch_slowly(source: Path, out: Path) -> None:
    from pipeline.datasets import base

    base.CHUNK_BYTES = CHUNK * 8 * 16 * 4
    read = weatherbench2._read

    def slow(*args: Any) -> Any:
        time.sleep(0.3)
        return read(*args)

    weatherbench2._read = slow  # type: ignore[assignment]
    out.mkdir()
    reader(source).fetch(out)


def test_a_killed_fetch_goes_on_with_the_next_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.datasets.base.CHUNK_BYTES", CHUNK * 8 * 16 * 4)
    source = written(tmp_path)
    fetched(source, tmp_path / "whole")
    process = multiprocessing.get_context("spawn").Process(target=_fetch_slowly, args=(source, tmp_path / "out"))
    process.start()
    try:
        while len(list((tmp_path / ".work").rglob("done-*"))) < 3:
            assert process.is_alive()
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    done = len(list((tmp_path / ".work").rglob("done-*")))
    asked: list[weatherbench2.Block] = []
    read = weatherbench2._read

    def noted(block: weatherbench2.Block, *rest: Any) -> Any:
        asked.append(block)
        return read(block, *rest)

    monkeypatch.setattr(weatherbench2, "_read", noted)
    reader(source).fetch(tmp_path / "out")
    assert 3 <= done < 36
    assert len(asked) == 36 - done
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_memory_is_bounded_by_the_size_of_a_chunk(tmp_path: Path) -> None:
    arrays = xr.Dataset({"t": (("time", "level", "y", "x"), np.zeros((1, 1, 1, 1), np.float32))})
    arrays["t"].encoding["chunks"] = (1, 13, 721, 1440)
    assert weatherbench2._requests(arrays) == 1
    arrays["t"].encoding["chunks"] = (100, 13, 64, 32)
    assert weatherbench2._requests(arrays) == 3
    arrays["t"].encoding["chunks"] = (1, 1, 64, 32)
    assert weatherbench2._requests(arrays) == weatherbench2.MOST_REQUESTS // weatherbench2.AT_ONCE


@pytest.mark.parametrize(
    ("variables", "fetch", "message"),
    [
        (
            ("snow",),
            {},
            r"ingest\.variables: \S+zarr has no 'snow'; it holds, with or without _LEVEL: 2m_temperature, geopot",
        ),
        (("snow_500",), {}, "has no 'snow_500'; it holds"),
        (
            ("geopotential",),
            {},
            "'geopotential' names no level of .*; 'geopotential' there has the levels 500, 700, 850",
        ),
        (("geopotential_300",), {}, "'geopotential_300' names no level of .* has the levels 500, 700, 850 hPa"),
        (
            ("2m_temperature_500",),
            {},
            "'2m_temperature_500' names no level of .*; '2m_temperature' there has no levels",
        ),
        (("land_sea_mask",), {}, r"'land_sea_mask' has the dimensions .*needed are time, latitude, longitude"),
        (("2m_temperature",), {"years": [2000, 2003]}, "has nothing of 2000, 2003; it holds 2001-2002"),
    ],
)
def test_what_the_store_does_not_hold_is_named(
    variables: tuple[str, ...], fetch: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fetched(written(tmp_path), tmp_path / "out", variables, **fetch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.drop_vars("time"), "zarr: '2m_temperature' has no coordinate values along time"),
        (lambda data: data.drop_vars("longitude"), "has no coordinate values along longitude"),
        (lambda data: data.assign_coords(time=np.arange(FRAMES)), "the time stamps' calendar is none"),
        (lambda data: data.astype(str), "'2m_temperature' has the dtype <U"),
        (lambda data: data.isel(time=0, drop=True), "has the dimensions .*needed are time"),
    ],
)
def test_a_store_of_another_shape_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    data = change(public()[["2m_temperature"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.to_zarr(tmp_path / STORE, zarr_format=2)
    with pytest.raises(UserError, match=message):
        fetched(tmp_path / STORE, tmp_path / "out", ("2m_temperature",))


def test_a_damaged_chunk_is_named_and_can_be_mended(tmp_path: Path) -> None:
    source = written(tmp_path)
    chunk = source / "2m_temperature" / "3.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"zarr' cannot be read: 2m_temperature, frames 0 to 119, cannot be decoded"):
        fetched(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    chunk.write_bytes(whole)
    (tmp_path / "out").rmdir()
    assert_same(fetched(source, tmp_path / "out"))


@pytest.mark.parametrize("there", [False, True])
def test_an_address_without_a_store_is_named(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / STORE).mkdir()
    with pytest.raises(UserError, match=rf"fetch\.source: nothing is at '\S+{STORE}'"):
        fetched(tmp_path / STORE, tmp_path / "out")


def test_a_variable_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    source = written(tmp_path)
    fetched(source, tmp_path / "out", ("2m_temperature",))
    with pytest.raises(UserError, match=r"record\.zarr has no 'geopotential_500'; fetched were 2m_temperature: run"):
        reader(source).open(tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere/record\.zarr is missing; run the stage fetch first"):
        reader(source).open(tmp_path / "nowhere")
