"""Copies a selection of raw files through fsspec: from a folder, a file, a glob or any URL that it knows.

Copies are kept in the stage's side folder until all are there. A killed copy goes on from the byte where it
stopped, provided the file at the source is still the same; one that breaks off is taken up again at once. Files
are checked against the sums that their store or `fetch.checksums` tells; what differs is not kept.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import shutil
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qs

import fsspec

from pipeline import checksums
from pipeline.errors import UserError
from pipeline.params import Fetch
from pipeline.progress import progress
from pipeline.work import Work

log = logging.getLogger(__name__)
Result = TypeVar("Result")

BLOCK_BYTES = 8 * 2**20  # of one read
UNIT_BYTES = 2**20  # of progress
AT_ONCE = 8  # files; for small ones, one waits for the server more than for the bytes
ATTEMPTS = 4  # in a row without a byte gained
FIRST_PAUSE = 1.0  # seconds; doubled after each attempt
SECONDS_OF_SILENCE = 60  # after which a web server is given up
ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata")
CONTEXT = "context"  # folder of the tables for the captioner's prompt, among the raw files
UNREADABLE: tuple[type[Exception], ...] = (ValueError, ImportError, EOFError, zipfile.BadZipFile, zlib.error)
ANYTHING = "name a file, a folder, a glob or a URL that fsspec can read"


@dataclass(frozen=True)
class File:
    filesystem: Any  # fsspec's
    path: str  # in the file system
    label: str  # for messages: no credentials
    sums: checksums.Sums | None = None  # that list it


@dataclass(frozen=True)
class Source:
    """The files behind `fetch.source`, each by its path below the last folder named without a wildcard."""

    address: str  # for messages: no credentials
    files: Mapping[str, File]

    @classmethod
    def of(cls, settings: Fetch, by_hand: str = "") -> Source:
        """Raises UserError if nothing is named, it cannot be reached, or nothing is there.

        `by_hand`: what must be downloaded by hand, from where and to where, for the error.
        """
        address = settings.source
        if not address:
            raise UserError(f"fetch.source is empty; {by_hand or ANYTHING}")
        with named(address, by_hand), _taking(settings.storage, address):
            filesystem, path = connected(address, settings.storage)
            found = _listed(filesystem, path.rstrip("/"))
            if not found:
                filesystem.info(path)  # raises, with the reason; a folder may be there and empty
        if not found:
            raise UserError(f"fetch.source: '{shown(address)}' is an empty folder; {by_hand or 'files are expected'}")
        sums = _sums(settings)
        files = {_inside(name): File(filesystem, file, shown(file), sums) for name, file in found.items()}
        return cls(shown(address), files)

    def renamed(self, rename: Callable[[str], str | None]) -> Source:
        """The files under new names; those whose new name is None are left out."""
        names = {name: rename(name) for name in self.files}
        return replace(self, files={new: self.files[name] for name, new in names.items() if new is not None})


@dataclass(frozen=True)
class Job:
    """One file that is copied to `target`, by way of `part`."""

    file: File
    target: Path
    size: int | None
    expected: Sequence[checksums.Checksum]

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def there(self) -> int:
        """Bytes that an earlier run has brought."""
        return next((path.stat().st_size for path in (self.target, self.part) if path.exists()), 0)


class _StoppedError(Exception):
    """Another file cannot be copied, so the rest need not be."""


def connected(address: str, storage: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of an address and the path in it. `storage` is not for local paths."""
    if address.startswith(("gs://", "gcs://")):
        # asks each bucket for its kind over gRPC, which waits for minutes behind a proxy and for an emulator
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    filesystem, path = fsspec.core.url_to_fs(address, **storage if is_remote(address) else {})
    return filesystem, path


def zarr_opened(address: str, storage: Mapping[str, Any]) -> Any:
    """The xarray.Dataset of a Zarr store at any address, lazily and without Dask; raises UserError."""
    import xarray as xr

    with named(address), _taking(storage, address), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about metadata that is not consolidated
        connected(address, storage)
        options = dict(storage) if is_remote(address) else None
        return xr.open_zarr(address, chunks=None, storage_options=options or None, decode_timedelta=False)


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith(("file://", "local://"))


def copy(source: Source, folder: Path) -> None:
    """Copies the files of `source` into `folder`; raises UserError if one cannot be read or is not as published."""
    settings = {"source": source.address, "files": sorted(source.files)}
    with Work("fetch", params=settings, code=[__name__]) as work:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda name: _job(source, name, work.folder), source.files)
            jobs = dict(zip(source.files, found, strict=True))
        _check_space(source.address, jobs.values(), work.folder)
        sizes = {name: max(job.size or 0, job.there) for name, job in jobs.items()}
        total, done = sum(map(_units, sizes.values())), sum(_units(job.there) for job in jobs.values())
        for _ in progress(_copy_all(list(jobs.values())), "copy", total, "MiB", done):
            pass
        for name, job in jobs.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(job.target, folder / name)


