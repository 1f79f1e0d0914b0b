"""Runs the teacher once over the windows that students learn from, and stores its Z_fused shard by shard."""

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
from pipeline.store import consolidate, create_array, rows_per_shard, shard_is_written, write_array
from pipeline.teachers.base import Teacher
from pipeline.windows import WindowDataset

log = logging.getLogger(__name__)


def dump(
    teacher: Teacher,
    train: WindowDataset,
    validation: WindowDataset,
    path: Path,
    settings: DumpFeatures,
    device: torch.device,
    origin: dict[str, str],
) -> None:
    """Writes the features of both splits to `path`, taking up the shards that a killed run left there.

    `origin` goes into the attributes: what the features were made from. Raises RuntimeError if a window that
    is computed again differs from what was stored by more than its precision allows.
    """
    teacher = teacher.to(device).eval()
    sets = (train, validation)
    array, group = _create(path, teacher, sets, settings, origin)
    rows = rows_per_shard(array)
    shards = [i for i in range(math.ceil(array.shape[0] / rows)) if not shard_is_written(array, path, i)]
    done = math.ceil(array.shape[0] / rows) - len(shards)
    if done:
        log.info("resuming with %d of %d shards done", done, done + len(shards))
    for shard in progress(shards, "features", done + len(shards), "shard", done=done):
        positions = range(shard * rows, min((shard + 1) * rows, array.shape[0]))
        array[positions.start : positions.stop] = np.concatenate(
            [values.astype(settings.dtype) for values in _fused(teacher, sets, positions, settings.batch_size, device)]
        )
    _write_statistics(group, array, len(train))
    _check_sample(teacher, sets, array, settings.checked_windows, device)
    consolidate(group)


def _create(
    path: Path, teacher: Teacher, sets: Sequence[WindowDataset], settings: DumpFeatures, origin: dict[str, str]
) -> tuple[zarr.Array[Any], zarr.Group]:
    """The group with its window numbers and an array for the features, or the one that is there already."""
    numbers = np.concatenate([windows.numbers for windows in sets])
    group = zarr.open_group(path, mode="a", zarr_format=3)
    if "features" not in group:
        group.attrs.update({"grid": list(teacher.latent_grid), **origin})
        write_array(group, "window", numbers, ["window"], {})
        shape = (len(numbers), math.prod(teacher.latent_grid), teacher.latent_width)
        dims = ["window", "token", "feature"]
        create_array(group, "features", shape, settings.dtype, dims, 1, settings.shard_megabytes)
    array: Any = group["features"]
    return array, group


@torch.no_grad()
def _fused(
    teacher: Teacher, sets: Sequence[WindowDataset], positions: range, batch_size: int, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """Z_fused of consecutive positions on the joint axis of all sets, in batches that stay within a set."""
    first = 0
    for windows in sets:
        inside = range(max(positions.start, first), min(positions.stop, first + len(windows)))
        for start in range(inside.start, inside.stop, batch_size):
            indices = list(range(start - first, min(start + batch_size, inside.stop) - first))
            batch = windows.__getitems__(indices).to(device)
            if batch.text is None:
                raise ValueError("the teacher needs captions")
            yield teacher(batch.inputs, batch.text).fused.float().cpu().numpy()
        first += len(windows)


def _write_statistics(group: zarr.Group, array: zarr.Array[Any], training_windows: int) -> None:
    """Mean and standard deviation over the training windows, per token and channel, summed in float64."""
    total = np.zeros(array.shape[1:])
    squares = np.zeros(array.shape[1:])
    for start in range(0, training_windows, rows_per_shard(array)):
        values = np.asarray(array[start : min(start + rows_per_shard(array), training_windows)], dtype=np.float64)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    mean = total / training_windows
    std = np.sqrt(np.maximum(squares / training_windows - mean**2, 0))
    for name, statistic in (("target_mean", mean), ("target_std", std)):
        write_array(group, name, statistic.astype("float32"), ["token", "feature"], {})


def _check_sample(
    teacher: Teacher, sets: Sequence[WindowDataset], array: zarr.Array[Any], count: int, device: torch.device
) -> None:
    """Computes evenly spaced windows again, one by one, and compares them with what was stored."""
    tolerance = 4 * float(np.finfo(array.dtype).eps)
    numbers = np.concatenate([windows.numbers for windows in sets])
    for position in np.unique(np.linspace(0, array.shape[0] - 1, count).round().astype(int)):
        (again,) = _fused(teacher, sets, range(position, position + 1), 1, device)
        stored = np.asarray(array[position : position + 1], dtype=np.float32)
        difference = float(np.abs(stored - again).max())
        if difference > tolerance * max(1.0, float(np.abs(again).max())):
            raise RuntimeError(
                f"stored features of window {numbers[position]} differ by {difference:g} from computed ones"
            )
