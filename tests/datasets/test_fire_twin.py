from __future__ import annotations

import csv
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from pipeline.datasets import fire_twin
from pipeline.datasets.fire import plume
from pipeline.datasets.fire.plume import AMBIENT, Fire
from pipeline.datasets.fire_twin import Findings, FireTwin, Run, back_layering, check_liveliness, found, planned
from pipeline.errors import UserError
from pipeline.params import Fetch, Fires, Ingest
from pipeline.work import Work

ROOT = Path(__file__).parents[2]
SEED, SECONDS = 7, 10
SMALL = Fires(seen=2, unseen=1, simulations=2, seconds=SECONDS)
NAMES = [f"{name}-{repeat}" for name in ("large-01", "moderate-01", "moderate-02") for repeat in (1, 2)]
PROGRAM = f"""
from pathlib import Path
from pipeline.datasets.fire_twin import FireTwin
from pipeline.params import Fetch, Fires, Ingest
fires = Fires(seen=2, unseen=1, simulations=2, seconds={SECONDS})
FireTwin(Fetch(fire=fires), Ingest(variables=("temperature", "smoke")), {SEED}).fetch(Path("raw"))
"""


def twin(seed: int = SEED) -> FireTwin:
    return FireTwin(Fetch(fire=SMALL), Ingest(variables=("temperature", "smoke")), seed)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def run_of(number: int = 1, ventilation: float = 2.0, seconds: int = 180) -> Run:
    name = f"moderate-{number:02d}"
    return Run(f"{name}-1", name, Fire(8.0, 40.0, 50.0, ventilation), (0, number), seconds)


def lively(**changed: object) -> list[Findings]:
    """Eight simulations that pass: back-layering falls with ventilation, frames eight seconds apart are half new."""
    changes = {name: 2 * np.array([0.1, 0.2, 0.3, 0.5, 1.0]) for name in fire_twin.FIELDS}
    variances = dict.fromkeys(fire_twin.FIELDS, 1.0)
    findings = [
        Findings(run_of(number, 1.5 + 0.2 * number), 300.0, 1e-14, 40.0 - 5 * number, changes, variances)
        for number in range(8)
    ]
    return [replace(finding, **changed) for finding in findings]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, tiny run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        twin().fetch(Path("raw"))
    return folder / "raw"


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "environments.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_file_a_simulation_holds_the_fields_their_coordinates_and_their_units(undisturbed: Path) -> None:
    assert sorted(hashes(undisturbed)) == sorted([*(f"{name}.h5" for name in NAMES), "environments.csv"])
    for name in NAMES:
        with h5py.File(undisturbed / f"{name}.h5") as file:
            for field, units in (("temperature", "K"), ("smoke", "1/m")):
                assert file[field].shape == (SECONDS, 16, 128)
                assert file[field].dtype == np.float32
                assert file[field].attrs["units"] == units
            assert np.array_equal(file["time"], np.arange(SECONDS))
            np.testing.assert_allclose(file["y"], 6 * (np.arange(16) + 0.5) / 16)
            np.testing.assert_allclose(file["x"], 100 * (np.arange(128) + 0.5) / 128)
            assert [file[axis].attrs["units"] for axis in ("time", "y", "x")] == ["s", "m", "m"]


def test_smoke_is_never_negative_and_the_air_never_colder_than_outside(undisturbed: Path) -> None:
    for name in NAMES:
        with h5py.File(undisturbed / f"{name}.h5") as file:
            assert file["smoke"][()].min() == 0
            assert file["smoke"][()].max() > 0
            assert file["temperature"][()].min() == np.float32(AMBIENT)
            assert file["temperature"][-1].max() > AMBIENT + 1


def test_files_are_marked_as_a_simulation_and_name_their_environment(undisturbed: Path) -> None:
    for row in table(undisturbed):
        with h5py.File(undisturbed / f"{row['simulation']}.h5") as file:
            assert file.attrs["simulated"] == "true"
            assert "not measurements" in file.attrs["title"]
            assert file.attrs["environment"] == row["environment"]
            numbers = {key: value for key, value in file.attrs.items() if not isinstance(value, str)}
        assert numbers == {key: float(value) for key, value in row.items() if key not in ("simulation", "environment")}


