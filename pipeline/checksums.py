"""What a file's bytes should be: sums that are published beside it, and those its store keeps.

A list of sums is read as `sha256sum`, `sha512sum` or `md5sum` write it (or `--tag` does). Object stores tell an MD5
of their own: Google Cloud Storage as `md5Hash`, S3 as `ETag`, unless the object came in parts or is encrypted there.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

ALGORITHMS = {32: "md5", 64: "sha256", 128: "sha512"}  # by hexadecimal digits
LINE = re.compile(r"\\?([0-9a-fA-F]+) [ *](.+)")
TAGGED_LINE = re.compile(r"\w+ \((.+)\) = ([0-9a-fA-F]+)")
PLAIN_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?')  # an ETag of parts ends in their number
READ_BYTES = 2**20
STORE = "its object store"  # as an origin


@dataclass(frozen=True)
class Checksum:
    algorithm: str  # of hashlib, or crc32
    value: str  # lower-case hexadecimal
    origin: str  # who says so

    def of(self, path: Path) -> str:
        """This checksum as the file at `path` has it."""
        with path.open("rb") as stream:
            if self.algorithm != "crc32":
                return hashlib.file_digest(stream, self.algorithm).hexdigest()
            value = 0
            while block := stream.read(READ_BYTES):
                value = zlib.crc32(block, value)
            return f"{value:08x}"


@dataclass(frozen=True)
class Sums:
    """A list of sums: the path in each line -> its checksum."""

    address: str
    entries: Mapping[str, Checksum]

    @classmethod
    def parsed(cls, text: str, address: str) -> Sums:
        """Raises UserError for a line that is no sum, and for a list of none."""
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
        pairs = [_entry(line, number, address) for number, line in lines if line and not line.startswith("#")]
        if not pairs:
            raise UserError(f"fetch.checksums: {address} lists no sums; lines of sha256sum, sha512sum or md5sum do")
        return cls(address, dict(pairs))

    def of(self, path: str) -> Checksum:
        """The sum of the file whose path ends most like `path`; raises UserError if there is none, or several."""
        agreed = {entry: _common_parts(entry, path) for entry in self.entries}
        best = max(agreed.values())
        found = {self.entries[entry] for entry, parts in agreed.items() if parts == best}
        if best == 0 or len(found) > 1:
            number = "no sum" if best == 0 else f"{len(found)} different sums"
            raise UserError(f"fetch.checksums: {self.address} lists {number} of {path}; every file needs one")
        return found.pop()


def published(details: Mapping[str, Any]) -> list[Checksum]:
    """What a file system says of a file's content, by the `details` that fsspec gives of it."""
    found = []
    if isinstance(details.get("md5Hash"), str):
        value = base64.b64decode(details["md5Hash"]).hex()
        found.append(Checksum("md5", value, STORE))
    elif "StorageClass" in details and (plain := PLAIN_MD5.fullmatch(str(details.get("ETag")))):
        found.append(Checksum("md5", plain[1].lower(), STORE))
    if isinstance(details.get("CRC"), int):
        found.append(Checksum("crc32", f"{details['CRC']:08x}", "its archive"))
    return found


def _entry(line: str, number: int, address: str) -> tuple[str, Checksum]:
    tagged, plain = TAGGED_LINE.fullmatch(line), LINE.fullmatch(line)
    name, value = (tagged[1], tagged[2]) if tagged else (plain[2], plain[1]) if plain else ("", "")
    if len(value) not in ALGORITHMS:
        raise UserError(
            f"fetch.checksums: line {number} of {address} is no sum: '{line[:80]}'; expected is a line of sha256sum, "
            "sha512sum or md5sum, such as 'SUM  NAME'"
        )
    return name.removeprefix("./"), Checksum(ALGORITHMS[len(value)], value.lower(), address)


def _common_parts(first: str, second: str) -> int:
    """How many parts of two paths are equal, from the end."""
    count = 0
    for mine, other in zip(reversed(first.split("/")), reversed(second.split("/")), strict=False):
        if mine != other:
            break
        count += 1
    return count
