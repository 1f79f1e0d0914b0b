"""The Zarr v3 layout: how arrays are created, the ingested record is described, opened and checked.

`data/ingest/store.zarr` is one group that `xarray.open_zarr` reads:

    <variable> (time, latitude, longitude)           float32, physical units, one array per variable
        attributes units, long_name, training_mean, training_std
    <variable>_climatology, <variable>_climatology_std (latitude, longitude)   over the training frames
    time (time) int64, seconds since 1970-01-01 (milliseconds where a frame is not on a whole second)
    latitude, longitude float64 (or y, x on a plane)
    segment (time) int32                             frames of one number follow each other without a gap
    environment (time) int32, where simulations have any: the position in the attribute `environments`
    context (time) string, where anything is known:  words about the frame's time, for captioners alone
    window_start (window) int64, window_split (window) int8    the windows, numbered by position
    attributes t_in, t_out, step, stride, frame_seconds, time_stamps, description, ...

Shards hold about 50 MB, chunks what one read takes, and every chunk carries a crc32c. Equal content gives
equal bytes: nothing in the store depends on when or where it was written.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import UnstableSpecificationWarning, ZarrUserWarning

from pipeline.errors import UserError
from pipeline.params import TimeStamps

FORMAT = "s2kd-store/1"
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")  # window_split holds the position in this tuple

TIME_ATTRIBUTES = {
    "standard_name": "time",
    "long_name": "time",
    "units": "seconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
    "axis": "T",
}
TIME_UNITS = {"datetime64[s]": "seconds", "datetime64[ms]": "milliseconds"}
AXIS_ATTRIBUTES = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
    "y": {"long_name": "row", "axis": "Y"},
    "x": {"long_name": "column", "axis": "X"},
}
SPLIT_ATTRIBUTES = {
    "long_name": "split of the window",
    "flag_values": list(range(len(SPLITS))),
    "flag_meanings": " ".join(SPLITS),
}


@dataclass(frozen=True)
class Variable:
    """One field: its name in the store, its CF units and a name for people."""

    name: str
    units: str
    long_name: str
    standard_name: str = ""  # of CF's table, where it is known


@dataclass(frozen=True)
class Grid:
    """The horizontal grid. `dims` are ("latitude", "longitude") in degrees, or ("y", "x") on a plane."""

    dims: tuple[str, str]
    y: NDArray[np.float64]  # (H,), ascending
    x: NDArray[np.float64]  # (W,)
    units: str = ""  # of y and x on a plane, where they are known

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @property
    def geographic(self) -> bool:
        return self.dims == ("latitude", "longitude")

    @property
    def periodic(self) -> bool:
        """True if the columns go once around the globe, so that the last is the first one's neighbour."""
        if not self.geographic or len(self.x) < 2:
            return False
        return bool(np.isclose(len(self.x) * (self.x[1] - self.x[0]), 360))

    @property
    def latitude_weights(self) -> NDArray[np.float64]:
        """(H,) cosine of latitude, scaled to mean 1; all ones on a plane."""
        if not self.geographic:
            return np.ones(len(self.y))
        weights = np.cos(np.deg2rad(self.y))
        return weights / weights.mean()


@dataclass(frozen=True)
class Statistics:
    """Of the training frames alone, in physical units."""

    mean: NDArray[np.float64]  # (C,)
    std: NDArray[np.float64]  # (C,)
    climatology: NDArray[np.float32]  # (C, H, W), mean over time
    climatology_std: NDArray[np.float32]  # (C, H, W), standard deviation over time


@dataclass(frozen=True)
class Description:
    """All that is known of a record apart from its values and time stamps."""

    variables: tuple[Variable, ...]
    grid: Grid
    statistics: Statistics
    frame_seconds: float  # between two frames of the record
    time_stamps: TimeStamps
    text: str  # the data set's fixed description in words


@dataclass(frozen=True)
class Environment:
    """The conditions that some simulations of a record share."""

    name: str
    parameters: dict[str, float]
    seen: bool  # False: held out, in the test split alone


@dataclass(frozen=True)
class Frames:
    """What is known of every frame beside its values and time stamp."""

    segment: NDArray[np.int32]  # (time,)
    environment: NDArray[np.int32] | None = None  # (time,) position in `environments`
    environments: tuple[Environment, ...] = ()
    context: NDArray[np.str_] | None = None  # (time,)


