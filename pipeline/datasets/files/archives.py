"""The files inside zip archives as files of a source, so that the chosen ones are copied and no others.

An archive is read where it lies if its file system can give any part of it. It is copied first where that is not
so, where it lies in an archive itself, or where a published sum of it is to be checked. Every member is checked
against its size and CRC-32 as it is copied; before that, whatever would leave the folder or outgrow it is refused.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import fsspec
from fsspec.implementations.zip import ZipFileSystem

from pipeline import transfer
from pipeline.errors import UserError
from pipeline.work import Work

Selection = Callable[[transfer.Source], transfer.Source]

SUFFIX = ".zip"
DEEPEST = 1  # archives in archives
MOST_GROWTH = 100  # times; fields of zeros and noughts alone compress more
FREE_GROWTH_BYTES = 2**20  # whatever the ratio
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@contextmanager
def opened(source: transfer.Source, needed: Selection, depth: int = 0) -> Iterator[transfer.Source]:
    """`source` with the files in its archives, named ARCHIVE/MEMBER, in the place of the archives.

    `needed` says which archives of a source are opened; the others are left out, and so on for archives in
    archives. The files can be copied until the context ends. Raises UserError for an archive that is cut short or
    not to be trusted.
    """
    archives = needed(source)
    plain = source.renamed(lambda name: None if name.endswith(SUFFIX) else name)
    if not archives.files:
        yield plain
        return
    if depth > DEEPEST:
        raise UserError(f"{source.address} has archives in archives in archives; unpack them by hand")
    settings = {"archives": sorted(archives.files), "source": source.address}
    with Work("fetch", params=settings, code=[__name__]) as work, ExitStack() as stack:
        members: dict[str, transfer.File] = {}
        for name, file in sorted(_readable(archives, work).items()):
            members |= _members(name, file, stack)
        inside = replace(source, files=members)
        unpacked = stack.enter_context(opened(inside, needed, depth + 1))
        yield replace(plain, files={**unpacked.files, **plain.files})


def _readable(archives: transfer.Source, work: Work) -> dict[str, transfer.File]:
    """The archives where they lie, or where that will not do, copied to the side folder."""
    far = {name: file for name, file in archives.files.items() if file.sums or not _can_seek(file)}
    if far and not work.has("archives"):
        with work.part("archives") as folder:
            transfer.copy(replace(archives, files=far), folder)
    local = fsspec.filesystem("file")
    copied = {name: transfer.File(local, str(work.path("archives") / name), file.label) for name, file in far.items()}
    return {**archives.files, **copied}


def _can_seek(file: transfer.File) -> bool:
    """Whether the end, where an archive's contents are listed, can be read without the rest."""
    if isinstance(file.filesystem, ZipFileSystem):  # it seeks by reading from the start
        return False
    with transfer.named(file.label), _stream(file) as stream:
        try:
            stream.seek(-1, 2)
            return len(stream.read(1)) == 1
        except (ValueError, OSError):  # a web server that gives no ranges, or an empty file
            return False


def _stream(file: transfer.File) -> Any:
    return file.filesystem.open(file.path, "rb", block_size=transfer.BLOCK_BYTES, cache_type="none")


def _members(name: str, file: transfer.File, stack: ExitStack) -> dict[str, transfer.File]:
    """The files of one archive, by `name`/MEMBER."""
    with transfer.named(file.label):
        stream = stack.enter_context(_stream(file))
        try:
            archive = ZipFileSystem(stream)
        except zipfile.BadZipFile as error:
            raise UserError(f"{file.label} is no whole zip archive; it is cut short or damaged: {error}") from None
    stack.callback(archive.close)
    for entry in archive.zip.infolist():
        _check(entry, file.label)
    # `find` also fills the list that threads share later
    return {f"{name}/{path}": transfer.File(archive, path, f"{file.label}/{path}") for path in archive.find("")}


def _check(entry: zipfile.ZipInfo, archive: str) -> None:
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    faults = {
        "leads out of its folder": name.startswith("/") or "\\" in name or ".." in name.split("/"),
        "has a drive letter": re.match(r"[A-Za-z]:", name) is not None,
        "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted": bool(entry.flag_bits & 1),
        f"is packed by method {entry.compress_type}, which is not known": entry.compress_type not in METHODS,
        f"claims to unpack from {entry.compress_size} to {entry.file_size} bytes": (
            entry.file_size > MOST_GROWTH * entry.compress_size + FREE_GROWTH_BYTES
        ),
    }
    for fault in (fault for fault, found in faults.items() if found):
        raise UserError(f"{archive}: the entry '{name}' {fault}; nothing was unpacked")