def copy_context(settings: Fetch, folder: Path) -> None:
    """Copies the tables that `fetch.context` names into `folder`/context; raises UserError."""
    tables: dict[str, File] = {}
    for address in settings.context:
        storage = settings.storage if _protocol(address) == _protocol(settings.source or "") else {}
        found = Source.of(Fetch(source=address, storage=storage)).files
        for name, file in ((name.rpartition("/")[2], file) for name, file in found.items()):
            if name in tables:
                raise UserError(f"fetch.context: {tables[name].label} and {file.label} have one name; rename one")
            if (folder / CONTEXT / name).exists():
                raise UserError(f"fetch.context: the data set has a table {name} of its own; rename {file.label}")
            tables[name] = file
    if tables:
        copy(Source("fetch.context", tables), folder / CONTEXT)


def persistently(attempt: Callable[[], Result], label: str, position: Callable[[], int] = int) -> Result:
    """`attempt`, repeated after a break, at most ATTEMPTS times in a row that do not get `position` any further."""
    failures = 0
    while True:
        before = position()
        try:
            return attempt()
        except _breaks() as error:
            failures = 1 if position() > before else failures + 1
            if failures == ATTEMPTS or isinstance(error, FileNotFoundError | PermissionError):
                raise
            log.warning("%s broke off at byte %d; trying again: %s", label, position(), shown(_reason(error)))
        threading.Event().wait(FIRST_PAUSE * 2 ** (failures - 1))


# ---- what is said of a source


def shown(text: str) -> str:
    """`text` without what may be a secret in an address: a user's name and password, and a query."""
    text = re.sub(r"(\w://)[^/@\s'\"]+@", r"\1", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]+", r"\1?...", text)


@contextmanager
def named(address: str, by_hand: str = "") -> Iterator[None]:
    """Turns what goes wrong at a source into a UserError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        why = f" ({shown(str(error.__cause__))})" if error.__cause__ else ""
        raise UserError(f"fetch.source: nothing is at '{shown(address)}'{why}; {by_hand or ANYTHING}") from None
    except _breaks() + UNREADABLE as error:
        raise UserError(f"fetch.source: '{shown(address)}' cannot be read: {shown(_reason(error))}") from None


@contextmanager
def _taking(storage: Mapping[str, Any], address: str) -> Iterator[None]:
    """File systems take any option and pass it on to a client, some of them only once they are used."""
    try:
        yield
    except TypeError as error:
        if not storage:
            raise
        raise UserError(f"fetch.storage has an option that '{shown(address)}' does not take: {error}") from None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _breaks() -> tuple[type[Exception], ...]:
    """What a connection may raise; the storage clients in use have errors of their own that are no OSError."""
    names = (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    )
    return (OSError, *(getattr(sys.modules[module], name) for module, name in names if module in sys.modules))


# ---- which files there are


def _listed(filesystem: Any, path: str) -> dict[str, str]:
    """Every file at `path`, a file, folder, Zarr store or glob."""
    if _is_glob(path):
        fixed = path[: min(path.find(mark) for mark in "*?[" if mark in path)]
        root = fixed.rpartition("/")[0]
        found = [file for hit in filesystem.glob(path) for file in _files_below(filesystem, hit)]
    else:
        found = _files_below(filesystem, path)
        alone = found == [path] or any(f"{path}/{name}" in found for name in ZARR_FILES)
        root = _without_query(path).rpartition("/")[0] if alone else path
    return {_without_query(file).removeprefix(root).lstrip("/"): file for file in found}


def _files_below(filesystem: Any, path: str) -> list[str]:
    has_query = path.startswith("http") and "?" in path
    is_store = not has_query and any(filesystem.exists(f"{path}/{name}") for name in ZARR_FILES)
    if not is_store and filesystem.isfile(path):
        return [path]
    return sorted(filesystem.find(path))


def _is_glob(path: str) -> bool:
    """A question mark in a web address starts its query."""
    return any(mark in path for mark in ("*" if path.startswith("http") else "*?["))


def _without_query(path: str) -> str:
    """Nextcloud, which serves WeatherBench 1, tells a file's name in the query: download?files=NAME."""
    if not path.startswith("http"):
        return path
    base, _, query = path.partition("?")
    names = parse_qs(query).get("files")
    return f"{base.rpartition('/')[0]}/{names[0]}" if names else base


def _inside(name: str) -> str:
    if ".." in name.split("/"):
        raise UserError(f"fetch.source: the path '{shown(name)}' leads out of its folder; nothing was copied")
    return name


def _protocol(address: str) -> str:
    return address.partition("://")[0] if "://" in address else "file"


def _sums(settings: Fetch) -> checksums.Sums | None:
    address = settings.checksums
    if not address:
        return None
    storage = settings.storage if _protocol(address) == _protocol(settings.source or "") else {}
    with named(address):
        filesystem, path = connected(address, storage)
        return checksums.Sums.parsed(filesystem.cat_file(path).decode(errors="replace"), shown(address))


