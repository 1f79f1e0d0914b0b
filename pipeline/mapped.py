"""Memory-mapped copies of compressed arrays, for shuffled reads.

Training reads small pieces in random order, many times. Each copy lies under `.work/mapped/`, is made once
for each content and read through the page cache, which worker processes share.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import paths
from pipeline.store import rows_per_shard
from pipeline.work import replacing


class MemoryMap(np.memmap[Any, Any]):
    """A read-only memory map that is pickled as the name of its file, so that processes share its memory.

    NumPy's own is pickled as a copy of all it holds; so is a part of this one.
    """

    def __reduce__(self) -> Any:
        if isinstance(self.base, mmap.mmap):
            return _opened, (self.filename, self.dtype.str, self.shape)
        return super().__reduce__()


def _opened(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return MemoryMap(path, dtype=dtype, mode="r", shape=shape)


def release(array: NDArray[Any]) -> None:
    """Unmaps the pages of a mapped array that were read: they stay in the system's cache and are mapped when asked for.

    They count as the process's memory otherwise, which would seem to grow with the length of a record that is read
    once from end to end. Does nothing to other arrays, and where the system knows no such advice.
    """
    if isinstance(array, MemoryMap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def map_array(name: str, folder: Path, array: zarr.Array[Any]) -> NDArray[Any]:
    """A whole Zarr array of the group in `folder`, memory-mapped."""

    def parts() -> Iterator[tuple[int, NDArray[Any]]]:
        rows = rows_per_shard(array)
        for start in range(0, array.shape[0], rows):
            yield start, np.asarray(array[start : start + rows])

    return mapped(name, folder, array.shape, str(array.dtype), parts)


def mapped(
    name: str, source: Path, shape: tuple[int, ...], dtype: str, parts: Callable[[], Iterator[tuple[int, NDArray[Any]]]]
) -> NDArray[Any]:
    """A read-only memory map of what `parts` yields as (first row, rows), kept until `source` changes."""
    folder = paths.WORK / "mapped"
    target = folder / f"{name}-{_state_of(source)}"
    if not target.exists():
        for outdated in folder.glob(f"{name}-*"):
            outdated.unlink()
        with replacing(target) as temporary:
            plain: Any = np.memmap(temporary, dtype=dtype, mode="w+", shape=shape)
            for start, rows in parts():
                plain[start : start + len(rows)] = rows
            plain.flush()
    return _opened(target, dtype, shape)


def _state_of(source: Path) -> str:
    """A key that changes whenever a file below `source` is written again."""
    digest = hashlib.sha256()
    for file in sorted(source.rglob("*")):
        status = file.stat()
        digest.update(f"{file.relative_to(source)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
