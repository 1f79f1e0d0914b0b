"""Copies a selection of raw files through fsspec: from a folder, a file, a glob or any URL that it knows.

Copies are kept in the stage's side folder until all are there. A killed copy goes on from the byte where it
stopped, provided the file at the source is still the same.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.work import Work

BLOCK_BYTES = 8 * 2**20
ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata")


@dataclass(frozen=True)
class Source:
    """The files behind `fetch.source`, each by its path below the last folder named without a wildcard."""

    address: str
    filesystem: Any  # fsspec's
    files: Mapping[str, str]  # path below that folder -> path in the file system

    @classmethod
    def of(cls, address: str | None) -> Source:
        """Raises UserError if nothing is named, it cannot be reached, or nothing is there."""
        if not address:
            raise UserError("fetch.source is empty; name a file, a folder, a glob or a URL that fsspec can read")
        with named(address):
            filesystem, path = fsspec.core.url_to_fs(address)
            files = _listed(filesystem, path.rstrip("/"))
            if not files:
                filesystem.info(path)  # raises, with the reason; a folder may be there and empty
        if not files:
            raise UserError(f"fetch.source: '{address}' is an empty folder; files are expected")
        return cls(address, filesystem, files)

    def renamed(self, rename: Callable[[str], str | None]) -> Source:
        """The files under new names; those whose new name is None are left out."""
        names = {name: rename(name) for name in self.files}
        return replace(self, files={new: self.files[name] for name, new in names.items() if new is not None})


def copy(source: Source, folder: Path) -> None:
    """Copies the files of `source` into `folder`; raises UserError if one cannot be read."""
    with Work("fetch", params={"source": source.address, "files": sorted(source.files)}, code=[__name__]) as work:
        sizes = {file: source.filesystem.size(file) or 0 for file in source.files.values()}
        blocks = sum(1 + size // BLOCK_BYTES for size in sizes.values())
        copied: dict[str, Path] = {}
        for _ in progress(_copy_all(source, work.folder, copied), "copy", blocks, "block"):
            pass
        for name, path in copied.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, folder / name)


def _copy_all(source: Source, work: Path, copied: dict[str, Path]) -> Iterator[None]:
    """Copies to `work`, notes in `copied` where each file lies, yields for each block."""
    for name, file in sorted(source.files.items()):
        with named(file):
            copied[name] = work / _version(source.filesystem, file) / name
            yield from _copy_file(source.filesystem, file, copied[name])


def _copy_file(filesystem: Any, file: str, target: Path) -> Iterator[None]:
    """One file, unless it is there already; what is there of it is continued."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("ab") as output:
        with _opened(filesystem, file, output) as stream:
            while block := stream.read(BLOCK_BYTES):
                output.write(block)
                output.flush()
                yield
        size, wanted = output.tell(), filesystem.size(file)
    if wanted is not None and size != wanted:
        part.unlink()
        raise UserError(f"{file} came as {size} bytes but has {wanted} at the source; run again")
    part.replace(target)


@contextmanager
def _opened(filesystem: Any, file: str, output: BinaryIO) -> Iterator[Any]:
    """The source from where `output` ends; from its start, and `output` emptied, if it cannot seek."""
    with filesystem.open(file, "rb", block_size=BLOCK_BYTES, cache_type="none") as stream:
        if output.tell() > 0:
            if stream.seekable():
                stream.seek(output.tell())
            else:
                output.truncate(0)
        yield stream


def _version(filesystem: Any, file: str) -> str:
    """Changes with the file at the source, as far as its file system tells."""
    details = filesystem.info(file)
    known = [details.get(key) for key in ("size", "mtime", "LastModified", "ETag")]
    return hashlib.sha256(repr((str(filesystem.ukey(file)), *map(str, known))).encode()).hexdigest()[:12]


def _listed(filesystem: Any, path: str) -> dict[str, str]:
    """Every file at `path`, a file, folder, Zarr store or glob."""
    if _is_glob(path):
        fixed = path[: min(path.find(mark) for mark in "*?[" if mark in path)]
        root = fixed.rpartition("/")[0]
        found = [file for hit in filesystem.glob(path) for file in _files_below(filesystem, hit)]
    else:
        found = _files_below(filesystem, path)
        alone = found == [path] or any(f"{path}/{name}" in found for name in ZARR_FILES)
        root = path.rpartition("/")[0] if alone else path
    return {file.removeprefix(root).lstrip("/").partition("?")[0]: file for file in found}


def _files_below(filesystem: Any, path: str) -> list[str]:
    is_store = any(filesystem.exists(f"{path}/{name}") for name in ZARR_FILES)
    if not is_store and filesystem.isfile(path):
        return [path]
    return sorted(filesystem.find(path))


def _is_glob(path: str) -> bool:
    """A question mark in a web address starts its query."""
    return any(mark in path for mark in ("*" if path.startswith("http") else "*?["))


@contextmanager
def named(address: str) -> Iterator[None]:
    """Turns what goes wrong at a source into a UserError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        why = f" ({error.__cause__})" if error.__cause__ else ""
        raise UserError(
            f"fetch.source: nothing is at '{address}'{why}; name a file, a folder, a glob or a URL"
        ) from None
    except _failures() as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"fetch.source: '{address}' cannot be read: {reason}") from None


def _failures() -> tuple[type[Exception], ...]:
    """What file systems raise; the storage clients in use have errors of their own that are no OSError."""
    names = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("gcsfs.retry", "HttpError"))
    clients = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return (OSError, ValueError, ImportError, *clients)
