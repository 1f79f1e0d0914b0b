"""What a data set must offer, and how raw files become fields with the pipeline's dimensions.

A source names files and variables; the helpers here open one file lazily, give a field its dimensions
(time, latitude, longitude) or (time, y, x), and join the pieces of several files along time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.datasets.files.netcdf3 import check_netcdf3_is_whole
from pipeline.errors import UserError
from pipeline.params import Fetch, Ingest, TimeStamps

NOMINAL_START = np.datetime64("2001-01-01T00", "ms")
CHUNK_BYTES = 16e6  # of one Dask chunk, unless the file's own chunks are larger
LARGEST_OWN_CHUNK_BYTES = 256e6  # beyond it a file's chunk is read in pieces, at the price of decoding it again
CACHE_BYTES = 1_000_000  # of decoded chunks, for each variable of each open NetCDF file; the library takes 16 MB

NAMES = {
    "time": ("time", "valid_time", "t", "date", "datetime"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "long"),
    "y": ("y", "row", "northing"),
    "x": ("x", "column", "easting"),
}
AXES = {"T": "time", "Y": "y", "X": "x"}  # CF's `axis` attribute


class DataSource(ABC):
    """A data set. Built from the `fetch` and `ingest` sections of params.yaml and the seed."""

    time_stamps: ClassVar[TimeStamps] = "calendar"
    description: ClassVar[str] = "Fields on a regular grid."  # for the captioner, unless ingest.description is set

    def __init__(self, fetch: Fetch, ingest: Ingest, seed: int) -> None:
        self.settings = fetch
        self.ingest = ingest
        self.seed = seed

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Fills `folder` with raw files. Resumes where a killed run stopped; raises UserError."""

    @abstractmethod
    def open(self, folder: Path) -> xr.Dataset:
        """The raw files as one Dask-backed data set, values in physical units.

        It holds the chosen variables in their order. Each has dims (time, latitude, longitude) or (time, y, x) in
        any order, coordinates for every dim, the attributes `units` and `long_name` where they are known, and
        `source_files` as `join` sets it. What else is known of the frames is set by `mark`. Raises UserError,
        naming the file.
        """


MARKS = ("segment", "split", "environment", "context")


