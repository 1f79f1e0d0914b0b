"""The WeatherBench reader: layout, names, levels, and what it says about files that do not fit."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import file_at
from pipeline.datasets.weatherbench import WeatherBench, short_name
from pipeline.errors import UserError
from pipeline.ingest import checked
from tests import remote
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


# ---- archives and years


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `served/bucket` with an archive for each variable, as WeatherBench 1 is downloaded, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    write_weatherbench(tmp_path / "files", days=20, start="2001-12-20")
    folder = tmp_path / "served" / remote.BUCKET
    folder.mkdir(parents=True)
    for variable in ("geopotential_500", "temperature_850"):
        with zipfile.ZipFile(folder / f"{variable}_5.625deg.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((tmp_path / "files" / variable).iterdir()):
                archive.write(file, file.name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(folder: Path, variables: tuple[str, ...] = ("geopotential_500", "temperature_850"), **fetch: Any) -> Path:
    folder.mkdir()
    reader(fetch=fetch, ingest={"variables": list(variables)}).fetch(folder)
    return folder


def test_the_files_come_out_of_the_variables_archives(packed: Path, tmp_path: Path) -> None:
    assert contents(fetched(tmp_path / "out", source=str(packed))) == contents(tmp_path / "files")
    assert list(reader().open(tmp_path / "out").data_vars) == ["z500", "t850"]
    one = fetched(tmp_path / "one", ("temperature_850",), source=str(packed))
    assert {name.split("/")[0] for name in contents(one)} == {"temperature_850"}


def test_an_archive_of_all_variables_may_hold_folders_or_archives(packed: Path, tmp_path: Path) -> None:
    nested, flat = tmp_path / "all_5.625deg.zip", tmp_path / "flat.zip"
    with zipfile.ZipFile(nested, "w") as archive:
        for file in packed.iterdir():
            archive.write(file, f"5.625deg/{file.name}")
        archive.writestr("5.625deg/vorticity_5.625deg.zip", b"is not opened")
    with zipfile.ZipFile(flat, "w") as archive:
        for name in contents(tmp_path / "files"):
            archive.write(tmp_path / "files" / name, name)
    for source in (nested, flat):
        assert contents(fetched(tmp_path / source.stem, source=str(source))) == contents(tmp_path / "files")


def test_an_archive_is_not_opened_for_what_lies_there_unpacked(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "files" / "geopotential_500").rename(packed / "geopotential_500")
    (packed / "geopotential_500_5.625deg.zip").write_bytes(b"broken")
    (packed / "all_5.625deg.zip").write_bytes(b"broken")
    assert len(contents(fetched(tmp_path / "out", source=str(packed)))) == 4


@pytest.mark.parametrize("ranges", [True, False])
def test_of_an_archive_on_the_web_only_the_chosen_members_are_read(
    ranges: bool, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 10_000)
    everything = packed / "download"
    with zipfile.ZipFile(everything, "w") as archive:
        archive.writestr("vorticity/vorticity_2001_5.625deg.nc", bytes(20_000_000))
        for name in contents(tmp_path / "files"):
            archive.write(tmp_path / "files" / name, name)
    with remote.web(packed, ranges=ranges) as web:
        out = fetched(tmp_path / "out", ("temperature_850",), source=f"{web.address}/download?path=%2F&files=all.zip")
        assert contents(out).keys() == {f"temperature_850/temperature_850_{year}_5.625deg.nc" for year in (2001, 2002)}
        assert (web.bytes_sent < 10_000_000) == ranges


def test_a_published_sum_is_that_of_the_archive(packed: Path, tmp_path: Path) -> None:
    sums = tmp_path / "checksums.sha512"
    lines = {
        file: f"{hashlib.sha512(file.read_bytes()).hexdigest()}  ./5.625deg/x/{file.name}" for file in packed.iterdir()
    }
    sums.write_text("\n".join(lines.values()))
    out = fetched(tmp_path / "out", source=str(packed), checksums=str(sums))
    assert contents(out) == contents(tmp_path / "files")
    archive = packed / "geopotential_500_5.625deg.zip"
    archive.write_bytes(archive.read_bytes() + b"?")
    with pytest.raises(UserError, match=r"geopotential_500_5\.625deg\.zip came with sha512 .*sha512 says"):
        fetched(tmp_path / "again", source=str(packed), checksums=str(sums))


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_archives_are_read_where_a_store_keeps_them(kind: str, packed: Path, tmp_path: Path) -> None:
    serving = remote.s3(packed.parent) if kind == "s3" else remote.gcs(packed)
    with serving as (address, storage):
        out = fetched(tmp_path / "out", source=address, storage=storage)
    assert contents(out) == contents(tmp_path / "files")
    assert not list((tmp_path / ".work").rglob("*.zip"))


def test_a_year_is_chosen_by_the_files_names(packed: Path, tmp_path: Path) -> None:
    for source in (packed, tmp_path / "files"):
        out = fetched(tmp_path / f"out-{source.name}", source=str(source), years=[2002, 2002])
        assert sorted(contents(out)) == [
            f"{name}/{name}_2002_5.625deg.nc" for name in ("geopotential_500", "temperature_850")
        ]
    with pytest.raises(UserError, match=r"no file of 'geopotential_500' for 1999-2000, 2003; it holds 2001-2002"):
        fetched(tmp_path / "no", source=str(packed), years=[1999, 2003])


def test_a_level_of_four_digits_is_no_year(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "files" / "geopotential_1000").mkdir()
    (tmp_path / "files" / "geopotential_1000" / "geopotential_1000_2001_5.625deg.nc").write_bytes(b"z")
    out = fetched(tmp_path / "out", ("geopotential_1000",), source=str(tmp_path / "files"), years=[2001, 2001])
    assert list(contents(out)) == ["geopotential_1000/geopotential_1000_2001_5.625deg.nc"]


def test_a_file_without_a_year_in_its_name_is_named(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "files" / "temperature_850" / "more.nc").write_bytes(b"")
    with pytest.raises(UserError, match=r"fetch\.years: \S+/more\.nc has no year in its name"):
        fetched(tmp_path / "out", source=str(tmp_path / "files"), years=[2001, 2001])


@pytest.mark.parametrize("source", [None, "raw/weatherbench"])
def test_what_to_download_by_hand_is_told(source: str | None, tmp_path: Path, packed: Path) -> None:
    message = r"get VARIABLE_5\.625deg\.zip .* from https://dataserv\.ub\.tum\.de\S+ .* put them into raw/weatherbench"
    with pytest.raises(UserError, match=message):
        fetched(tmp_path / "out", source=source)
