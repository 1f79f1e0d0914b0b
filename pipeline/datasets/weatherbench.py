"""WeatherBench 1 (Rasp et al. 2020, J. Adv. Model. Earth Syst. 12): `{name}/{name}_{year}_5.625deg.nc`.

A variable is named by its folder, with the level in hPa for one level of the three-dimensional ones:
`geopotential_500` is the folder of that name, or that level of the folder `geopotential`. Its name in the store
is the short one, `z500`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import DataSource, combine, field, join, open_file
from pipeline.datasets.files import archives
from pipeline.errors import UserError

VARIABLES = {  # folder, without a level -> name in the file, CF standard name
    "geopotential": ("z", "geopotential"),
    "temperature": ("t", "air_temperature"),
    "specific_humidity": ("q", "specific_humidity"),
    "relative_humidity": ("r", "relative_humidity"),
    "u_component_of_wind": ("u", "eastward_wind"),
    "v_component_of_wind": ("v", "northward_wind"),
    "vorticity": ("vo", "atmosphere_relative_vorticity"),
    "potential_vorticity": ("pv", "ertel_potential_vorticity"),
    "2m_temperature": ("t2m", "air_temperature"),
    "10m_u_component_of_wind": ("u10", "eastward_wind"),
    "10m_v_component_of_wind": ("v10", "northward_wind"),
    "toa_incident_solar_radiation": ("tisr", ""),
    "total_cloud_cover": ("tcc", "cloud_area_fraction"),
    "total_precipitation": ("tp", "lwe_thickness_of_precipitation_amount"),
}


YEAR = re.compile(r"(.+)_(\d{4})(?:_.*)?\.nc")
BY_HAND = (
    "WeatherBench 1 is downloaded by hand: get VARIABLE_5.625deg.zip of each variable, or all_5.625deg.zip, from "
    "https://dataserv.ub.tum.de/index.php/s/m1524895 (mediaTUM 1524895), put them into raw/weatherbench as they are "
    "or unpacked, and set fetch.source to raw/weatherbench"
)


class WeatherBench(DataSource):
    """WeatherBench 1's files, or others in its layout: a folder for each variable, zip archives, or both."""

    description: ClassVar[str] = "Weather on the globe: ERA5 reanalysis regridded by WeatherBench."

    def fetch(self, folder: Path) -> None:
        """Copies the chosen variables' files, of fetch.years alone where those are given, also out of zip archives."""
        found = transfer.Source.of(self.settings, BY_HAND)
        with archives.opened(found, self._needed_archives) as unpacked:
            source = unpacked.renamed(_layout)
            present = _folders(source.files)
            chosen = {_folder_of(name, present, source.address) for name in self.ingest.variables}
            source = source.renamed(lambda name: name if name.split("/")[0] in chosen else None)
            transfer.copy(_of_years(source, self.settings.years), folder)

    def _needed_archives(self, source: transfer.Source) -> transfer.Source:
        """Of each variable that has no files yet, its own archive, or else those that may hold many variables."""
        present = _folders(source.renamed(_layout).files)
        by_variable: dict[str | None, set[str]] = {}
        for name in source.files:
            if name.endswith(archives.SUFFIX):
                by_variable.setdefault(_variable_of(name), set()).add(name)
        needed: set[str] = set()
        for candidates in ((name, _stem(name)[0]) for name in self.ingest.variables):
            if not set(candidates) & set(present):
                own = next((by_variable[name] for name in candidates if name in by_variable), None)
                needed |= own or by_variable.get(None, set())
        return source.renamed(lambda name: name if name in needed else None)

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen variables under their short names; raises UserError, naming folder, file or variable."""
        return combine([self._open_variable(folder, name) for name in self.ingest.variables])

    def _open_variable(self, folder: Path, name: str) -> xr.DataArray:
        present = sorted({file.parent.name for file in folder.glob("*/*.nc")})
        files = sorted((folder / _folder_of(name, present, str(folder))).glob("*.nc"))
        key, level = _parsed(name)
        data = join(short_name(name), {file.name: self._open_piece(file, key, level) for file in files})
        long_name = words_of(name) if level is None else f"{words_of(name)} at {level} hPa"
        return data.assign_attrs(long_name=long_name, standard_name=VARIABLES[_stem(name)[0]][1])

    def _open_piece(self, file: Path, key: str, level: int | None) -> xr.DataArray:
        dataset = open_file(file)
        if key not in dataset:
            raise UserError(f"{file} has no variable '{key}'; it holds {', '.join(map(str, dataset.data_vars))}")
        data = dataset[key]
        if level is not None and "level" in data.coords:
            levels = np.atleast_1d(data["level"].values)
            if level not in levels:
                raise UserError(f"{file} has no level {level} hPa; it holds {', '.join(f'{v:g}' for v in levels)}")
            data = data.sel(level=level) if "level" in data.dims else data
        return field(data, self.ingest.dimensions, file)


def _layout(name: str) -> str | None:
    """`anything/geopotential_500/file.nc` -> `geopotential_500/file.nc`; None for what is no such file.

    The archives' members lie in no folder: `geopotential_500_1979_5.625deg.nc` tells its own.
    """
    parts = name.split("/")
    if not name.endswith(".nc"):
        return None
    by_name = YEAR.fullmatch(parts[-1])
    if by_name and not _is_variable(parts[-2:-1]) and _is_variable([by_name[1]]):
        return f"{by_name[1]}/{parts[-1]}"
    return "/".join(parts[-2:]) if len(parts) > 1 else None


def _is_variable(names: list[str]) -> bool:
    return any(_stem(name)[0] in VARIABLES for name in names)


def _variable_of(archive: str) -> str | None:
    """The variable that an archive's name speaks of, `geopotential_500_5.625deg.zip`; None for any other name."""
    name = re.sub(r"(_[\d.]+deg)?\.zip$", "", archive.rpartition("/")[2])
    return name if _is_variable([name]) else None


