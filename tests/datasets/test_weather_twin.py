from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.datasets import weather_twin
from pipeline.datasets.weather_twin import Atmosphere, WeatherTwin, check_liveliness, persistence_rmse, write_years
from pipeline.errors import UserError
from pipeline.params import Fetch, Ingest

ROOT = Path(__file__).parents[2]
SEED, DAYS, SPIN_UP = 7, 30, 2
VARIABLES = ("geopotential_500", "temperature_850")
PROGRAM = f"""
from pathlib import Path
from pipeline.datasets.weather_twin import WeatherTwin
from pipeline.params import Fetch, Ingest
twin = WeatherTwin(Fetch(days={DAYS}, spin_up_days={SPIN_UP}), Ingest(variables={VARIABLES}), {SEED})
twin.fetch(Path("raw"))
"""


def twin(days: int = DAYS, spin_up: int = SPIN_UP, seed: int = SEED) -> WeatherTwin:
    return WeatherTwin(Fetch(days=days, spin_up_days=spin_up), Ingest(variables=VARIABLES), seed)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def waves(rmse: float, days: int = 80) -> np.ndarray:
    """A field whose persistence RMSE at 5 days is `rmse`, by a closed form.

    cos(2 pi t / 10 d + phase) turns into its negative in 5 days: the change has twice its amplitude, and the
    root mean square of a cosine over whole periods is its amplitude over sqrt 2.
    """
    t = np.arange(days * 4)[:, None, None] / 40
    phase = np.linspace(0, 1, 6, endpoint=False).reshape(1, 2, 3)
    return (250 + rmse / np.sqrt(2) * np.cos(2 * np.pi * (t + phase))).astype(np.float32)


@pytest.fixture(scope="module")
def atmosphere() -> Atmosphere:
    return Atmosphere()


@pytest.fixture(scope="module")
def undisturbed(atmosphere: Atmosphere, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, tiny run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(weather_twin, "Atmosphere", lambda: atmosphere)  # compiled once for this file
        twin().fetch(Path("raw"))
    return folder / "raw"


@pytest.mark.slow
def test_files_have_weatherbench_names_dimensions_and_units(undisturbed: Path) -> None:
    expected = {"geopotential_500": ("z", 500, "m**2 s**-2"), "temperature_850": ("t", 850, "K")}
    assert sorted(hashes(undisturbed)) == [f"{name}/{name}_2001_5.625deg.nc" for name in expected]
    for name, (key, level, units) in expected.items():
        with xr.open_dataset(undisturbed / name / f"{name}_2001_5.625deg.nc") as file:
            assert list(file.data_vars) == [key]
            assert file[key].dims == ("time", "lat", "lon")
            assert file[key].shape == (DAYS * 4, 32, 64)
            assert file[key].dtype == np.float32
            assert file[key].attrs["units"] == units
            assert file["level"].item() == level
            assert file["level"].dims == ()
            assert np.array_equal(np.diff(file["time"]), np.full(DAYS * 4 - 1, np.timedelta64(6, "h")))
            assert file["time"].values[0] == np.datetime64("2001-01-01T00")


@pytest.mark.slow
def test_latitudes_are_the_gaussian_ones_and_the_files_say_so(undisturbed: Path) -> None:
    nodes, _ = np.polynomial.legendre.leggauss(32)
    with xr.open_dataset(undisturbed / "geopotential_500" / "geopotential_500_2001_5.625deg.nc") as file:
        np.testing.assert_allclose(file["lat"], np.rad2deg(np.arcsin(nodes)), atol=1e-6)
        np.testing.assert_allclose(file["lon"], np.arange(64) * 5.625, atol=1e-6)
        assert "Gaussian" in file.attrs["latitudes"]


@pytest.mark.slow
def test_files_are_marked_as_a_simulation(undisturbed: Path) -> None:
    for file in undisturbed.rglob("*.nc"):
        with xr.open_dataset(file) as dataset:
            assert dataset.attrs["simulated"] == "true"
            assert "dinosaur" in dataset.attrs["source"]
            assert "Held-Suarez" in dataset.attrs["forcing"]
            assert "T21" in dataset.attrs["resolution"]
            assert (dataset.attrs["seed"], dataset.attrs["spin_up_days"]) == (SEED, SPIN_UP)


@pytest.mark.slow
def test_the_record_opens_as_weatherbench_does(undisturbed: Path) -> None:
    record = twin().open(undisturbed)
    assert list(record.data_vars) == ["z500", "t850"]
    assert dict(record.sizes) == {"time": DAYS * 4, "latitude": 32, "longitude": 64}
    assert WeatherTwin.time_stamps == "nominal"


@pytest.mark.slow
def test_the_forcing_makes_the_tropics_warm_and_the_pressure_surfaces_slope(undisturbed: Path) -> None:
    record = twin().open(undisturbed).isel(time=-1).mean("longitude").load()
    for name in ("z500", "t850"):
        assert float(record[name][15:17].mean()) > float(record[name][[0, -1]].mean())
    assert 270 < float(record["t850"].mean()) < 300


@pytest.mark.slow
def test_a_run_killed_and_repeated_resumes_and_ends_in_the_same_bytes(
    atmosphere: Atmosphere, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".work/fetch/*/days-00000.npz")):
        assert run.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (tmp_path / "raw").exists()

    days = []
    advance = atmosphere.advance

    def counted(state: weather_twin.State) -> tuple[weather_twin.State, dict[str, weather_twin.Field]]:
        days.append(state)
        return advance(state)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weather_twin, "Atmosphere", lambda: atmosphere)
    monkeypatch.setattr(atmosphere, "advance", counted)
    twin().fetch(Path("raw"))
    assert len(days) == SPIN_UP + DAYS - weather_twin.CHUNK_DAYS
    assert hashes(tmp_path / "raw") == hashes(undisturbed)
    assert not list(tmp_path.glob(".work/fetch/*/*.npz"))