def test_the_record_opens_as_prometheus_does_a_segment_a_simulation(undisturbed: Path) -> None:
    record = twin().open(undisturbed)
    assert list(record.data_vars) == ["temperature", "smoke"]
    assert dict(record.sizes) == {"time": len(NAMES) * SECONDS, "y": 16, "x": 128}
    assert [record[name].attrs["units"] for name in record.data_vars] == ["K", "1/m"]
    expected = [name.rpartition("-")[0] for name in NAMES for _ in range(SECONDS)]
    assert list(record["environment"].values) == expected
    assert len(np.unique(record["segment"])) == len(NAMES)
    with h5py.File(undisturbed / f"{NAMES[1]}.h5") as file:
        assert np.array_equal(record["smoke"][SECONDS : 2 * SECONDS], file["smoke"])


def test_simulations_of_one_environment_differ(undisturbed: Path) -> None:
    with h5py.File(undisturbed / "large-01-1.h5") as one, h5py.File(undisturbed / "large-01-2.h5") as other:
        assert one.attrs["seed"] != other.attrs["seed"]
        assert not np.array_equal(one["smoke"], other["smoke"])


def test_one_process_writes_the_same_bytes_as_several(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = Work("fetch")
    work.folder.mkdir(parents=True)
    run = planned(SMALL, SEED)[-1]
    fire_twin.simulate_one(run, work.path(f"{run.name}.h5"))
    assert work.path(f"{run.name}.h5").read_bytes() == (undisturbed / f"{run.name}.h5").read_bytes()


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """Kills a run once its first simulation is finished; gives the processes that it had started."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".work/fetch/*/*-?.h5")):
        assert run.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    yield children
    for child in children:
        if child.is_running():
            child.kill()


@pytest.mark.slow
def test_a_run_killed_and_repeated_keeps_what_was_finished_and_ends_in_the_same_bytes(
    killed: list[psutil.Process], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert psutil.wait_procs(killed, timeout=30)[1] == []  # nothing goes on without the one that started it
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".work/fetch/*/*.h5")}
    assert finished
    assert not (tmp_path / "raw").exists()
    monkeypatch.chdir(tmp_path)
    kept = {}
    monkeypatch.setattr(
        fire_twin, "check_liveliness", lambda _: kept.update({p.name: p.stat().st_mtime_ns for p in work_files()})
    )

    def work_files() -> list[Path]:
        return list(tmp_path.glob(".work/fetch/*/*.h5"))

    twin().fetch(Path("raw"))
    assert finished.items() <= kept.items()
    assert hashes(tmp_path / "raw") == hashes(undisturbed)
    assert not work_files()


def die(run: Run, path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_ends_the_run_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fire_twin, "simulate_one", die)
    with pytest.raises(UserError, match=r"killed.*keeps the simulations that are finished"):
        twin().fetch(Path("raw"))


def test_a_flow_that_blows_up_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plume, "frames", lambda *_: iter([np.full((3, 16, 256), np.nan)]))
    with pytest.raises(UserError, match=r"moderate-01-1 blew up after 0 s: .*heat_release_rate_MW=8"):
        fire_twin.simulate_one(run_of(), tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []


# ---- what is simulated


def test_large_fires_release_more_heat_than_any_moderate_one_and_the_rest_is_drawn_alike() -> None:
    runs = planned(Fires(seen=40, unseen=40, simulations=1), SEED)
    powers = {kind: [run.fire.heat_release_rate_MW for run in runs if run.name.startswith(kind)] for kind in "ml"}
    assert 4 <= min(powers["m"]) < 4.5 < 8.5 < max(powers["m"]) <= 9
    assert 12 <= min(powers["l"]) < 13 < 17 < max(powers["l"]) <= 18
    for name, (low, high) in fire_twin.RANGES.items():
        values = [asdict(run.fire)[name] for run in runs]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_more_environments_or_simulations_leave_the_others_as_they_are() -> None:
    few = planned(SMALL, SEED)
    more = planned(Fires(seen=5, unseen=2, simulations=4, seconds=SECONDS), SEED)
    assert set(few) < set(more)
    assert len({run.seed for run in more}) == len({run.name for run in more}) == 7 * 4
    assert not set(few) & set(planned(SMALL, SEED + 1))


# ---- liveliness


def write(path: Path, run: Run, temperature: np.ndarray, stored: float = 1.0) -> Path:
    values = {"temperature": temperature, "smoke": np.maximum(temperature - AMBIENT, 0)}
    budgets = np.tile([3.0, 1.0, 1.0, stored], (len(temperature), 1))
    fire_twin._write(path, run, values, budgets)
    return path


def test_back_layering_is_measured_from_the_fire_to_where_the_ceiling_is_warm() -> None:
    field = np.full((5, 16, 128), AMBIENT, dtype=np.float32)
    assert back_layering(field, 50.0) == 0
    field[:, -2:, 40:] += 20  # the first warm column's centre is at 40.5 * 100 / 128 m
    assert back_layering(field, 50.0) == pytest.approx(50 - 40.5 * 100 / 128)
    assert back_layering(field, 20.0) == 0
    field[:, :-2] += 500  # below the ceiling, it is no matter
    assert back_layering(field, 50.0) == pytest.approx(50 - 40.5 * 100 / 128)


def test_persistence_is_0_for_what_stands_still_and_1_for_independent_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fields = {"still": np.full((180, 16, 128), AMBIENT + 60), "new": 400 + rng.standard_normal((180, 16, 128))}
    fields["wave"] = 400 + np.cos(2 * np.pi * np.arange(180) / 8)[:, None, None] * np.ones((16, 128))
    findings = {
        name: found(run_of(), write(tmp_path / f"{name}.h5", run_of(), values)) for name, values in fields.items()
    }
    errors = {name: fire_twin.persistence([finding], "temperature") for name, finding in findings.items()}
    np.testing.assert_array_equal(errors["still"], 0)
    np.testing.assert_allclose(errors["new"], 1, atol=0.02)
    expected = [1 - np.cos(2 * np.pi * lead / 8) for lead in fire_twin.PERSISTENCE_LEADS]
    np.testing.assert_allclose(errors["wave"], expected, atol=0.03)


def test_what_is_found_in_a_file_covers_hottest_spot_and_heat_budget(tmp_path: Path) -> None:
    values = np.full((180, 16, 128), AMBIENT)
    values[5, 3, 7] += 123
    finding = found(run_of(), write(tmp_path / "run.h5", run_of(), values, stored=0.7))
    assert finding.hottest == pytest.approx(123, abs=1e-3)
    assert finding.budget_error == pytest.approx(0.1)


def test_lively_fires_pass_and_what_was_measured_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_liveliness(lively())
    assert "0.1 at 1 s, 0.2 at 2 s, 0.3 at 4 s, 0.5 at 8 s" in caplog.text
    assert "correlation with it -1.00" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hottest": 12.0}, "moderate-00-1, reaches 12 K over the ambient temperature; at least 50 is needed"),
        ({"budget_error": 1e-3}, "moderate-00-1: 0.001 of the heat is unaccounted for"),
        ({"budget_error": np.nan}, "moderate-00-1: nan of the heat"),
        (
            {"variances": dict.fromkeys(fire_twin.FIELDS, 1000.0)},
            "temperature has a persistence error of 0.0005 at 8 s",
        ),
        ({"variances": dict.fromkeys(fire_twin.FIELDS, 0.5)}, "smoke has a persistence error of 1 at 8 s; 0.1 to 0.8"),
        ({"variances": dict.fromkeys(fire_twin.FIELDS, np.nan)}, "temperature has a persistence error of"),
        ({"back_layering": 10.0}, "back-layering and the ventilation correlate by 0.00"),
    ],
)
def test_dead_or_wild_fires_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_liveliness(lively(**changed))


def test_back_layering_that_grows_with_ventilation_is_refused() -> None:
    findings = [replace(finding, back_layering=40 - finding.back_layering) for finding in lively()]
    with pytest.raises(UserError, match=r"correlate by 1\.00; at most -0\.5"):
        check_liveliness(findings)


def test_short_simulations_are_measured_and_logged_but_only_their_budget_is_judged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = [replace(finding, run=run_of(seconds=60), hottest=1.0) for finding in lively()]
    with caplog.at_level(logging.WARNING):
        check_liveliness(short)
    assert "reaches 1 K" in caplog.text
    assert "not enforced on simulations of less than 120 s" in caplog.text
    with pytest.raises(UserError, match="unaccounted"):
        check_liveliness([replace(finding, budget_error=0.5) for finding in short])