def _folders(files: Iterable[str]) -> list[str]:
    return sorted({name.split("/")[0] for name in files})


def _of_years(source: transfer.Source, years: tuple[int, int] | None) -> transfer.Source:
    """The files whose names bear one of the years; raises UserError if a year is missing."""
    if years is None:
        return source
    wanted = set(range(years[0], years[1] + 1))
    chosen = {name: _year_of(name, source.files[name].label) for name in source.files}
    for folder in _folders(source.files):
        there = {year for name, year in chosen.items() if name.startswith(f"{folder}/")}
        if wanted - there:
            raise UserError(
                f"fetch.years: {source.address} has no file of '{folder}' for {spans(wanted - there)}; "
                f"it holds {spans(there)}"
            )
    return source.renamed(lambda name: name if chosen[name] in wanted else None)


def _year_of(name: str, label: str) -> int:
    match = YEAR.fullmatch(name.rpartition("/")[2])
    if not match:
        raise UserError(f"fetch.years: {label} has no year in its name; NAME_YEAR_RESOLUTION.nc is expected")
    return int(match[2])


def spans(years: set[int]) -> str:
    """`1979-1983, 1985`"""
    ordered = sorted(years)
    starts = [year for year in ordered if year - 1 not in years]
    ends = [year for year in ordered if year + 1 not in years]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in pairs)


def short_name(name: str) -> str:
    """`geopotential_500` -> `z500`, `2m_temperature` -> `t2m`."""
    key, level = _parsed(name)
    return key if level is None else f"{key}{level}"


def words_of(name: str) -> str:
    """`u_component_of_wind_500` -> `u component of wind`."""
    return _stem(name)[0].replace("_", " ")


def _parsed(name: str) -> tuple[str, int | None]:
    stem, level = _stem(name)
    if stem not in VARIABLES:
        known = ", ".join(VARIABLES)
        raise UserError(
            f"ingest.variables: '{name}' is not a WeatherBench variable; known, with or without _LEVEL: {known}"
        )
    return VARIABLES[stem][0], level


def _stem(name: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, None)


def _folder_of(name: str, present: list[str], source: str) -> str:
    """The folder that holds a variable: its own, or the three-dimensional one."""
    _parsed(name)
    for candidate in (name, _stem(name)[0]):
        if candidate in present:
            return candidate
    raise UserError(f"{source} has no folder '{name}' with .nc files; it holds {', '.join(present) or 'none at all'}")
