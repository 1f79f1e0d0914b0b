"""Arrays in HDF5, .npy and .npz files, opened lazily and without trust.

Nothing is unpickled, and a file speaks for itself alone: links and storage that lead to other files are refused.
Lazy arrays hold the file's name, not a handle, so that the processes of a Dask cluster can read them.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.work import replacing

if TYPE_CHECKING:
    import dask.array
    import h5py

CHUNK_BYTES = 16e6  # of one Dask chunk, unless the file's own chunks are larger
NUMBERS = "fiu"  # numpy's kinds: floats, integers, unsigned integers
WORDS = {"f": "floats", "i": "integers", "u": "unsigned integers", "S": "text", "b": "booleans"}


# ---- HDF5


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; raises UserError if it is foreign, cut short or damaged."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, RuntimeError) as error:  # the latter for damage within the file
        raise UserError(f"{path} is no HDF5 file, is cut short or damaged: {error}") from None


def hdf5_array(path: Path, name: str, rank: int, kinds: str = NUMBERS) -> dask.array.Array:
    """The data set `name` of an HDF5 file as a Dask array that is chunked along its first axis.

    `kinds` are the allowed kinds of numbers, as numpy's `dtype.kind`. Raises UserError, naming the file, if the data
    set is missing, of another rank or kind, or stored in another file.
    """
    with opened(path) as file:
        data = _checked(file, path, name, rank, kinds)
        lazy = _HDF5(path, name, data.shape, data.dtype)
        own = data.chunks[0] if data.chunks else 1
    return chunked(lazy, own)


def hdf5_values(path: Path, name: str, rank: int, kinds: str = NUMBERS) -> NDArray[Any]:
    """A small data set, such as coordinates, read at once; text as bytes. Raises UserError as `hdf5_array` does."""
    with opened(path) as file:
        values = np.asarray(_checked(file, path, name, rank, kinds)[()])
    return values.astype(np.bytes_) if values.dtype.kind == "O" else values


class _HDF5:
    """Reads from the file whenever it is sliced."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.name, self.shape, self.dtype, self.ndim = path.absolute(), name, shape, dtype, len(shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with opened(self.path) as file:
            return np.asarray(file[self.name][index])


def _checked(file: h5py.File, path: Path, name: str, rank: int, kinds: str) -> h5py.Dataset:
    import h5py

    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(f"{path}: '{name}' is a link to the file '{link.filename}'; data must lie in the file itself")
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise UserError(f"{path} has no data set '{name}'; it holds {', '.join(file) or 'nothing'}")
    if data.is_virtual or data.external:
        raise UserError(f"{path}: the values of '{name}' are stored in other files; they must lie in the file itself")
    kind = "S" if h5py.check_string_dtype(data.dtype) else data.dtype.kind
    check(f"{path}: '{name}'", data.shape, kind, data.dtype, rank, kinds)
    return data


# ---- .npy and .npz


def npy_array(path: Path, rank: int, kinds: str = NUMBERS) -> dask.array.Array:
    """A .npy file as a Dask array that is chunked along its first axis; raises UserError as `npy_map` does."""
    values = npy_map(path, rank, kinds)
    return chunked(_Npy(path, rank, kinds, values.shape, values.dtype))


def npy_map(path: Path, rank: int, kinds: str = NUMBERS) -> NDArray[Any]:
    """A .npy file, memory-mapped for reading.

    Raises UserError, naming the file, if it is foreign, holds Python objects, is of another size than its header
    says, or of another rank or kind of numbers.
    """
    try:
        with path.open("rb") as stream:
            shape, dtype, start = _header(stream)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no .npy file or is cut short: {error}") from None
    check(str(path), shape, dtype.kind, dtype, rank, kinds)
    _check_size(str(path), path.stat().st_size, start + math.prod(shape) * dtype.itemsize)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) if math.prod(shape) else np.empty(shape, dtype)


class _Npy:
    """Maps the file whenever it is sliced."""

    def __init__(self, path: Path, rank: int, kinds: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.kinds, self.shape, self.dtype, self.ndim = path.absolute(), kinds, shape, dtype, rank

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.array(npy_map(self.path, self.ndim, self.kinds)[index])


def npz_names(path: Path) -> list[str]:
    """The names of an .npz file's arrays; raises UserError if it is no such file."""
    with _archive(path) as archive:
        return [_member(path, info.filename) for info in archive.infolist()]


def npz_values(path: Path, name: str, rank: int, kinds: str = NUMBERS) -> NDArray[Any]:
    """One array of an .npz file, read at once; raises UserError as `npy_map` does."""
    if name not in npz_names(path):
        raise UserError(f"{path} has no array '{name}'; it holds {', '.join(npz_names(path)) or 'nothing'}")
    try:
        with _archive(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, dtype, start = _header(stream)
            check(f"{path}: '{name}'", shape, dtype.kind, dtype, rank, kinds)
            size = archive.getinfo(f"{name}.npy").file_size
            _check_size(f"{path}: '{name}'", size, start + math.prod(shape) * dtype.itemsize)
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: '{name}' is no array or is cut short: {error}") from None


def unpack_npz(path: Path, folder: Path) -> None:
    """Writes every array of an .npz file to `folder`/<name>.npy, a block at a time, so that it can be mapped."""
    names = npz_names(path)
    with _archive(path) as archive:
        for name in names:
            target = folder / f"{name}.npy"
            with archive.open(target.name) as stream, replacing(target) as temporary, temporary.open("wb") as output:
                shutil.copyfileobj(stream, output, 2**20)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} is no .npz file, is cut short or damaged: {error}") from None


def _member(path: Path, entry: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*\.npy", entry):
        raise UserError(f"{path} has the entry {entry!r}; an .npz file holds NAME.npy, without folders")
    return entry.removesuffix(".npy")


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and where the values start; raises ValueError."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its format is {version[0]}.{version[1]}; known are 1.0 and 2.0")
    shape, _, dtype = read(stream)
    return shape, dtype, stream.tell()


def _check_size(what: str, size: int, wanted: int) -> None:
    if size != wanted:
        raise UserError(f"{what} has {size} bytes but its header speaks of {wanted}; it is cut short or damaged")


# ---- both


def check(what: str, shape: tuple[int, ...], kind: str, dtype: Any, rank: int, kinds: str) -> None:
    """Raises UserError about `what` unless it has `rank` axes, none of them empty, and one of the `kinds`."""
    if kind not in kinds:
        found = "Python objects, which are never unpickled" if kind == "O" else str(dtype)
        raise UserError(f"{what} holds {found}; allowed are {' or '.join(WORDS.get(kind, kind) for kind in kinds)}")
    if len(shape) != rank or 0 in shape:
        raise UserError(f"{what} has the shape {tuple(shape)}; it needs {rank} axes, none of them empty")


def chunked(values: Any, own: int = 1) -> dask.array.Array:
    """What has shape, dtype and slices as a Dask array in chunks of whole multiples of `own` rows."""
    import dask.array

    row_bytes = math.prod(values.shape[1:]) * values.dtype.itemsize
    rows = max(own, int(CHUNK_BYTES // max(1, row_bytes)) // own * own)
    return dask.array.from_array(values, chunks=(rows, *values.shape[1:]), name=False)