@pytest.mark.slow
def test_the_resting_start_obeys_the_hypsometric_equation(atmosphere: Atmosphere) -> None:
    _, fields = atmosphere.advance(atmosphere.at_rest(SEED))
    gas_constant, kelvin = 287.0, 288.0  # dry air; isothermal atmosphere under 1000 hPa
    expected = gas_constant * kelvin * np.log(1000 / 500)
    np.testing.assert_allclose(fields["geopotential_500"][0].mean(), expected, rtol=0.02)
    np.testing.assert_allclose(fields["temperature_850"][0].mean(), kelvin, atol=0.5)


@pytest.mark.slow
def test_equal_seeds_give_equal_bits_and_other_seeds_other_weather(atmosphere: Atmosphere) -> None:
    one, same, other = (atmosphere.advance(atmosphere.at_rest(seed)) for seed in (SEED, SEED, SEED + 1))
    for name in VARIABLES:
        assert one[1][name].tobytes() == same[1][name].tobytes()
        assert not np.array_equal(one[1][name], other[1][name])
    for name in Atmosphere.STATE:
        assert one[0][name].tobytes() == same[0][name].tobytes()


def test_years_are_split_and_written_twice_give_the_same_bytes(tmp_path: Path) -> None:
    times = np.datetime64("2001-12-30", "ns") + np.arange(12) * np.timedelta64(6, "h")
    values = np.random.default_rng(0).standard_normal((12, 2, 3)).astype(np.float32)
    dataset = xr.Dataset({"z": (("time", "lat", "lon"), values)}, {"time": times, "lat": [-1.0, 1.0]})
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_years(folder, "geopotential_500", dataset)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    with xr.open_dataset(tmp_path / "one/geopotential_500/geopotential_500_2001_5.625deg.nc") as file:
        assert np.array_equal(file["z"], values[:8])
    with xr.open_dataset(tmp_path / "one/geopotential_500/geopotential_500_2002_5.625deg.nc") as file:
        assert np.array_equal(file["z"], values[8:])


def test_persistence_rmse_equals_the_closed_form_and_a_plain_loop() -> None:
    np.testing.assert_allclose(persistence_rmse(waves(900, days=85)), 2 * 900 / 2, rtol=1e-4)
    noise = np.random.default_rng(1).standard_normal((30, 2, 3)).astype(np.float32)
    squares = [
        (float(noise[t + 20, y, x]) - float(noise[t, y, x])) ** 2 for t in range(10) for y in (0, 1) for x in range(3)
    ]
    np.testing.assert_allclose(persistence_rmse(noise), (sum(squares) / len(squares)) ** 0.5, rtol=1e-6)


@pytest.mark.parametrize("rmse", [780.0, 907.0, 1030.0])
def test_a_lively_record_passes(rmse: float) -> None:
    check_liveliness({"geopotential_500": waves(rmse), "temperature_850": waves(4.4)})


@pytest.mark.parametrize("rmse", [0.0, 907 / 50, 760.0, 1060.0])
def test_a_dead_or_wild_record_is_refused_with_the_measured_and_the_allowed_values(rmse: float) -> None:
    with pytest.raises(UserError, match=rf"geopotential_500.* {rmse:.4g} m.*770.9 to 1043 is allowed"):
        check_liveliness({"geopotential_500": waves(rmse), "temperature_850": waves(4.4)})


def test_each_variable_is_judged() -> None:
    with pytest.raises(UserError, match="temperature_850"):
        check_liveliness({"geopotential_500": waves(907), "temperature_850": waves(0.1)})


def test_a_record_with_nan_is_refused() -> None:
    field = waves(907)
    field[3, 1, 1] = np.nan
    with pytest.raises(UserError, match="nan"):
        check_liveliness({"geopotential_500": field, "temperature_850": waves(4.4)})


def test_a_short_record_is_measured_and_logged_but_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_liveliness({"geopotential_500": waves(10, days=59), "temperature_850": waves(4.4, days=59)})
    assert "RMSE of 10 m**2 s**-2" in caplog.text
    assert "not enforced on a record of fewer than 60 days" in caplog.text


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weather_twin, "version", absent)
    with pytest.raises(UserError, match=r"'dinosaur'.*pip install s2kd\[twin\]"):
        twin().fetch(tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
