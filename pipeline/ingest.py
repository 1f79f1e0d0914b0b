"""Raw fields to one Zarr store: checked, put in order, written shard by shard along time, with statistics.

Memory holds a few shards, whatever the record's length. A shard is computed by Dask, looked over, written, and
its moments are merged in the order of time, so that a killed run goes on from its last checkpoint and ends
in the same bytes. Statistics cover the training frames alone: those that some training window reads.

Missing values (NaN, infinity), by `ingest.missing`:
    fail  the run stops and says where they are and how many
    drop  windows that would read a frame with one are left out; the values stay as they are
    fill  each becomes the last finite value before it at that point, so nothing of a later frame enters an
          earlier one; where there is none, the training climatology of that point, or, where no training frame
          has a value, the training mean of the field. Statistics leave missing values out
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from pipeline import splits, store
from pipeline.datasets.base import MARKS, file_at
from pipeline.errors import UserError
from pipeline.moments import Moments
from pipeline.params import Ingest, TimeStamps
from pipeline.planning import Marks, Plan, planned
from pipeline.shards import Merged, write
from pipeline.work import replacing

log = logging.getLogger(__name__)

STORE = "store.zarr"
CONSTANT = 1e-7  # a standard deviation below this share of the mean is rounding of float32


@dataclass(frozen=True)
class Record:
    """Fields in the store's order of dimensions and coordinates, still lazy, and what was noted about them."""

    fields: dict[str, xr.DataArray]  # (time, latitude, longitude) or (time, y, x), float32
    variables: tuple[store.Variable, ...]
    grid: store.Grid
    times: NDArray[np.datetime64]  # (time,) datetime64[s], or [ms] where a frame is not on a whole second
    marks: Marks
    notes: tuple[str, ...]


