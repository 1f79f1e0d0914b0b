"""Resumable parts of a stage, and the one way to put an output in its place.

A stage keeps finished parts in `.work/<stage>/<fingerprint>/`. The fingerprint covers everything that
decides the result (inputs, parameters, code), so parts of another run are never taken up. Each part is
written to a temporary name and renamed, so a part exists whole or not at all. A file lock keeps two runs
of the same stage apart; the system releases it when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from pipeline import paths

log = logging.getLogger(__name__)


class Work:
    """The side folder of one stage run.

    Use it as a context manager: entering takes the lock, an error or a kill leaves the parts for the next run.
    A clean exit removes them, apart from the newest `keep` folders of the stage.
    """

    def __init__(
        self,
        stage: str,
        inputs: Iterable[Path] = (),
        params: Any = None,
        code: Iterable[str] = (),
        keep: int = 0,
        node: int = 0,
    ) -> None:
        """`inputs`: files or folders read; `params`: the values used; `code`: names of the modules used.

        `node`: this machine's number among those that run the stage together on one disk, each with a lock of its own.
        The first one's outputs count, and it alone clears up.
        """
        self.stage = stage
        self.keep = keep
        self.node = node
        self.folder = paths.WORK / stage / fingerprint(inputs, params, code)
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Work:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder.with_suffix(f".{self.node}.lock" if self.node else ".lock"))
        self.folder.mkdir(parents=True, exist_ok=True)  # its last holder may have removed it
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.node == 0:
            os.utime(self.folder)
            finished = sorted(self.folder.parent.glob("[0-9a-f]*[0-9a-f]"), key=lambda path: path.stat().st_mtime)
            for folder in [self.folder] if self.keep == 0 else finished[: -self.keep]:
                with suppress(FileNotFoundError):  # another run of the stage was first
                    going = folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.tmp"))  # whole or not at all
                    shutil.rmtree(going, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lock": None}  # stays with the process that took it

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def path(self, name: str) -> Path:
        return self.folder / name

    def remove(self, name: str) -> None:
        _remove(self.folder / name)

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """Yields a temporary path to write a file or folder to; on success it becomes `name`."""
        with replacing(self.folder / name) as temporary:
            yield temporary

    @contextmanager
    def output(self, target: Path) -> Iterator[Path]:
        """Yields a temporary path; what is written there takes the place of `target`, or vanishes on a later node."""
        with replacing(target) if self.node == 0 else _discarding(target.name) as temporary:
            yield temporary

    def hand_over(self, name: str, target: Path) -> None:
        """Makes a part an output."""
        if self.node == 0:
            with replacing(target) as temporary:
                self.path(name).rename(temporary)


@contextmanager
def _discarding(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; on success it takes the target's place, else it vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        _sync(temporary)
        if target.is_dir():
            _remove(target)
        temporary.replace(target)
    finally:
        _remove(temporary)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` with a fixed layout, so that equal values give equal bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def fingerprint(inputs: Iterable[Path], params: Any = None, code: Iterable[str] = ()) -> str:
    """A short hash of file contents, parameter values and the source of the named modules."""
    import importlib.util

    digest = hashlib.sha256()
    for root in inputs:
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if file.is_file():
                digest.update(str(file.relative_to(root.parent)).encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(json.dumps(_plain(params), sort_keys=True).encode())
    for module in sorted(code):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(module)
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def locked(path: Path) -> BinaryIO:
    """Takes the lock on `path`, waiting for its holder; closing the file or dying releases it."""
    stream = path.open("a+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().decode(errors="replace").strip() or "unknown"
        log.warning("process %s is at the same work; waiting for it to end (%s)", holder, path)
        fcntl.flock(stream, fcntl.LOCK_EX)
    stream.truncate(0)
    stream.write(str(os.getpid()).encode())
    stream.flush()
    return stream


def _sync(path: Path) -> None:
    """Flushes a finished part to the disk, so that a rename never outlives its content."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
