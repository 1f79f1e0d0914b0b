"""Small, real things for tests: parameters, raw records in known layouts, an ingested store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.ingest import STORE, ingest
from pipeline.params import Params, TimeStamps, parse
from pipeline.store import Store

TINY: dict[str, Any] = {
    "seed": 42,
    "dataset": "weatherbench",
    "captioner": "narrator",
    "embedder": "minilm",
    "teacher": "simvp",
    "students": ["unet"],
    "methods": ["baseline", "s2kd"],
    "ingest": {
        "variables": ["geopotential_500", "temperature_850"],
        "t_in": 2,
        "t_out": 2,
        "step": 1,
        "stride": 1,
        "shard_megabytes": 0.01,
    },
}


def tiny_params(**overrides: Any) -> Params:
    """Checked parameters of a tiny run; a section given as a dict replaces only the keys it names.

    >>> tiny_params(beta=0.7, ingest={"t_in": 3}, **{"lambda": 0.1})
    """
    tree = dict(TINY)
    for key, value in overrides.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return parse(tree)


def moving_waves(frames: int, shape: tuple[int, int] = (8, 16), seed: int = 0) -> NDArray[np.float32]:
    """(frames, H, W): waves that travel east over a gradient, with some noise; mean about 0, std about 1."""
    rows, columns = np.linspace(-1, 1, shape[0]), np.arange(shape[1]) / shape[1]
    time = np.arange(frames)[:, None, None]
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    waves = [
        np.sin(2 * np.pi * (number * columns - 0.03 * number * time) + phase[number - 1]) / number
        for number in (1, 2, 3)
    ]
    noise = np.random.default_rng([seed, 1]).normal(0, 0.1, (frames, *shape))
    field = sum(waves) * np.cos(rows * np.pi / 2)[:, None] + 0.5 * rows[:, None] + noise
    return np.asarray(field, dtype=np.float32)


def record(
    fields: dict[str, NDArray[np.float32]],
    start: str = "2001-01-01",
    hours: int = 6,
    names: tuple[str, str, str] = ("time", "lat", "lon"),
    units: dict[str, str] | None = None,
) -> xr.Dataset:
    """Fields (time, H, W) on the globe as a data set in memory, with CF coordinates."""
    frames, rows, columns = next(iter(fields.values())).shape
    times = np.datetime64(start, "ns") + np.arange(frames) * np.timedelta64(hours, "h")
    latitude = -90 + (np.arange(rows) + 0.5) * 180 / rows
    longitude = np.arange(columns) * 360 / columns
    return xr.Dataset(
        {name: (names, values, {"units": (units or {}).get(name, "K")}) for name, values in fields.items()},
        coords={
            names[0]: times,
            names[1]: (names[1], latitude, {"units": "degrees_north"}),
            names[2]: (names[2], longitude, {"units": "degrees_east"}),
        },
    )


def write_weatherbench(
    folder: Path, days: int = 30, shape: tuple[int, int] = (8, 16), start: str = "2001-01-01", seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Writes 6-hourly Z500 and T850 in WeatherBench's layout, a file a year; returns the values written."""
    written = {}
    for name, key, mean, std, units in (
        ("geopotential_500", "z", 54000.0, 3000.0, "m**2 s**-2"),
        ("temperature_850", "t", 275.0, 15.0, "K"),
    ):
        values = np.float32(mean) + np.float32(std) * moving_waves(4 * days, shape, seed + ord(key))
        data = record({key: values}, start, units={key: units})
        data[key].attrs["long_name"] = name
        (folder / name).mkdir(parents=True, exist_ok=True)
        for year, part in data.groupby("time.year"):
            part.to_netcdf(folder / name / f"{name}_{year}_5.625deg.nc", engine="netcdf4")
        written[name] = values
    return written


def write_store(
    path: Path,
    raw: xr.Dataset,
    params: Params,
    time_stamps: TimeStamps = "calendar",
    description: str = "A tiny record for tests.",
) -> Store:
    """Ingests a data set in memory (dims time, latitude, longitude or time, y, x) to a store at `path`."""
    building = path.with_name(f"{path.name}.building")
    building.mkdir(parents=True)
    ingest(raw.chunk(), params.ingest, building, time_stamps, description)
    (building / STORE).rename(path)
    shutil.rmtree(building)
    return Store(path)


def make_store(
    path: Path,
    frames: int = 120,
    shape: tuple[int, int] = (8, 16),
    time_stamps: TimeStamps = "calendar",
    seed: int = 0,
    **ingest_overrides: Any,
) -> Store:
    """A store of `z500` and `t850`, 6-hourly; `ingest_overrides` are keys of the section `ingest`."""
    fields = {
        "z500": np.float32(54000) + np.float32(3000) * moving_waves(frames, shape, seed),
        "t850": np.float32(275) + np.float32(15) * moving_waves(frames, shape, seed + 1),
    }
    raw = record(fields, names=("time", "latitude", "longitude"), units={"z500": "m**2 s**-2", "t850": "K"})
    raw["z500"].attrs.update(long_name="geopotential at 500 hPa", standard_name="geopotential")
    raw["t850"].attrs.update(long_name="temperature at 850 hPa", standard_name="air_temperature")
    return write_store(path, raw, tiny_params(ingest=ingest_overrides), time_stamps)
