"""Runs the teacher once over the windows that students learn from, and stores its Z_fused shard by shard.

Its forecasts too, where they are asked for: in an array beside it, whose shards hold the same windows. They are
always float16, since physical units have rounded them already.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from pipeline.params import DumpFeatures
from pipeline.progress import progress
from pipeline.store import array, consolidate, create_array, rows_per_shard, shard_is_written, write_array
from pipeline.teachers.base import Teacher
from pipeline.windows import WindowDataset

log = logging.getLogger(__name__)

DIMENSIONS = {"features": ("token", "feature"), "forecast": ("lead", "variable", "row", "column")}  # behind "window"
Arrays = dict[str, zarr.Array[Any]]


def dump(
    teacher: Teacher,
    train: WindowDataset,
    validation: WindowDataset,
    path: Path,
    settings: DumpFeatures,
    device: torch.device,
    origin: dict[str, str],
) -> None:
    """Writes what the teacher makes of both splits to `path`, taking up the shards that a killed run left there.

    `origin` goes into the attributes: what the features were made from. Raises RuntimeError if a window that
    is computed again differs from what was stored by more than its precision allows.
    """
    teacher = teacher.to(device).eval()
    sets = (train, validation)
    group = _create(path, teacher, sets, settings, origin)
    arrays: Arrays = {name: array(group, name) for name in DIMENSIONS if name in group}
    rows, windows = rows_per_shard(arrays["features"]), len(train) + len(validation)
    count = math.ceil(windows / rows)
    shards = [i for i in range(count) if not all(shard_is_written(each, path, i) for each in arrays.values())]
    done = count - len(shards)
    if done:
        log.info("resuming with %d of %d shards done", done, count)
    for shard in progress(shards, "features", count, "shard", done=done):
        positions = range(shard * rows, min((shard + 1) * rows, windows))
        outputs = list(_outputs(teacher, sets, positions, settings.batch_size, device))
        for name, each in arrays.items():
            values = [output[name].astype(each.dtype) for output in outputs]
            each[positions.start : positions.stop] = np.concatenate(values)
    _write_statistics(group, arrays["features"], len(train))
    _check_sample(teacher, sets, arrays, settings.checked_windows, device)
    consolidate(group)


def _create(
    path: Path, teacher: Teacher, sets: Sequence[WindowDataset], settings: DumpFeatures, origin: dict[str, str]
) -> zarr.Group:
    """The group with its window numbers and empty arrays, or the one that is there already."""
    numbers = np.concatenate([windows.numbers for windows in sets])
    problem = teacher.problem
    shapes: dict[str, tuple[int, ...]] = {"features": (math.prod(teacher.latent_grid), teacher.latent_width)}
    if settings.forecasts:
        shapes["forecast"] = (problem.t_out, problem.variables, problem.height, problem.width)
    dtypes = {"features": settings.dtype, "forecast": "float16"}
    row_bytes = {name: math.prod(shape) * np.dtype(dtypes[name]).itemsize for name, shape in shapes.items()}
    rows = max(1, int(settings.shard_megabytes * 1e6 // max(row_bytes.values())))
    group = zarr.open_group(path, mode="a", zarr_format=3)
    missing = [name for name in shapes if name not in group]
    if missing:
        group.attrs.update({"grid": list(teacher.latent_grid), **origin})
        write_array(group, "window", numbers, ["window"], {})
    for name in missing:
        megabytes = (rows + 0.5) * row_bytes[name] / 1e6  # so that shards of all arrays hold as many windows
        dims, shape = ["window", *DIMENSIONS[name]], (len(numbers), *shapes[name])
        create_array(group, name, shape, dtypes[name], dims, 1, megabytes)
    return group


@torch.no_grad()
def _outputs(
    teacher: Teacher, sets: Sequence[WindowDataset], positions: range, batch_size: int, device: torch.device
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """By array, rows of consecutive positions on the joint axis of all sets, in batches that stay within a set."""
    first = 0
    for windows in sets:
        inside = range(max(positions.start, first), min(positions.stop, first + len(windows)))
        for start in range(inside.start, inside.stop, batch_size):
            indices = list(range(start - first, min(start + batch_size, inside.stop) - first))
            batch = windows.__getitems__(indices).to(device)
            output = teacher(batch.inputs, batch.text)
            values = {"features": output.fused, "forecast": teacher.normaliser(output.forecast)}
            yield {name: value.float().cpu().numpy() for name, value in values.items()}
        first += len(windows)


def _write_statistics(group: zarr.Group, features: zarr.Array[Any], training_windows: int) -> None:
    """Mean and standard deviation over the training windows, per token and channel, summed in float64."""
    total = np.zeros(features.shape[1:])
    squares = np.zeros(features.shape[1:])
    for start in range(0, training_windows, rows_per_shard(features)):
        values = np.asarray(features[start : min(start + rows_per_shard(features), training_windows)], dtype=np.float64)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    mean = total / training_windows
    std = np.sqrt(np.maximum(squares / training_windows - mean**2, 0))
    for name, statistic in (("target_mean", mean), ("target_std", std)):
        write_array(group, name, statistic.astype("float32"), ["token", "feature"], {})


def _check_sample(
    teacher: Teacher, sets: Sequence[WindowDataset], arrays: Arrays, count: int, device: torch.device
) -> None:
    """Computes evenly spaced windows again, one by one, and compares them with what was stored."""
    numbers = np.concatenate([windows.numbers for windows in sets])
    for position in np.unique(np.linspace(0, len(numbers) - 1, count).round().astype(int)):
        (again,) = _outputs(teacher, sets, range(position, position + 1), 1, device)
        for name, each in arrays.items():
            stored = np.asarray(each[position : position + 1], dtype=np.float32)
            difference, tolerance = float(np.abs(stored - again[name]).max()), 4 * float(np.finfo(each.dtype).eps)
            if difference > tolerance * max(1.0, float(np.abs(again[name]).max())):
                raise RuntimeError(
                    f"stored {name} of window {numbers[position]} differ by {difference:g} from computed ones"
                )