def ingest(
    raw: xr.Dataset,
    settings: Ingest,
    folder: Path,
    time_stamps: TimeStamps = "calendar",
    description: str = "",
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Builds `folder`/store.zarr from what a data source opened, and returns the summary of what was done.

    Raises UserError for input that cannot be used. `scheduler` is the address of a Dask scheduler, whose workers
    must see the raw files and `folder` under the same paths; without one, threads of this process do the work.
    """
    record = checked(raw)
    plan = planned(record.times, record.marks, settings)
    path = folder / STORE
    if not path.exists():
        with replacing(path) as temporary:
            span = splits.span_of(settings.t_in + settings.t_out, settings.step)
            store.create(temporary, record.variables, record.grid, record.times, span, settings.shard_megabytes)
    merged = write(record.fields, plan.training, path, scheduler)
    kept, dropped = _treat_missing(record, plan, merged, settings, path)
    statistics = _statistics(record, merged.moments)
    text = store.Description(
        record.variables, record.grid, statistics, plan.frame_seconds, time_stamps, settings.description or description
    )
    store.describe(zarr.open_group(path, mode="r+", use_consolidated=False), text, plan.frames, kept, settings.stride)
    return _summary(record, plan, kept, statistics, merged, dropped, settings)


# ---- the record: checked and in order


def checked(raw: xr.Dataset) -> Record:
    """Puts every field into the store's order and units; raises UserError for what cannot be put right."""
    first = next(iter(raw.data_vars.values()))
    dims = ("latitude", "longitude") if "latitude" in first.dims else ("y", "x")
    notes: list[str] = []
    for dim in dims:
        raw = _ascending(raw, dim, notes)
    fields = {str(name): data.transpose("time", *dims) for name, data in raw.data_vars.items()}
    variables = tuple(_variable(name, data, notes) for name, data in fields.items())
    y, x = (raw[dim].values.astype(np.float64) for dim in dims)
    grid = store.Grid(dims, y, x, str(raw["x"].attrs.get("units", "")) if dims == ("y", "x") else "")
    return Record(fields, variables, grid, _times(first), _marks(raw), (*raw.attrs.get("notes", ()), *notes))


def _marks(raw: xr.Dataset) -> Marks:
    given: dict[str, Any] = {name: raw[name].values for name in MARKS if name in raw.coords}
    if "environment" in given:
        unknown = sorted(set(given["environment"]) - set(raw.attrs.get("environments", {})))
        if unknown:
            raise UserError(f"environment '{unknown[0]}' has no parameters; those that have: {_known(raw)}")
    return Marks(**given, environments=raw.attrs.get("environments", {}))


def _known(raw: xr.Dataset) -> str:
    return ", ".join(raw.attrs.get("environments", {})) or "none"


def _ascending(raw: xr.Dataset, dim: str, notes: list[str]) -> xr.Dataset:
    values = raw[dim].values
    if not np.isfinite(values).all():
        raise UserError(f"the coordinate {dim} has NaN or infinite values; every row and column needs a finite one")
    if dim == "latitude" and np.abs(values).max() > 90.001:
        raise UserError(f"latitude goes from {values.min():g} to {values.max():g}; allowed is -90 to 90 degrees")
    if len(values) > 1 and (np.diff(values) < 0).all():
        notes.append(f"{dim} was descending and was turned")
        return raw.isel({dim: slice(None, None, -1)})
    if (np.diff(values) <= 0).any():
        at = int(np.argmax(np.diff(values) <= 0))
        raise UserError(f"{dim} neither ascends nor descends: {values[at]:g} is followed by {values[at + 1]:g}")
    return raw


def _variable(name: str, data: xr.DataArray, notes: list[str]) -> store.Variable:
    units = str(data.attrs.get("units", "")).strip()
    if units in ("", "unknown", "~"):
        notes.append(f"{name} has no known units; they are taken as 1")
        units = "1"
    standard_name = str(data.attrs.get("standard_name", ""))
    standard_name = "" if standard_name == "unknown" else standard_name  # what cfgrib writes
    return store.Variable(name, units, str(data.attrs.get("long_name") or name), standard_name)


def _times(data: xr.DataArray) -> NDArray[np.datetime64]:
    """The time stamps in seconds, or in milliseconds if they need it; raises UserError unless they ascend."""
    times = data["time"].values
    if np.isnat(times).any():
        raise UserError(f"the time stamp of frame {int(np.argmax(np.isnat(times)))} is missing (NaT)")
    exact = times.astype("datetime64[ms]")
    if (exact != times).any():
        at = int(np.argmax(exact != times))
        raise UserError(
            f"the time stamp {times[at]} of frame {at} is finer than a millisecond, which the store has not"
        )
    steps = np.diff(exact.astype(np.int64))
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        what = "is repeated" if steps[at] == 0 else f"is followed by the earlier {_shortest(exact)[at + 1]}"
        raise UserError(
            f"the time stamp {_shortest(exact)[at]} {what} at frame {at + 1}{_where(data, at + 1)}; "
            "time stamps must ascend"
        )
    return _shortest(exact)


def _shortest(times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """datetime64[s] if that loses nothing."""
    seconds = times.astype("datetime64[s]")
    return seconds if (seconds == times).all() else times


def _where(data: xr.DataArray, frame: int) -> str:
    file = file_at(data, frame)
    return f" (file {file})" if file else ""


# ---- missing values


def _treat_missing(
    record: Record, plan: Plan, merged: Merged, settings: Ingest, path: Path
) -> tuple[store.Windows, int]:
    """The windows that remain, and how many were dropped, after the policy was applied."""
    if settings.missing == "fail" and merged.missing.any():
        raise UserError(_missing_sentence(record, merged.missing, path))
    if settings.missing == "fill" and merged.missing.any():
        _fill(record, merged, path)
    if settings.missing != "drop":
        return plan.windows, 0
    return _without_missing(plan, merged.missing.sum(axis=0) > 0)


def _missing_sentence(record: Record, missing: NDArray[np.int64], path: Path) -> str:
    index = int(np.argmax(missing.any(axis=1)))
    name, counts = list(record.fields)[index], missing[index]
    frame = int(np.argmax(counts > 0))
    values = np.asarray(store.array(zarr.open_group(path, mode="r"), name)[frame])
    row, column = np.argwhere(~np.isfinite(values))[0]
    grid = record.grid
    place = f"{grid.dims[0]} {grid.y[row]:g}, {grid.dims[1]} {grid.x[column]:g}"
    time = record.times[frame]
    return (
        f"{name} has {counts.sum()} NaN or infinite values in {(counts > 0).sum()} of {len(counts)} frames, the first "
        f"at {time}, {place}{_where(record.fields[name], frame)}; ingest.missing = fail stops here, drop leaves out "
        "the windows that hold them, fill puts the last value before them"
    )


def _without_missing(plan: Plan, bad: NDArray[np.bool_]) -> tuple[store.Windows, int]:
    windows = plan.windows
    count = windows.t_in + windows.t_out
    keep = ~bad[splits.frames_of(windows.start, count, windows.step)].any(axis=1)
    kept = replace(windows, start=windows.start[keep], split=windows.split[keep])
    reason = f", and {(~keep).sum()} windows were dropped for missing values (ingest.missing = drop)"
    splits.check_every_split(kept.split, plan.frames.segment, splits.span_of(count, windows.step), reason)
    return kept, int((~keep).sum())


def _fill(record: Record, merged: Merged, path: Path) -> None:
    """Goes through the shards in order of time and carries the last finite value on; can be repeated."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for index, name in enumerate(record.fields):
        array = store.array(group, name)
        last = _climatology(merged.moments, index)
        rows = store.rows_per_shard(array)
        for start in range(0, len(record.times), rows):
            values = np.asarray(array[start : start + rows])
            if np.isfinite(values).all():
                last = values[-1]
                continue
            for frame in values:
                np.copyto(frame, last, where=~np.isfinite(frame))
                last = frame
            array[start : start + rows] = values


# ---- statistics and summary


def _statistics(record: Record, moments: Moments) -> store.Statistics:
    pairs = [moments[index].over_points() for index in range(len(record.fields))]
    for name, (mean, std) in zip(record.fields, pairs, strict=True):
        if std <= CONSTANT * abs(mean):
            raise UserError(f"{name} is constant ({mean:g}) over the training frames; a field that varies is needed")
    return store.Statistics(
        mean=np.array([mean for mean, _ in pairs]),
        std=np.array([std for _, std in pairs]),
        climatology=np.stack([_climatology(moments, index) for index in range(len(pairs))]),
        climatology_std=moments.std.astype(np.float32),
    )


def _climatology(moments: Moments, index: int) -> NDArray[np.float32]:
    """(H, W) mean over the training frames; the mean of the field where a point has no value in any of them."""
    of_field = moments[index]
    mean, _ = of_field.over_points()
    return np.where(of_field.count > 0, of_field.mean, mean).astype(np.float32)


def _environment_summary(plan: Plan, kept: store.Windows) -> dict[str, Any]:
    """Windows by environment and split, where the record has environments."""
    if plan.frames.environment is None:
        return {}
    of_window = plan.frames.environment[kept.start]
    return {
        "environments": {
            environment.name: {
                "seen": environment.seen,
                **{name: int((of_window[kept.of(name)] == number).sum()) for name in store.SPLITS},
            }
            for number, environment in enumerate(plan.frames.environments)
        }
    }


def _summary(
    record: Record,
    plan: Plan,
    kept: store.Windows,
    statistics: store.Statistics,
    merged: Merged,
    dropped: int,
    settings: Ingest,
) -> dict[str, Any]:
    missing = {name: int(count) for name, count in zip(record.fields, merged.missing.sum(axis=1), strict=True)}
    return {
        "frames": len(record.times),
        "training_frames": int(plan.training.sum()),
        "first": str(record.times[0]),
        "last": str(record.times[-1]),
        "frame_seconds": plan.frame_seconds,
        "segments": int(plan.frames.segment[-1]) + 1,
        "windows": {name: len(kept.of(name)) for name in store.SPLITS},
        **_environment_summary(plan, kept),
        "missing": {"policy": settings.missing, "values": missing, "windows_dropped": dropped},
        "variables": {
            variable.name: {"units": variable.units, "mean": float(mean), "std": float(std)}
            for variable, mean, std in zip(record.variables, statistics.mean, statistics.std, strict=True)
        },
        "notes": "; ".join(record.notes),
    }
