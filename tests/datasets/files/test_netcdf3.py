"""The length of a classic NetCDF file as its header promises it, against files the NetCDF library wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from pipeline.datasets.files.netcdf3 import check_netcdf3_is_whole
from pipeline.errors import UserError

KINDS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
LAYOUTS: tuple[dict[str, tuple[str, tuple[str, ...]]], ...] = (
    {"a": ("f4", ("time", "x"))},  # a lone record variable: not padded
    {"a": ("i2", ("time", "x"))},
    {"a": ("i2", ("time", "x")), "b": ("f8", ("time",)), "c": ("i1", ("time", "x"))},  # records padded to four bytes
    {"a": ("f4", ("x",)), "b": ("i2", ("x",))},
    {"a": ("f8", ()), "b": ("f4", ("time", "x"))},
)


def write(path: Path, kind: Any, layout: dict[str, tuple[str, tuple[str, ...]]], unlimited: bool) -> None:
    with netCDF4.Dataset(path, "w", format=kind) as file:
        file.createDimension("time", None if unlimited else 7)
        file.createDimension("x", 5)
        file.title = "odd"
        for name, (dtype, dims) in layout.items():
            variable = file.createVariable(name, dtype, dims)
            variable.units = "K"
            variable.levels = np.array([1, 2, 3], dtype="i2")
            shape = tuple({"time": 7, "x": 5}[dim] for dim in dims)
            variable[...] = np.ones(shape, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unlimited", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_file_passes_and_every_cut_into_its_values_is_told(
    tmp_path: Path, kind: str, unlimited: bool, layout: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    path = tmp_path / "a.nc"
    write(path, kind, layout, unlimited)
    check_netcdf3_is_whole(path)
    content = path.read_bytes()
    for missing in (4, 16, len(content) // 2, len(content) - 40, len(content) - 5):  # up to 3 bytes are padding
        path.write_bytes(content[:-missing])
        with pytest.raises(UserError, match=r"a\.nc is cut short"):
            check_netcdf3_is_whole(path)
