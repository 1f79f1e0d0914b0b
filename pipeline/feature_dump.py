"""Runs the teacher once over the windows that students learn from, and stores its Z_fused shard by shard.

Its forecasts too, where they are asked for: in an array beside it, whose shards hold the same windows. They are
always float16, since physical units have rounded them already.

While the teacher is at one batch a thread reads the next and another compresses what the last shard brought and takes
its statistics, which lie beside the store until all shards have theirs. Of several processes each writes shards of
its own, and the first completes the store; neither their number nor a kill changes a byte.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from lightning_fabric import Fabric
from numpy.typing import NDArray

from pipeline.batch import Batch
from pipeline.devices import on_devices
from pipeline.failures import memory_told, smaller_batches
from pipeline.moments import Moments
from pipeline.params import DumpFeatures, Runtime
from pipeline.progress import progress
from pipeline.shard_file import remove_partial, write_shard
from pipeline.store import array, consolidate, create_array, rows_per_shard, shard_is_written, write_array
from pipeline.teachers.base import Teacher
from pipeline.windows import WindowDataset
from pipeline.work import replacing

log = logging.getLogger(__name__)

DIMENSIONS = {"features": ("token", "feature"), "forecast": ("lead", "variable", "row", "column")}  # behind "window"
Arrays = dict[str, zarr.Array[Any]]
Values = dict[str, NDArray[Any]]  # rows by array


class Job(NamedTuple):
    """What is stored, and where. sets: training and validation windows, on one axis."""

    teacher: Teacher
    sets: tuple[WindowDataset, WindowDataset]
    path: Path
    settings: DumpFeatures
    origin: dict[str, str]

    @property
    def windows(self) -> int:
        return sum(map(len, self.sets))


def dump(
    teacher: Teacher,
    train: WindowDataset,
    validation: WindowDataset,
    path: Path,
    settings: DumpFeatures,
    runtime: Runtime,
    origin: dict[str, str],
) -> None:
    """Writes what the teacher makes of both splits to `path`, taking up the shards that a killed run left there.

    `runtime` names the devices, which share the shards. `origin` goes into the attributes: what the features were made
    from. Raises RuntimeError if a window that is computed again differs from what was stored by more than its
    precision allows.
    """
    job = Job(teacher, (train, validation), path, settings, origin)
    on_devices(runtime, "32-true", path.parent, _dump, job)


def _dump(fabric: Fabric, job: Job) -> None:
    """One process's part of `dump`."""
    batches = smaller_batches("dump_features", job.settings.batch_size)
    with memory_told("features", f"{batches}. Finished shards are kept"):
        _dump_own(fabric, job)