@dataclass(frozen=True)
class Windows:
    """The sample axis: window i starts at frame start[i]; its frames are `step` frames apart."""

    start: NDArray[np.int64]
    split: NDArray[np.int8]
    t_in: int
    t_out: int
    step: int

    def __len__(self) -> int:
        return len(self.start)

    def of(self, split: Split) -> NDArray[np.int64]:
        """The numbers of the windows in one split, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def input_frames(self, window: int) -> NDArray[np.int64]:
        return self.start[window] + self.step * np.arange(self.t_in)

    def target_frames(self, window: int) -> NDArray[np.int64]:
        return self.start[window] + self.step * np.arange(self.t_in, self.t_in + self.t_out)


class Store:
    """An ingested record, opened for reading."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if `path` is missing or not such a store."""
        self.path = path
        self.group = open_group(path)
        if self.group.attrs.get("format") != FORMAT:
            found = self.group.attrs.get("format")
            raise UserError(f"{path} is not a store of format {FORMAT} but {found!r}; ingest again")

    def array(self, name: str) -> zarr.Array[Any]:
        return array(self.group, name)

    @cached_property
    def times(self) -> NDArray[np.datetime64]:
        """(time,) time stamps in UTC, datetime64[s], or [ms] where a frame is not on a whole second."""
        array = self.array("time")
        unit = "ms" if str(array.attrs["units"]).startswith(TIME_UNITS["datetime64[ms]"]) else "s"
        return np.asarray(array[:]).astype(f"datetime64[{unit}]")

    @cached_property
    def environments(self) -> tuple[Environment, ...]:
        """Empty where the record has none."""
        listed: Any = self.group.attrs.get("environments", [])
        return tuple(Environment(**environment) for environment in listed)

    @cached_property
    def window_environment(self) -> NDArray[np.int32] | None:
        """(window,) the position in `environments`; None where the record has none."""
        if not self.environments:
            return None
        return np.asarray(self.array("environment")[:])[self.windows.start]

    @cached_property
    def context(self) -> NDArray[np.object_] | None:
        """(time,) words about each frame's time, which were known then; None where nothing is known."""
        if "context" not in self.group:
            return None
        return np.asarray(self.array("context")[:]).astype(object)  # a width for all would cost memory

    @cached_property
    def windows(self) -> Windows:
        attrs: Any = self.group.attrs
        return Windows(
            start=np.asarray(self.array("window_start")[:]),
            split=np.asarray(self.array("window_split")[:]),
            t_in=int(attrs["t_in"]),
            t_out=int(attrs["t_out"]),
            step=int(attrs["step"]),
        )

    @cached_property
    def description(self) -> Description:
        attrs: Any = self.group.attrs
        names = list(attrs["variables"])
        arrays = [self.array(name) for name in names]
        row, column = attrs["grid_dims"]
        return Description(
            variables=tuple(
                Variable(
                    name,
                    str(array.attrs["units"]),
                    str(array.attrs["long_name"]),
                    str(array.attrs.get("standard_name", "")),
                )
                for name, array in zip(names, arrays, strict=True)
            ),
            grid=self._grid(row, column),
            statistics=Statistics(
                mean=np.array([array.attrs["training_mean"] for array in arrays], dtype=np.float64),
                std=np.array([array.attrs["training_std"] for array in arrays], dtype=np.float64),
                climatology=np.stack([np.asarray(self.array(f"{name}_climatology")[:]) for name in names]),
                climatology_std=np.stack([np.asarray(self.array(f"{name}_climatology_std")[:]) for name in names]),
            ),
            frame_seconds=float(attrs["frame_seconds"]),
            time_stamps=attrs["time_stamps"],
            text=str(attrs["description"]),
        )

    def _grid(self, row: str, column: str) -> Grid:
        y, x = self.array(row), self.array(column)
        units = str(x.attrs.get("units", "")) if column == "x" else ""
        return Grid((row, column), np.asarray(y[:]), np.asarray(x[:]), units)

    def frames(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, C, H, W): consecutive frames of all variables, physical units."""
        return np.stack([np.asarray(self.array(v.name)[start:stop]) for v in self.description.variables], axis=1)


def create(
    path: Path,
    variables: Sequence[Variable],
    grid: Grid,
    times: NDArray[np.datetime64],
    rows_per_chunk: int,
    shard_megabytes: float,
) -> zarr.Group:
    """Creates the group at `path` with its coordinates and one empty array per variable, to be filled by shards.

    times: (time,) datetime64[s] or [ms], UTC. `describe` completes the store.
    """
    group = zarr.create_group(path, zarr_format=3)
    units = f"{TIME_UNITS[str(times.dtype)]} since 1970-01-01"
    write_array(group, "time", times.astype(np.int64), ("time",), TIME_ATTRIBUTES | {"units": units})
    on_a_plane = {"units": grid.units} if grid.units and not grid.geographic else {}
    for name, values in zip(grid.dims, (grid.y, grid.x), strict=True):
        write_array(group, name, values.astype(np.float64), (name,), AXIS_ATTRIBUTES[name] | on_a_plane)
    for variable in variables:
        create_array(
            group,
            variable.name,
            (len(times), *grid.shape),
            "float32",
            ("time", *grid.dims),
            rows_per_chunk,
            shard_megabytes,
            variable_attributes(variable),
        )
    return group


def describe(group: zarr.Group, description: Description, frames: Frames, windows: Windows, stride: int) -> None:
    """Completes a store made by `create`: statistics, frames, windows and attributes. Can be repeated."""
    dims = description.grid.dims
    for index, variable in enumerate(description.variables):
        statistics = description.statistics
        group[variable.name].attrs.update(
            {"training_mean": float(statistics.mean[index]), "training_std": float(statistics.std[index])}
        )
        for suffix, what, maps in (
            ("climatology", "mean", statistics.climatology),
            ("climatology_std", "standard deviation", statistics.climatology_std),
        ):
            attributes = {"units": variable.units, "long_name": f"{variable.long_name}, training {what}"}
            write_array(group, f"{variable.name}_{suffix}", maps[index].astype(np.float32), dims, attributes)
    _describe_frames(group, frames)
    write_array(group, "window_start", windows.start, ("window",), {"long_name": "first frame of the window"})
    write_array(group, "window_split", windows.split, ("window",), SPLIT_ATTRIBUTES)
    of_group = _group_attributes(description, windows, stride)
    if frames.environments:
        of_group["environments"] = [asdict(environment) for environment in frames.environments]
    group.attrs.put(of_group)
    consolidate(group)


def _describe_frames(group: zarr.Group, frames: Frames) -> None:
    long_name = {"long_name": "number of the stretch without a gap in time"}
    write_array(group, "segment", frames.segment, ("time",), long_name)
    if frames.environment is not None:
        long_name = {"long_name": "position in the list of environments"}
        write_array(group, "environment", frames.environment, ("time",), long_name)
    if frames.context is not None:
        _write_words(group, "context", frames.context, {"long_name": "what was known at the time, in words"})


def _write_words(group: zarr.Group, name: str, words: NDArray[np.str_], attributes: dict[str, Any]) -> None:
    """(time,) strings of any length, in one chunk, in place of any of that name."""
    if name in group:
        del group[name]
    with warnings.catch_warnings():  # strings are not in the Zarr v3 specification yet, but xarray reads them
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        array = group.create_array(
            name,
            shape=words.shape,
            dtype=str,
            chunks=words.shape,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            dimension_names=("time",),
            attributes=attributes,
        )
    array[...] = words.astype(object)


def consolidate(group: zarr.Group) -> None:
    """Gathers the group's metadata in one file: not in the Zarr v3 specification yet, but xarray looks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(group.store)


