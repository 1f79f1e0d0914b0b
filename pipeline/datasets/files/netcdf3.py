"""Tells a classic NetCDF file that was cut short, which the NetCDF library reads as zeros without a word.

The layout is that of the classic format's specification (https://docs.unidata.ucar.edu/netcdf-c, "File Format
Specifications"): CDF-1, CDF-2 with 64-bit offsets, CDF-5 with 64-bit sizes.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import UserError

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def check_netcdf3_is_whole(path: Path) -> None:
    """Raises UserError if `path`, a classic NetCDF file, is shorter than its header says."""
    with path.open("rb") as stream:
        try:
            needed = _Header(stream).bytes_needed()
        except (struct.error, KeyError, IndexError):
            raise UserError(f"{path} is cut short or damaged: its NetCDF header is not whole") from None
    size = path.stat().st_size
    if size < needed:
        raise UserError(f"{path} is cut short: it has {size} bytes, its NetCDF header promises {needed}")


class _Header:
    """Reads the header in order; every count, name and value is padded to four bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        version = stream.read(4)[3]
        self.size_format = ">q" if version == 5 else ">i"
        self.offset_format = ">i" if version == 1 else ">q"

    def bytes_needed(self) -> int:
        records = self._number(self.size_format)
        lengths = [self._dimension() for _ in range(self._list())]
        self._attributes()
        fixed_end = 0
        record_parts: list[tuple[int, int]] = []  # begin and bytes of one record of each record variable
        for _ in range(self._list()):
            shape, begin, item = self._variable(lengths)
            if 0 in shape[:1]:  # length 0 marks the record dimension
                record_parts.append((begin, math.prod(shape[1:]) * item))
            else:
                fixed_end = max(fixed_end, begin + math.prod(shape) * item)
        return max(fixed_end, _records_end(records, record_parts))

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.stream.read(struct.calcsize(layout)))[0])

    def _list(self) -> int:
        self._number(">i")  # tag
        return self._number(self.size_format)

    def _name(self) -> None:
        self._skip(self._number(self.size_format))

    def _skip(self, size: int) -> None:
        self.stream.seek(size + -size % 4, 1)

    def _dimension(self) -> int:
        self._name()
        return self._number(self.size_format)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._name()
            kind = self._number(">i")
            self._skip(self._number(self.size_format) * TYPE_BYTES[kind])

    def _variable(self, lengths: list[int]) -> tuple[list[int], int, int]:
        self._name()
        shape = [lengths[self._number(self.size_format)] for _ in range(self._number(self.size_format))]
        self._attributes()
        item = TYPE_BYTES[self._number(">i")]
        self._number(self.size_format)  # vsize: redundant, and wrong for large variables
        return shape, self._number(self.offset_format), item


def _records_end(records: int, parts: list[tuple[int, int]]) -> int:
    if not parts or records <= 0:  # -1: a stream, its length is not known
        return 0
    if len(parts) == 1:  # a lone record variable is not padded
        begin, size = parts[0]
        return begin + records * size
    record = sum(size + -size % 4 for _, size in parts)
    return max(begin + (records - 1) * record + size for begin, size in parts)
