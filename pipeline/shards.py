"""The fields into the store, one shard along time after another, by threads of this process or by a Dask cluster.

A bounded number of shards is in hand at once, so that memory does not grow with the record. Whoever writes them and
in whatever order they come to an end, their moments are merged in the order of time, and shards are files that
appear whole or not at all. So the bytes are the same for any number of threads or workers and after any number of
kills: a run goes on from the last checkpoint, and what had been written after it is written once more.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from pipeline import store
from pipeline.cluster import Job, workers
from pipeline.datasets.base import bound_file_caches, file_at
from pipeline.errors import UserError
from pipeline.moments import Moments
from pipeline.progress import progress
from pipeline.shard_file import remove_partial, write_shard
from pipeline.work import replacing

log = logging.getLogger(__name__)

CHECKPOINT = "merged.npz"
CODE = ("shards.py", "shard_file.py", "moments.py", "store.py")  # what the bytes of a shard depend on
SHARE_OF_CHECKPOINTS = 0.05  # of the time; on a large grid a checkpoint is as large as a shard


@dataclass(frozen=True)
class Merged:
    """What is known after some shards: `done` of them, moments (C, H, W), missing values (C, time)."""

    done: int
    moments: Moments
    missing: NDArray[np.int64]

    def followed_by(self, moments: Moments, missing: NDArray[np.int64], rows: int) -> Merged:
        """With one more shard of `rows` frames, the last one of fewer; takes over the array of missing values."""
        start = self.done * rows
        self.missing[:, start : start + missing.shape[1]] = missing
        return Merged(self.done + 1, self.moments.merged(moments), self.missing)


@dataclass(frozen=True)
class Part:
    """What a worker is given: shard `index` of every field, lazily, and which of its frames are training frames."""

    index: int
    pieces: dict[str, Any]  # Dask arrays (frames, H, W)
    training: NDArray[np.bool_]  # (frames,)
    frames: slice
    files: dict[str, str]


def write(fields: dict[str, xr.DataArray], training: NDArray[np.bool_], path: Path, scheduler: str | None) -> Merged:
    """Writes the shards of the store at `path` that are missing; the checkpoint lies beside it.

    fields: (time, H, W) each. training: (time,), the frames whose moments are gathered. scheduler: see
    `cluster.workers`. Raises UserError if a file cannot be read.
    """
    path = path.absolute()
    remove_partial(path)
    rows = store.rows_per_shard(store.array(zarr.open_group(path, mode="r"), next(iter(fields))))
    total = -(-len(training) // rows)
    merged = _resumed(path, fields, total)
    checkpoint = Checkpoint(path.with_name(CHECKPOINT))
    with workers(scheduler, CODE, path) as (submit, in_hand):
        parts = (_part(fields, training, rows, index) for index in range(merged.done, total))
        results = _in_order((submit(write_part, path, part) for part in parts), in_hand)
        for moments, missing in progress(results, "ingest", total, "shard", done=merged.done):
            merged = merged.followed_by(moments, missing, rows)
            checkpoint.save(merged, last=merged.done == total)
    remove_partial(path)  # of workers that died
    return merged


def _in_order(jobs: Iterable[Job], in_hand: Callable[[], int]) -> Iterator[Any]:
    """Results in the order of the jobs, which are started as earlier ones are taken up."""
    waiting: deque[Job] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) >= in_hand():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _part(fields: dict[str, xr.DataArray], training: NDArray[np.bool_], rows: int, index: int) -> Part:
    frames = slice(index * rows, min((index + 1) * rows, len(training)))
    pieces = {name: _lean(data[frames]) for name, data in fields.items()}
    files = {name: _files(data, frames) for name, data in fields.items()}
    return Part(index, pieces, training[frames], frames, files)


def _lean(data: xr.DataArray) -> Any:
    """The Dask array of a few frames without the rest of the record's graph."""
    import dask

    return dask.optimize(data.data)[0]


def _files(data: xr.DataArray, frames: slice) -> str:
    names = dict.fromkeys(file_at(data, frame) for frame in (frames.start, frames.stop - 1))
    return " to ".join(name for name in names if name)


def write_part(path: Path, part: Part) -> tuple[Moments, NDArray[np.int64]]:
    """Computes and writes one shard of every variable, one variable after the other.

    Returns the moments (C, H, W) of its training frames and the number of missing values (C, frames of the shard).
    """
    bound_file_caches()  # here too: a worker opens its own files
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    fields = [_write_field(name, store.array(group, name), path, part) for name in part.pieces]
    return Moments.stacked([moments for moments, _ in fields]), np.stack([missing for _, missing in fields])


def _write_field(name: str, array: zarr.Array[Any], path: Path, part: Part) -> tuple[Moments, NDArray[np.int64]]:
    values = _read(name, part)
    write_shard(array, path, part.index, values)
    return Moments.of(values if part.training.all() else values[part.training]), _missing(values)


def _read(name: str, part: Part) -> NDArray[np.float32]:
    values = np.empty(part.pieces[name].shape, np.float32)
    try:  # block by block: `compute` would hold all of them twice
        part.pieces[name].store(values, lock=False, scheduler="synchronous")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{name} cannot be read in frames {part.frames.start} to {part.frames.stop - 1} "
            f"(file {part.files[name] or 'unknown'}): {error}"
        ) from None
    return values


def _missing(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """(frames,) how many values of each frame are NaN or infinite."""
    finite = np.isfinite(values)
    return np.zeros(len(values), np.int64) if finite.all() else (~finite).sum(axis=(1, 2))


# ---- the checkpoint


class Checkpoint:
    """Saves what was merged, as often as costs little."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.next = 0.0

    def save(self, merged: Merged, last: bool) -> None:
        start = time.monotonic()
        if start >= self.next or last:
            _save(self.path, merged)
            end = time.monotonic()
            self.next = end + (end - start) / SHARE_OF_CHECKPOINTS


def _save(path: Path, merged: Merged) -> None:
    moments = merged.moments
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            done=merged.done,
            count=moments.count,
            mean=moments.mean,
            squares=moments.squares,
            missing=merged.missing,
        )


def _resumed(path: Path, fields: dict[str, xr.DataArray], total: int) -> Merged:
    """The last checkpoint, if the shards it speaks of are all there; else nothing done."""
    first = next(iter(fields.values()))
    shape = (len(fields), *first.shape[1:])
    fresh = Merged(0, Moments.none(shape), np.zeros((len(fields), len(first)), np.int64))
    checkpoint = path.with_name(CHECKPOINT)
    if not checkpoint.exists():
        return fresh
    with np.load(checkpoint, allow_pickle=False) as saved:
        merged = Merged(int(saved["done"]), Moments(saved["count"], saved["mean"], saved["squares"]), saved["missing"])
    group = zarr.open_group(path, mode="r")
    arrays = [store.array(group, name) for name in fields]
    whole = all(store.shard_is_written(array, path, shard) for array in arrays for shard in range(merged.done))
    if whole:
        log.info("going on after shard %d of %d", merged.done, total)
    return merged if whole else fresh
