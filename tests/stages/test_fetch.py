from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline import paths
from pipeline.datasets import DATASETS, weather_twin
from pipeline.errors import UserError
from pipeline.registry import Registry
from stages import fetch
from tests.helpers import tiny_params

SOURCE = """
from pathlib import Path
from pipeline.datasets.base import DataSource
from pipeline.errors import UserError

class Mine(DataSource):
    def fetch(self, folder):
        (folder / "half.txt").write_text(f"seed {self.seed}")
        if self.settings.source == "broken":
            raise UserError("the source broke off")
        (folder / "whole.txt").write_text("all")

    def open(self, folder):
        raise NotImplementedError
"""


class TravellingWave:
    """In the simulator's place: a wave of 10 days' period, so that 5 days turn it into its negative."""

    AMPLITUDE = 1.0  # as a share of a lively atmosphere's
    STATE = weather_twin.Atmosphere.STATE
    latitudes = np.linspace(-85, 85, 32)
    longitudes = np.arange(64) * 5.625

    def at_rest(self, seed: int) -> weather_twin.State:
        return {name: np.zeros(1, dtype=np.float32) for name in self.STATE}

    def advance(self, state: weather_twin.State) -> tuple[weather_twin.State, dict[str, weather_twin.Field]]:
        day = state["vorticity"][0] + np.arange(4).reshape(4, 1, 1) / 4
        wave = np.cos(2 * np.pi * (day / 10 + np.arange(64) / 64)) * np.ones((32, 1)) / np.sqrt(2)
        fields = {
            name: (self.AMPLITUDE * variable.persistence * wave).astype(np.float32)
            for name, variable in weather_twin.VARIABLES.items()
        }
        return state | {"vorticity": state["vorticity"] + 1}, fields


class Dead(TravellingWave):
    AMPLITUDE = 0.02


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own data set, in one file and one line."""
    (tmp_path / "my_source.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fetch, "DATASETS", Registry("dataset", {**DATASETS, "mine": "my_source:Mine"}))


@pytest.mark.usefixtures("mine")
def test_the_chosen_source_fills_the_folder() -> None:
    fetch.main(tiny_params(dataset="mine"))
    assert {file.name: file.read_text() for file in paths.FETCH.iterdir()} == {
        "half.txt": "seed 42",
        "whole.txt": "all",
    }


@pytest.mark.usefixtures("mine")
def test_a_new_run_replaces_what_an_earlier_one_left() -> None:
    paths.FETCH.mkdir(parents=True)
    (paths.FETCH / "old.txt").write_text("old")
    fetch.main(tiny_params(dataset="mine"))
    assert sorted(file.name for file in paths.FETCH.iterdir()) == ["half.txt", "whole.txt"]


@pytest.mark.usefixtures("mine")
def test_a_source_that_breaks_off_leaves_nothing_under_data() -> None:
    with pytest.raises(UserError, match="broke off"):
        fetch.main(tiny_params(dataset="mine", fetch={"source": "broken"}))
    assert not paths.DATA.exists()


@pytest.mark.usefixtures("mine")
def test_tables_for_the_prompt_lie_beside_the_raw_files(tmp_path: Path) -> None:
    (tmp_path / "holidays.csv").write_text("time,holiday\n2013-07-01,none\n")
    fetch.main(tiny_params(dataset="mine", fetch={"context": ["holidays.csv"]}))
    names = sorted(str(file.relative_to(paths.FETCH)) for file in paths.FETCH.rglob("*") if file.is_file())
    assert names == ["context/holidays.csv", "half.txt", "whole.txt"]
    with pytest.raises(UserError, match=r"nothing is at 'events\.csv'"):
        fetch.main(tiny_params(dataset="mine", fetch={"context": ["events.csv"]}))


def test_a_record_over_the_new_year_is_split_by_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather_twin, "Atmosphere", TravellingWave)
    fetch.main(tiny_params(dataset="weather_twin", fetch={"days": 370, "spin_up_days": 7}))
    names = sorted(str(file.relative_to(paths.FETCH)) for file in paths.FETCH.rglob("*.nc"))
    assert names == [f"{name}/{name}_{year}_5.625deg.nc" for name in weather_twin.VARIABLES for year in (2001, 2002)]
    with xr.open_dataset(paths.FETCH / names[0]) as first, xr.open_dataset(paths.FETCH / names[1]) as second:
        assert (len(first["time"]), len(second["time"])) == (365 * 4, 5 * 4)
        assert second["time"].values[0] == np.datetime64("2002-01-01T00")
        np.testing.assert_allclose(
            first["z"][0, 0], 907 / 2**0.5 * np.cos(2 * np.pi * (0.7 + np.arange(64) / 64)), atol=0.1
        )


def test_a_dead_atmosphere_fails_the_stage_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather_twin, "Atmosphere", Dead)
    with pytest.raises(UserError, match=r"RMSE of 18.14 m\*\*2 s\*\*-2 at 5 days; 770.9 to 1043 is allowed"):
        fetch.main(tiny_params(dataset="weather_twin", fetch={"days": 60, "spin_up_days": 0}))
    assert not paths.DATA.exists()


def test_an_unknown_data_set_is_refused_with_the_known_names() -> None:
    with pytest.raises(UserError, match="unknown dataset 'era6'; known: weather_twin"):
        fetch.main(tiny_params(dataset="era6"))