# ---- one after another: what is to be copied, and copying it


def _job(source: Source, name: str, work: Path) -> Job:
    file = source.files[name]
    with named(file.label):
        details = file.filesystem.info(file.path)
    expected = checksums.published(details)
    if file.sums:
        expected.append(file.sums.of(_without_query(file.path)))
    version = _version(file, details, expected)
    return Job(file, work / version / name, details.get("size"), expected)


def _version(file: File, details: Mapping[str, Any], expected: Sequence[checksums.Checksum]) -> str:
    """Changes with the file at the source, as far as its file system tells."""
    known = [details.get(key) for key in ("size", "mtime", "LastModified", "Last-Modified", "ETag", "generation")]
    sums = [checksum.value for checksum in expected]
    return hashlib.sha256(repr((file.label, *map(str, known), *sums)).encode()).hexdigest()[:12]


def _units(size: int) -> int:
    return -(-size // UNIT_BYTES)


def _check_space(address: str, jobs: Any, folder: Path) -> None:
    needed = sum(max(0, (job.size or 0) - job.there) for job in jobs)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{address}: the files still need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free here")


def _copy_all(jobs: Sequence[Job]) -> Iterator[None]:
    """Copies the files, some at a time, and yields for each MiB; raises the first error."""
    told: SimpleQueue[int | Future[None]] = SimpleQueue()  # MiB, or the copy of a file that has ended
    stop = threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(_copy_named, job, told.put, stop) for job in jobs]
        for future in futures:
            future.add_done_callback(told.put)
        try:
            for _ in futures:
                while isinstance(news := told.get(), int):
                    yield from itertools.repeat(None, news)
                news.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def _copy_named(job: Job, tell: Callable[[int], None], stop: threading.Event) -> None:
    with named(job.file.label):
        _copy_file(job, tell, stop)


def _copy_file(job: Job, tell: Callable[[int], None], stop: threading.Event) -> None:
    """One file, unless it is there already; what is there of it is continued."""
    if job.target.exists():
        return
    job.part.parent.mkdir(parents=True, exist_ok=True)
    with job.part.open("ab") as output:
        persistently(lambda: _append(job, output, tell, stop), job.file.label, output.tell)
    _check(job)
    job.part.replace(job.target)


def _append(job: Job, output: BinaryIO, tell: Callable[[int], None], stop: threading.Event) -> None:
    with _opened(job, output) as stream:
        while block := stream.read(BLOCK_BYTES):
            if stop.is_set():
                raise _StoppedError
            before = _units(output.tell())
            output.write(block)
            output.flush()
            tell(_units(output.tell()) - before)


@contextmanager
def _opened(job: Job, output: BinaryIO) -> Iterator[Any]:
    """The source from where `output` ends; from its start, and `output` emptied, if it cannot give a part."""
    start = output.tell()
    filesystem = job.file.filesystem
    if "http" in filesystem.protocol:
        with _opened_web(filesystem, job.file.path, start) as stream:
            if start and stream.r.status != 206:
                output.truncate(0)
            yield stream
        return
    with filesystem.open(job.file.path, "rb", block_size=BLOCK_BYTES, cache_type="none") as stream:
        if start:
            stream.seek(start)
        yield stream


def _opened_web(filesystem: Any, path: str, start: int) -> Any:
    """One answer that goes on to the end: not every web server gives parts, and a request for each costs time."""
    from aiohttp import ClientTimeout

    headers = {**filesystem.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = ClientTimeout(total=None, sock_connect=SECONDS_OF_SILENCE, sock_read=SECONDS_OF_SILENCE)
    return filesystem.open(path, "rb", block_size=0, size=1, headers=headers, timeout=timeout)


def _check(job: Job) -> None:
    """Throws a finished copy away that is not what it should be."""
    size = job.part.stat().st_size
    if job.size is not None and size != job.size:
        job.part.unlink()
        raise UserError(f"{job.file.label} came as {size} bytes but has {job.size} at the source; run again")
    for checksum in job.expected:
        found = checksum.of(job.part)
        if found != checksum.value and not (checksum.origin == checksums.STORE and _is_encrypted(job.file)):
            job.part.unlink()
            raise UserError(
                f"{job.file.label} came with {checksum.algorithm} {found}, but {checksum.origin} says "
                f"{checksum.value}; the copy was thrown away. Run again, or ask whoever publishes it"
            )


def _is_encrypted(file: File) -> bool:
    """Whether S3 encrypts the object with a key of its own, so that the ETag is no MD5."""
    if "s3" not in file.filesystem.protocol:
        return False
    bucket, key, _ = file.filesystem.split_path(file.path)
    head = file.filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    return "SSECustomerAlgorithm" in head or str(head.get("ServerSideEncryption")).startswith("aws:kms")
