"""WeatherBench 1 (Rasp et al. 2020, J. Adv. Model. Earth Syst. 12): `{name}/{name}_{year}_5.625deg.nc`.

A variable is named by its folder, with the level in hPa for one level of the three-dimensional ones:
`geopotential_500` is the folder of that name, or that level of the folder `geopotential`. Its name in the store
is the short one, `z500`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import DataSource, combine, field, join, open_file
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


class WeatherBench(DataSource):
    """WeatherBench 1's files, or others in its layout. `fetch.source` is the folder that holds the variables'."""

    description: ClassVar[str] = "Weather on the globe: ERA5 reanalysis regridded by WeatherBench."

    def fetch(self, folder: Path) -> None:
        """Copies the files of the chosen variables; a glob as fetch.source selects among them."""
        source = transfer.Source.of(self.settings.source).renamed(_layout)
        present = sorted({name.split("/")[0] for name in source.files})
        chosen = {_folder_of(name, present, source.address) for name in self.ingest.variables}
        transfer.copy(source.renamed(lambda name: name if name.split("/")[0] in chosen else None), folder)

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
    """`anything/geopotential_500/file.nc` -> `geopotential_500/file.nc`; None for what is no such file."""
    parts = name.split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 and name.endswith(".nc") else None


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