def mark(
    data: xr.Dataset,
    segment: Sequence[int] | NDArray[np.integer] | None = None,
    split: Sequence[str] | NDArray[np.str_] | None = None,
    environment: Sequence[str] | NDArray[np.str_] | None = None,
    context: Sequence[str] | NDArray[np.str_] | None = None,
    environments: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> xr.Dataset:
    """`data` with what a source knows of its frames, one value for each along time.

    segment: frames of different numbers never share a window, such as those of two simulations.
    split: "train", "validation", "test" or "" (in none), where the data set itself decides.
    environment: the name of the one a frame was made in; `environments` has the parameters of each.
    context: words about the frame's time that were known at that time, for the captioner alone.
    notes: sentences on what was repaired or left out, for the log and the summary; added to earlier ones.
    """
    given = {"segment": segment, "split": split, "environment": environment, "context": context}
    arrays = {name: ("time", np.asarray(values)) for name, values in given.items() if values is not None}
    attributes: dict[str, Any] = {"notes": [*data.attrs.get("notes", []), *notes]}
    if environments is not None:
        attributes["environments"] = {name: dict(parameters) for name, parameters in environments.items()}
    return data.assign_coords(arrays).assign_attrs(attributes)


def nominal_times(lengths: Sequence[int], milliseconds: int) -> NDArray[np.datetime64]:
    """(sum of lengths,) datetime64[ms]: time stamps for runs that have no calendar.

    Frames of a run are `milliseconds` apart, one run begins where the one before it has ended and one frame more
    is left out, so that no two runs look like one.
    """
    steps = np.full(sum(lengths), milliseconds, dtype=np.int64)
    starts = np.cumsum([0, *lengths])[1:-1]
    steps[starts[starts < len(steps)]] *= 2
    return NOMINAL_START + (np.cumsum(steps) - milliseconds).astype("timedelta64[ms]")


def open_file(path: Path) -> xr.Dataset:
    """One NetCDF or GRIB file or Zarr folder, lazily; values are decoded to physical units when read.

    The content decides, not the file's name. Raises UserError if the file is foreign, cut short or undecodable.
    """
    engine = _engine(path)
    try:
        if engine == "cfgrib":
            return _open_grib(path)
        if engine == "zarr":  # consolidated metadata may speak of arrays that were not fetched
            return xr.open_zarr(path, consolidated=False, chunks=None, decode_timedelta=False)
        bound_file_caches()
        return xr.open_dataset(path, engine=engine, decode_timedelta=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} cannot be opened; it is cut short, damaged or of a foreign kind: {error}") from None


def bound_file_caches() -> None:
    """Keeps NetCDF files that are opened from now on small in memory: a record is read once and in order, and xarray
    leaves 128 files open."""
    import netCDF4

    netCDF4.set_chunk_cache(CACHE_BYTES)


def field(data: xr.DataArray, dimensions: Mapping[Any, str], path: Path) -> xr.DataArray:
    """`data` of the file `path` as a Dask-backed field: float32, with the pipeline's names for its dimensions.

    `dimensions` are the user's own: pipeline's name -> name in the file. Other dimensions must have size 1.
    Raises UserError if the dimensions or their coordinates do not fit.
    """
    names = {str(name): _role(data, str(name), dimensions) for name in (*data.dims, *_scalar_times(data, dimensions))}
    for name in [name for name in names if name not in data.dims]:
        data = data.expand_dims(name)
    spare = [name for name, role in names.items() if role is None]
    _check_dimensions(data, names, path)
    data = data.squeeze(spare, drop=True).reset_coords(drop=True)
    data = data.rename({name: role for name, role in names.items() if role and role != name})
    data = _with_coordinates(data, path)
    return data.chunk(_chunks(data)).astype(np.float32)


def join(name: str, pieces: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """The pieces of one field, by file name, joined along time in the order of their first time stamps.

    The attribute `source_files` of the result maps each file's name to its number of frames. Raises UserError if
    a file's grid differs from the first one's.
    """
    ordered = sorted(pieces.items(), key=lambda item: (item[1]["time"].values[0], item[0]))
    first_file, first = ordered[0]
    for file, piece in ordered[1:]:
        check_same_grid(first, piece, f"{name} in {first_file}", f"{name} in {file}")
    files = {file: piece.sizes["time"] for file, piece in ordered}
    parts = [piece.transpose(*first.dims) for _, piece in ordered]
    joined = xr.concat(parts, dim="time", join="override", combine_attrs="override") if len(parts) > 1 else first
    return joined.rename(name).assign_attrs(source_files=files)


def combine(fields: Sequence[xr.DataArray]) -> xr.Dataset:
    """Joined fields as one data set. Raises UserError if their grids or time stamps differ."""
    first = fields[0]
    for other in fields[1:]:
        check_same_grid(first, other, str(first.name), str(other.name))
        if not np.array_equal(first["time"].values, other["time"].values):
            raise UserError(
                f"{first.name} and {other.name} differ in their time stamps: {_times(first)} and {_times(other)}; "
                "all variables need the same"
            )
    return xr.Dataset({data.name: data.assign_coords(first.coords) for data in fields})


def file_at(data: xr.DataArray, frame: int) -> str:
    """The name of the file that holds a frame of a joined field; empty if it is not known."""
    for file, frames in data.attrs.get("source_files", {}).items():
        if frame < frames:
            return str(file)
        frame -= frames
    return ""


def check_same_grid(first: xr.DataArray, other: xr.DataArray, first_name: str, other_name: str) -> None:
    for dim in (str(dim) for dim in first.dims if dim != "time"):
        if dim not in other.dims:
            raise UserError(f"{other_name} has no {dim}, which {first_name} has; all files need the same grid")
        mine, theirs = first[dim].values, other[dim].values
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=1e-4 * _spacing(mine)):
            raise UserError(
                f"{other_name} has another grid than {first_name}: {dim} of {_axis(theirs)} instead of {_axis(mine)}"
            )


def _engine(path: Path) -> str:
    if path.is_dir():
        return "zarr"
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic[:4] == b"GRIB":
        return "cfgrib"
    if magic[:3] == b"CDF":
        check_netcdf3_is_whole(path)
        return "netcdf4"
    if magic == b"\x89HDF\r\n\x1a\n":
        return "netcdf4"
    raise UserError(f"{path} is neither NetCDF nor GRIB: it starts with {magic!r}")


def _open_grib(path: Path) -> xr.Dataset:
    """All variables of a GRIB file, from whichever of its data sets holds each."""
    try:
        import cfgrib
        from cfgrib.messages import eccodes
    except ImportError:
        raise UserError(f"{path} is a GRIB file; reading it needs cfgrib: pip install 's2kd[grib]'") from None
    # no index file: it would lie among the raw files and change what DVC sees
    try:
        parts = cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": "", "errors": "raise"})
    except (eccodes.GribInternalError, EOFError) as error:
        raise OSError(error) from None
    return xr.merge([part[[name]] for part in parts for name in part.data_vars], compat="override", join="outer")


def _role(data: xr.DataArray, name: str, dimensions: Mapping[Any, str]) -> str | None:
    """Which of the pipeline's dimensions `name` is: by the user's word, by its name, by its CF attributes."""
    for role, given in dimensions.items():
        if given == name:
            return role
    for role, known in NAMES.items():
        if name.lower() in known and role not in dimensions:
            return role
    attributes = data[name].attrs if name in data.coords else {}
    for role, units in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
        if attributes.get("standard_name") == role or attributes.get("units") == units:
            return role
    return AXES.get(str(attributes.get("axis")))


def _scalar_times(data: xr.DataArray, dimensions: Mapping[Any, str]) -> list[str]:
    """The time coordinate of a file that holds one frame and no time dimension."""
    if any(_role(data, str(dim), dimensions) == "time" for dim in data.dims):
        return []
    scalars = [str(name) for name in data.coords if data[name].ndim == 0]
    return [name for name in scalars if _role(data, name, dimensions) == "time"][:1]


def _check_dimensions(data: xr.DataArray, names: Mapping[str, str | None], path: Path) -> None:
    roles = sorted(role for role in names.values() if role)
    too_long = {name: data.sizes[name] for name, role in names.items() if role is None and data.sizes[name] != 1}
    if too_long or roles not in (["latitude", "longitude", "time"], ["time", "x", "y"]):
        raise UserError(
            f"{path}: '{data.name}' has the dimensions {dict(data.sizes)}; needed are time, latitude, longitude or "
            "time, y, x, and any other of size 1. Name unusual ones under ingest.dimensions"
        )


def _with_coordinates(data: xr.DataArray, path: Path) -> xr.DataArray:
    for dim in (str(dim) for dim in data.dims):
        if dim not in data.coords:
            if dim not in ("y", "x"):
                raise UserError(f"{path}: '{data.name}' has no coordinate values along {dim}")
            data = data.assign_coords({dim: np.arange(data.sizes[dim], dtype=np.float64)})
    times = data["time"]
    if times.dtype.kind != "M":
        calendar = times.dt.calendar if times.dtype.kind == "O" else "none, they are plain numbers"
        raise UserError(
            f"{path}: the time stamps' calendar is {calendar}; allowed are CF times ('hours since ...') in the "
            "standard, gregorian or proleptic_gregorian calendar"
        )
    return data


def _chunks(data: xr.DataArray) -> dict[str, int]:
    """Chunks along time alone: whole multiples of the file's own where those are not too large."""
    row_bytes = max(1, data.nbytes // max(1, data.sizes["time"]))
    rows = max(1, int(CHUNK_BYTES // row_bytes))
    own = int(data.encoding.get("preferred_chunks", {}).get("time", 1))
    if own * row_bytes <= LARGEST_OWN_CHUNK_BYTES:
        rows = max(own, rows // own * own)
    return {str(dim): rows if dim == "time" else -1 for dim in data.dims}


def _spacing(axis: np.ndarray) -> float:
    return float(abs(axis[1] - axis[0])) if len(axis) > 1 else 1.0


def _axis(axis: np.ndarray) -> str:
    return f"{len(axis)} values from {axis[0]:g} to {axis[-1]:g}"


def _times(data: xr.DataArray) -> str:
    times = data["time"].values.astype("datetime64[s]")
    return f"{len(times)} from {times[0]} to {times[-1]}"
