"""Forecasts on disk: CF NetCDF or Zarr that xarray opens, filled a batch at a time.

    <variable> (init_time, lead_time, latitude, longitude)   float32, physical units; y, x on a plane
    init_time (init_time)     the last input frame: CF's forecast_reference_time
    lead_time (lead_time)     after it: CF's forecast_period
    time (init_time, lead_time)   when a forecast is valid

Equal forecasts give equal bytes: nothing in a file depends on when or where it was written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.errors import UserError
from pipeline.serving.spec import Spec

EPOCH = np.datetime64(0, "ms")
INIT_TIME = {
    "standard_name": "forecast_reference_time",
    "long_name": "time of the last input frame",
    "calendar": "proleptic_gregorian",
}
LEAD_TIME = {"standard_name": "forecast_period", "long_name": "time since the last input frame"}
VALID_TIME = {"standard_name": "time", "long_name": "time that the forecast is for", "calendar": "proleptic_gregorian"}
SHARD_MEGABYTES = 50


class Output(ABC):
    """A file or store for the forecasts of `init_times`; use as a context manager."""

    def __init__(self, path: Path, spec: Spec, init_times: NDArray[np.datetime64], title: str) -> None:
        self.path = path
        self.spec = spec
        self.dims = ("init_time", "lead_time", *spec.grid.dims)
        self.shape = (len(init_times), spec.t_out, *spec.frame_shape[1:])
        self.attributes = {"Conventions": "CF-1.11", "title": title, "source": f"s2kd: {spec.title}"}
        self.create(_coordinates(spec, init_times))

    @abstractmethod
    def create(self, coordinates: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]]) -> None:
        """Coordinates by name, each with its dimensions, values and attributes, and empty variables."""

    @abstractmethod
    def write(self, start: int, forecast: NDArray[np.float32]) -> None:
        """(B, t_out, C, H, W): the forecasts from initial time number `start` on."""

    def variable_attributes(self) -> dict[str, dict[str, str]]:
        return {
            each.name: store.variable_attributes(each.variable) | {"coordinates": "time"}
            for each in self.spec.variables
        }

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Writes what is left."""


class NetCDF(Output):
    def create(self, coordinates: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]]) -> None:
        import netCDF4

        self._file = netCDF4.Dataset(self.path, "w", format="NETCDF4")
        self._file.setncatts(self.attributes)
        for name, size in zip(self.dims, self.shape, strict=True):
            self._file.createDimension(name, size)
        for name, (dims, values, attributes) in coordinates.items():
            variable = self._file.createVariable(name, values.dtype, dims)
            variable.setncatts(attributes)
            variable[...] = values
        for name, attributes in self.variable_attributes().items():
            chunks = (1, *self.shape[1:])
            self._file.createVariable(name, "f4", self.dims, chunksizes=chunks, fill_value=False).setncatts(attributes)

    def write(self, start: int, forecast: NDArray[np.float32]) -> None:
        for index, each in enumerate(self.spec.variables):
            self._file[each.name][start : start + len(forecast)] = forecast[:, :, index]

    def close(self) -> None:
        self._file.close()


class Zarr(Output):
    def create(self, coordinates: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]]) -> None:
        import zarr

        self._group = zarr.create_group(self.path, zarr_format=3, attributes=self.attributes)
        for name, (dims, values, attributes) in coordinates.items():
            store.write_array(self._group, name, values, dims, attributes)
        for name, attributes in self.variable_attributes().items():
            store.create_array(
                self._group, name, self.shape, "float32", self.dims, 1, SHARD_MEGABYTES, attributes=attributes
            )
        self._held: list[NDArray[np.float32]] = []
        self._start = 0

    def write(self, start: int, forecast: NDArray[np.float32]) -> None:
        """Held until a whole shard is there: a part of one would be read and written again for each batch."""
        self._held.append(forecast)
        rows = store.rows_per_shard(store.array(self._group, self.spec.variables[0].name))
        while sum(map(len, self._held)) >= rows:
            held = np.concatenate(self._held)
            self._flush(held[:rows])
            self._held = [held[rows:]]

    def close(self) -> None:
        if self._held and len(self._held[0]):
            self._flush(np.concatenate(self._held))
        store.consolidate(self._group)

    def _flush(self, forecast: NDArray[np.float32]) -> None:
        stop = self._start + len(forecast)
        for index, each in enumerate(self.spec.variables):
            store.array(self._group, each.name)[self._start : stop] = forecast[:, :, index]
        self._start = stop


FORMATS: dict[str, type[Output]] = {".nc": NetCDF, ".zarr": Zarr}


def format_of(path: Path) -> type[Output]:
    """By the name's ending; raises UserError for another one."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in '{path.suffix}'; forecasts are written to a name in .nc or .zarr")
    return FORMATS[path.suffix]


def _coordinates(
    spec: Spec, init_times: NDArray[np.datetime64]
) -> dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]]:
    """Times are whole seconds, or milliseconds where they need it."""
    grid = spec.grid.grid
    init, lead = (init_times.astype("datetime64[ms]") - EPOCH).astype(np.int64), spec.lead_times.astype(np.int64)
    valid = init[:, None] + lead
    unit, divisor = ("milliseconds", 1) if (init % 1000).any() or (lead % 1000).any() else ("seconds", 1000)
    since = {"units": f"{unit} since 1970-01-01"}
    period = LEAD_TIME | {"units": unit, "dtype": "timedelta64[ns]"}  # how xarray itself marks a duration
    on_a_plane = {"units": grid.units} if grid.units and not grid.geographic else {}
    found: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, str]]] = {
        "init_time": (("init_time",), init // divisor, INIT_TIME | since),
        "lead_time": (("lead_time",), lead // divisor, period),
        "time": (("init_time", "lead_time"), valid // divisor, VALID_TIME | since),
    }
    for name, values in zip(grid.dims, (grid.y, grid.x), strict=True):
        found[name] = ((name,), values, store.AXIS_ATTRIBUTES[name] | on_a_plane)
    return found