def _group_attributes(description: Description, windows: Windows, stride: int) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "format": FORMAT,
        "variables": [variable.name for variable in description.variables],
        "grid_dims": list(description.grid.dims),
        "t_in": windows.t_in,
        "t_out": windows.t_out,
        "step": windows.step,
        "stride": stride,
        "frame_seconds": description.frame_seconds,
        "time_stamps": description.time_stamps,
        "description": description.text,
    }


def variable_attributes(variable: Variable) -> dict[str, str]:
    attributes = {"units": variable.units, "long_name": variable.long_name}
    if variable.standard_name:
        attributes["standard_name"] = variable.standard_name
    return attributes


def write_array(
    group: zarr.Group, name: str, values: NDArray[Any], dims: Sequence[str], attributes: dict[str, Any]
) -> None:
    """Writes a small array in one chunk, in place of any of that name."""
    if name in group:
        del group[name]
    array = create_array(group, name, values.shape, str(values.dtype), dims, len(values), attributes=attributes)
    array[...] = values


def open_group(path: Path) -> zarr.Group:
    """Opens a Zarr group for reading; raises UserError if it is missing or damaged."""
    try:
        return zarr.open_group(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `dvc repro` makes it, `dvc pull` fetches it") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is not a readable Zarr group: {error}") from None


def create_array(
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: str,
    dims: Sequence[str],
    rows_per_chunk: int,
    shard_megabytes: float = 50,
    attributes: dict[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Creates an array that is chunked and sharded along its first axis.

    A shard holds as many whole chunks as come nearest below `shard_megabytes` (uncompressed), at least one
    and no more than the array needs. Written a shard at a time, each shard is one atomically renamed file.
    """
    row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    rows_per_chunk = max(1, min(rows_per_chunk, shape[0]))
    chunks_needed = math.ceil(shape[0] / rows_per_chunk)
    chunks_per_shard = max(1, min(chunks_needed, int(shard_megabytes * 1e6 // max(1, row_bytes * rows_per_chunk))))
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=(rows_per_chunk, *shape[1:]),
        shards=(rows_per_chunk * chunks_per_shard, *shape[1:]),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=tuple(dims),
        attributes=attributes or {},
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def rows_per_shard(array: zarr.Array[Any]) -> int:
    shards = array.shards or array.chunks
    return int(shards[0])


def shard_is_written(array: zarr.Array[Any], folder: Path, index: int) -> bool:
    """Whether shard `index` along the first axis lies on disk; `folder` is the group's folder."""
    key = array.metadata.encode_chunk_key((index, *(0 for _ in array.shape[1:])))
    return (folder / array.path / key).is_file()


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    try:
        node = group[name]
    except KeyError:
        raise UserError(f"{group.store_path} lacks the array '{name}'; it holds {', '.join(sorted(group))}") from None
    if not isinstance(node, zarr.Array):
        raise UserError(f"{group.store_path}: '{name}' is a group; an array is expected")
    return node
