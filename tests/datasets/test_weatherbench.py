"""The WeatherBench reader: layout, names, levels, and what it says about files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.datasets.base import file_at
from pipeline.datasets.weatherbench import WeatherBench, short_name
from pipeline.errors import UserError
from pipeline.ingest import checked
from tests.helpers import tiny_params, write_weatherbench


def reader(**overrides: Any) -> WeatherBench:
    params = tiny_params(**overrides)
    return WeatherBench(params.fetch, params.ingest, params.seed)


def rewrite(path: Path, change: Any) -> None:
    with xr.open_dataset(path) as data:
        changed = change(data.load())
    path.unlink()
    changed.to_netcdf(path)


@pytest.fixture
def two_years(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path / "raw"
    return folder, write_weatherbench(folder, days=20, start="2001-12-20")


def test_years_are_joined_under_short_names(two_years: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, written = two_years
    data = reader().open(folder)
    assert list(data.data_vars) == ["z500", "t850"]
    np.testing.assert_array_equal(data["z500"].values, written["geopotential_500"])
    np.testing.assert_array_equal(data["t850"].values, written["temperature_850"])
    assert data["z500"].attrs["long_name"] == "geopotential at 500 hPa"
    assert data["z500"].attrs["standard_name"] == "geopotential"
    assert data["z500"].attrs["units"] == "m**2 s**-2"
    assert data["z500"].chunks is not None
    assert file_at(data["z500"], 47) == "geopotential_500_2001_5.625deg.nc"
    assert file_at(data["z500"], 48) == "geopotential_500_2002_5.625deg.nc"


def test_a_level_is_taken_from_the_three_dimensional_folder(tmp_path: Path) -> None:
    values = write_weatherbench(tmp_path, days=5)["temperature_850"]
    (tmp_path / "temperature_850").rename(tmp_path / "temperature")
    file = next((tmp_path / "temperature").glob("*.nc"))

    def stack(data: xr.Dataset) -> xr.Dataset:
        return xr.concat([data - 10, data, data + 10], dim=xr.Variable("level", [700, 850, 925]))

    rewrite(file, stack)
    np.testing.assert_array_equal(reader().open(tmp_path)["t850"].values, values)
    rewrite(file, lambda data: data.sel(level=[700, 925]))
    with pytest.raises(UserError, match=r"5\.625deg\.nc has no level 850 hPa; it holds 700, 925"):
        reader().open(tmp_path)


def test_fetch_copies_the_chosen_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weatherbench(tmp_path / "raw" / "5.625deg", days=5)
    source = reader(fetch={"source": str(tmp_path / "raw" / "5.625deg")}, ingest={"variables": ["temperature_850"]})
    source.fetch(tmp_path / "out")
    files = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == ["temperature_850/temperature_850_2001_5.625deg.nc"]
    assert list(source.open(tmp_path / "out").data_vars) == ["t850"]


def test_fetch_takes_a_glob_to_select_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weatherbench(tmp_path / "raw", days=20, start="2001-12-20")
    reader(fetch={"source": f"{tmp_path}/raw/*/*_2002_*.nc"}).fetch(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*/*_2002_*.nc"))) == 2
    assert not list((tmp_path / "out").glob("*/*_2001_*.nc"))


def test_short_names_are_those_of_the_files() -> None:
    assert [short_name(name) for name in ("geopotential_500", "2m_temperature", "u_component_of_wind_850")] == [
        "z500",
        "t2m",
        "u850",
    ]


def test_an_unknown_variable_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'snow' is not a WeatherBench variable; known.*geopotential, temperature"):
        reader(ingest={"variables": ["snow"]}).open(tmp_path)


def test_an_absent_folder_lists_those_that_are_there(tmp_path: Path) -> None:
    write_weatherbench(tmp_path, days=5)
    with pytest.raises(UserError, match=r"no folder 'geopotential_700'.*holds geopotential_500, temperature_850"):
        reader(ingest={"variables": ["geopotential_700"]}).open(tmp_path)


def test_a_file_without_the_variable_lists_what_it_holds(two_years: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = two_years
    rewrite(folder / "geopotential_500" / "geopotential_500_2002_5.625deg.nc", lambda data: data.rename(z="height"))
    with pytest.raises(UserError, match=r"500_2002_5\.625deg\.nc has no variable 'z'; it holds height"):
        reader().open(folder)


def test_a_changed_grid_names_both_files(two_years: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = two_years
    file = folder / "temperature_850" / "temperature_850_2002_5.625deg.nc"
    rewrite(file, lambda data: data.isel(lon=slice(1, None)))
    message = r"850_2002_\S+ has another grid than t850 in temperature_850_2001_\S+: longitude of 15 values"
    with pytest.raises(UserError, match=message):
        reader().open(folder)


def test_variables_of_different_times_are_refused(two_years: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = two_years
    (folder / "temperature_850" / "temperature_850_2002_5.625deg.nc").unlink()
    with pytest.raises(UserError, match=r"z500 and t850 differ in their time stamps: 80 from .* and 48 from"):
        reader().open(folder)


def test_files_that_overlap_in_time_are_named(two_years: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = two_years
    for name in ("geopotential_500", "temperature_850"):
        file = folder / name / f"{name}_2002_5.625deg.nc"
        rewrite(file, lambda data: data.assign_coords(time=data["time"] - np.timedelta64(6, "h")))
    with pytest.raises(UserError, match=r"2001-12-31T18:00:00 is repeated at frame 48 \(file geopotential_500_2002"):
        checked(reader().open(folder))