def _dump_own(fabric: Fabric, job: Job) -> None:
    first, ranks = fabric.global_rank == 0, fabric.world_size
    job.teacher.to(fabric.device).eval()
    missing: list[int] = fabric.broadcast(_missing_shards(job) if first else [])  # once the arrays are there
    own = missing[fabric.global_rank :: ranks]
    arrays = _opened(job.path)
    count = math.ceil(job.windows / rows_per_shard(arrays["features"]))
    done = count - len(missing)
    if done and first:
        log.info("resuming with %d of %d shards done", done, count)
    shown = progress(own, "features", done // ranks + len(own), "shard", done=done // ranks) if first else own
    _write_shards(job, arrays, shown, fabric.device)
    fabric.barrier()
    if first:
        group = zarr.open_group(job.path, mode="r+", use_consolidated=False)
        _write_statistics(group, job)
        _check_sample(job, arrays, fabric.device)
        consolidate(group)


def _missing_shards(job: Job) -> list[int]:
    """Shards that are yet to be written, of arrays that are created if need be."""
    remove_partial(job.path)  # a killed run's, which would stay in the output
    group = _create(job)
    arrays = [array(group, name) for name in DIMENSIONS if name in group]
    shards = range(math.ceil(job.windows / rows_per_shard(arrays[0])))
    return [i for i in shards if not all(shard_is_written(each, job.path, i) for each in arrays)]


def _opened(path: Path) -> Arrays:
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return {name: array(group, name) for name in DIMENSIONS if name in group}


def _create(job: Job) -> zarr.Group:
    """The group with its window numbers and empty arrays, or the one that is there already."""
    numbers = np.concatenate([windows.numbers for windows in job.sets])
    teacher, settings, problem = job.teacher, job.settings, job.teacher.problem
    shapes: dict[str, tuple[int, ...]] = {"features": (math.prod(teacher.latent_grid), teacher.latent_width)}
    if settings.forecasts:
        shapes["forecast"] = (problem.t_out, problem.variables, problem.height, problem.width)
    dtypes = {"features": settings.dtype, "forecast": "float16"}
    row_bytes = {name: math.prod(shape) * np.dtype(dtypes[name]).itemsize for name, shape in shapes.items()}
    rows = max(1, int(settings.shard_megabytes * 1e6 // max(row_bytes.values())))
    group = zarr.open_group(job.path, mode="a", zarr_format=3)
    missing = [name for name in shapes if name not in group]
    if missing:
        group.attrs.update({"grid": list(teacher.latent_grid), **job.origin})
        write_array(group, "window", numbers, ["window"], {})
    for name in missing:
        megabytes = (rows + 0.5) * row_bytes[name] / 1e6  # so that shards of all arrays hold as many windows
        dims, shape = ["window", *DIMENSIONS[name]], (len(numbers), *shapes[name])
        create_array(group, name, shape, dtypes[name], dims, 1, megabytes)
    return group


def _write_shards(job: Job, arrays: Arrays, shards: Iterable[int], device: torch.device) -> None:
    """Fills the shards one after another; one is being written while the teacher is at the next."""
    rows = rows_per_shard(arrays["features"])
    with ThreadPoolExecutor(1) as writer:
        before: Future[None] | None = None
        for shard in shards:
            positions = range(shard * rows, min((shard + 1) * rows, job.windows))
            values = _joined(_outputs(job, positions, job.settings.batch_size, arrays, device))
            if before is not None:
                before.result()
            before = writer.submit(_write_shard, job, arrays, shard, values)
        if before is not None:
            before.result()


def _write_shard(job: Job, arrays: Arrays, shard: int, values: Values) -> None:
    """Writes a shard of every array, and first its statistics: whoever finds the shard written finds them too."""
    training = len(job.sets[0]) - shard * rows_per_shard(arrays["features"])
    moments = Moments.of(values["features"][: max(training, 0)].astype(np.float32))
    path = _moments_path(job.path, shard)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **vars(moments))
    for name, each in arrays.items():
        write_shard(each, job.path, shard, values[name])


def _moments_path(path: Path, shard: int) -> Path:
    return path.with_suffix(".moments") / f"{shard:06d}.npz"


@torch.no_grad()
def _outputs(job: Job, positions: range, batch_size: int, arrays: Arrays, device: torch.device) -> Iterator[Values]:
    """By array, rows of consecutive positions on the joint axis of all sets, in batches that stay within a set."""
    teacher = job.teacher
    for batch in _ahead(_batches(job.sets, positions, batch_size)):
        moved = batch.to(device)
        output = teacher(moved.inputs, moved.text)
        values = {"features": output.fused}
        if "forecast" in arrays:
            values["forecast"] = teacher.normaliser(output.forecast)
        yield {name: _rounded(value, arrays[name]) for name, value in values.items()}


def _rounded(value: torch.Tensor, target: zarr.Array[Any]) -> NDArray[Any]:
    """In the array's precision, before it leaves the device."""
    return value.to(getattr(torch, str(target.dtype))).cpu().numpy()


def _batches(sets: Sequence[WindowDataset], positions: range, batch_size: int) -> Iterator[Batch]:
    first = 0
    for windows in sets:
        inside = range(max(positions.start, first), min(positions.stop, first + len(windows)))
        for start in range(inside.start, inside.stop, batch_size):
            yield windows.__getitems__(list(range(start - first, min(start + batch_size, inside.stop) - first)))
        first += len(windows)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each read by a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _joined(outputs: Iterable[Values]) -> Values:
    listed = list(outputs)
    return {name: np.concatenate([output[name] for output in listed]) for name in listed[0]}


def _write_statistics(group: zarr.Group, job: Job) -> None:
    """Mean and standard deviation over the training windows, per token and channel, merged in the shards' order."""
    features = array(group, "features")
    shards = range(math.ceil(len(job.sets[0]) / rows_per_shard(features)))
    moments = reduce(Moments.merged, (_read_moments(job.path, shard) for shard in shards))
    for name, statistic in (("target_mean", moments.mean), ("target_std", moments.std)):
        write_array(group, name, statistic.astype("float32"), ["token", "feature"], {})


def _read_moments(path: Path, shard: int) -> Moments:
    with np.load(_moments_path(path, shard), allow_pickle=False) as saved:
        return Moments(saved["count"], saved["mean"], saved["squares"])


def _check_sample(job: Job, arrays: Arrays, device: torch.device) -> None:
    """Computes evenly spaced windows again, one by one, and compares them with what was stored."""
    numbers = np.concatenate([windows.numbers for windows in job.sets])
    for position in np.unique(np.linspace(0, len(numbers) - 1, job.settings.checked_windows).round().astype(int)):
        (again,) = _outputs(job, range(position, position + 1), 1, arrays, device)
        for name, each in arrays.items():
            stored, computed = np.asarray(each[position : position + 1], dtype=np.float32), again[name].astype("f4")
            difference, tolerance = float(np.abs(stored - computed).max()), 4 * float(np.finfo(each.dtype).eps)
            if difference > tolerance * max(1.0, float(np.abs(computed).max())):
                raise RuntimeError(
                    f"stored {name} of window {numbers[position]} differ by {difference:g} from computed ones"
                )
