"""A twin of the tunnel fires of Prometheus: simulated fires in a ventilated tunnel, in many environments.

`pipeline/datasets/fire/plume.py` simulates; here environments are drawn, simulations run in parallel processes and
written as `prometheus` reads them: `<simulation>.h5` and `environments.csv`. An environment is a heat release rate,
a growth time, a place of the fire and a ventilation velocity; its simulations differ in the flames' flicker and the
gusts of the air. The `moderate` environments are meant to be learnt from, the `large` ones release more heat than
any of those, and are selected by

    ingest.environments: {unseen: {heat_release_rate_MW: [12, 18]}}

It stands in for fires that nobody may hand out, and claims no more than: buoyant smoke that runs under a ceiling,
against the air where that is slow, and behaves otherwise where the fire is larger. The original is computed by the
Fire Dynamics Simulator in three dimensions. What is left out here stands in plume.py.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.fire import plume
from pipeline.datasets.fire.environments import TABLE
from pipeline.datasets.fire.plume import AMBIENT, Fire, Tunnel
from pipeline.datasets.prometheus import Prometheus
from pipeline.errors import UserError
from pipeline.params import Fires
from pipeline.progress import progress
from pipeline.work import Work, replacing

log = logging.getLogger(__name__)

Series = NDArray[np.float32]  # (T, H, W), physical units

MODERATE, LARGE = (4.0, 9.0), (12.0, 18.0)  # MW, the heat release rates of the two kinds of environments
RANGES = {"growth_time_s": (30.0, 90.0), "fire_position_m": (50.0, 65.0), "ventilation_m_s": (1.4, 2.7)}
DECIMALS = 2  # of an environment's parameters, so that the table has what was simulated

COLUMNS = 128  # of the files; the simulation has twice as many
TICKS = 4  # between two frames: a second
FIELDS = {"temperature": ("K", "Temperature"), "smoke": ("1/m", "Extinction coefficient of smoke")}
DIAGNOSTICS = ("heat_supplied", "heat_carried_out", "heat_lost_to_walls", "heat_stored")  # J per metre of width

JUDGED_SECONDS = 120  # shorter simulations are measured, not judged: their fires have hardly grown
JUDGED_ENVIRONMENTS = 6  # with fewer, the fall of back-layering with ventilation is not judged
HOTTER = 50.0  # K over the ambient temperature that every fire must reach
BUDGET_ERROR = 1e-9  # of the heat supplied
BACK_LAYER = 15.0  # K over the ambient temperature, on average, where smoke has come against the air
BACK_LAYERING = -0.5  # correlation of its length with the ventilation over the critical velocity, at most
PERSISTENCE_LEADS = (1, 2, 4, 8, 16)  # frames
LIVELY_LEAD, LIVELY = 8, (0.1, 0.8)  # frames; share of the change between independent frames


@dataclass(frozen=True)
class Run:
    """One simulation to be made."""

    name: str
    environment: str
    fire: Fire
    seed: tuple[int, ...]
    seconds: int


@dataclass(frozen=True)
class Findings:
    """What `check_liveliness` judges of one simulation."""

    run: Run
    hottest: float  # K over the ambient temperature
    budget_error: float
    back_layering: float  # m
    changes: dict[str, NDArray[np.float64]]  # by field: mean squared change at PERSISTENCE_LEADS
    variances: dict[str, float]  # by field: about the mean map

    @property
    def ventilation(self) -> float:
        """Over the cube root of the heat release rate, which the critical velocity is in proportion to."""
        return self.run.fire.ventilation_m_s / self.run.fire.heat_release_rate_MW ** (1 / 3)


class FireTwin(Prometheus):
    """Simulated tunnel fires. Uses fetch.fire and the seed."""

    description: ClassVar[str] = (
        "A simulated fire in a ventilated tunnel 100 m long and 6 m high, seen from the side: air is blown in from "
        "the left, smoke gathers under the ceiling and may run against the air."
    )

    def fetch(self, folder: Path) -> None:
        """Simulates and writes `<simulation>.h5` of every simulation and `environments.csv`.

        Simulations run in as many processes as there are processors for this one. A killed run keeps those that
        were finished and ends in the same bytes. Raises UserError if the fires are not lively.
        """
        settings = self.settings.fire
        runs = planned(settings, self.seed)
        versions = [version(package) for package in ("numpy", "scipy", "h5py")]
        with Work("fetch", params=[settings, self.seed, versions], code=[__name__, plume.__name__]) as work:
            simulate(runs, work)
            check_liveliness([found(run, work.path(f"{run.name}.h5")) for run in runs])
            folder.mkdir(parents=True, exist_ok=True)
            for run in runs:
                shutil.copyfile(work.path(f"{run.name}.h5"), folder / f"{run.name}.h5")
            write_table(folder / TABLE, runs)


# ---- what is simulated


def planned(settings: Fires, seed: int) -> list[Run]:
    """Every simulation; more environments or simulations leave the others as they are."""
    runs = []
    for kind, (name, range_, count) in enumerate(
        (("moderate", MODERATE, settings.seen), ("large", LARGE, settings.unseen))
    ):
        for number, fire in enumerate(fires(range_, count, (seed, kind)), start=1):
            environment = f"{name}-{number:02d}"
            runs += [
                Run(f"{environment}-{repeat}", environment, fire, (seed, kind, number, repeat), settings.seconds)
                for repeat in range(1, settings.simulations + 1)
            ]
    return runs


def fires(heat_release_rates: tuple[float, float], count: int, seed: tuple[int, ...]) -> list[Fire]:
    """The first `count` of an endless sequence that fills the parameters' ranges evenly.

    An additive recurrence with powers of the root of g^5 = g + 1 (Roberts 2018, "The unreasonable effectiveness of
    quasirandom sequences"), from a random start.
    """
    ranges = np.array([heat_release_rates, *RANGES.values()])
    root = max(np.roots([1, 0, 0, 0, -1, -1]).real)
    steps = root ** -np.arange(1, len(ranges) + 1)
    start = np.random.default_rng(seed).random(len(ranges))
    shares = (start + np.outer(np.arange(count), steps)) % 1
    values = ranges[:, 0] + shares * (ranges[:, 1] - ranges[:, 0])
    return [Fire(*map(float, row)) for row in values.round(DECIMALS)]


def simulate(runs: Sequence[Run], work: Work) -> None:
    """Makes the file of every run that `work` lacks; raises UserError if a process dies."""
    missing = [run for run in runs if not work.has(f"{run.name}.h5")]
    if not missing:
        return
    processes = min(len(missing), len(os.sched_getaffinity(0)))
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _end_with, (os.getpid(),))
    try:
        futures = [pool.submit(simulate_one, run, work.path(f"{run.name}.h5")) for run in missing]
        done = len(runs) - len(missing)
        for future in progress(as_completed(futures), "simulate", len(runs), "simulation", done=done):
            future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that simulated fires was killed, perhaps for want of memory; repeat the stage, it keeps the "
            "simulations that are finished"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def simulate_one(run: Run, path: Path) -> None:
    """Simulates and writes one file, whole or not at all; raises UserError if the flow blows up."""
    states, budgets = [], []
    tunnel = Tunnel(run.fire, np.random.default_rng(run.seed))
    for state in plume.frames(tunnel, run.seconds, TICKS):
        if not np.isfinite(state).all():
            raise UserError(f"simulation {run.name} blew up after {tunnel.seconds:g} s: {run.fire}")
        states.append(state.reshape(*state.shape[:2], COLUMNS, -1).mean(axis=-1))
        budget = tunnel.budget
        budgets.append([budget.supplied, budget.carried_out, budget.lost_to_walls, budget.stored])
    frames = np.stack(states, axis=1)
    values = {"temperature": AMBIENT + frames[plume.HEAT], "smoke": np.maximum(frames[plume.SMOKE], 0)}
    with replacing(path) as temporary:
        _write(temporary, run, values, np.array(budgets))


def _end_with(parent: int) -> None:
    """Ends this process with the one that started it: a killed one could not tell it to stop."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ---- files


def _write(path: Path, run: Run, values: dict[str, NDArray[np.float64]], budgets: NDArray[np.float64]) -> None:
    seconds = np.arange(len(budgets)) * TICKS * plume.TICK
    y = (np.arange(plume.ROWS) + 0.5) * plume.DZ
    x = (np.arange(COLUMNS) + 0.5) * plume.LENGTH / COLUMNS
    with h5py.File(path, "w") as file:
        file.attrs.update(_attributes(run))
        for name, axis, units in (("time", seconds, "s"), ("y", y, "m"), ("x", x, "m")):
            file.create_dataset(name, data=axis).attrs["units"] = units
        for name, (units, long_name) in FIELDS.items():
            data = values[name].astype(np.float32)
            stored = file.create_dataset(name, data=data, chunks=data.shape, compression="gzip", shuffle=True)
            stored.attrs.update(units=units, long_name=long_name)
        for name, series in zip(DIAGNOSTICS, budgets.T, strict=True):
            file.create_dataset(f"diagnostics/{name}", data=series).attrs["units"] = "J/m"


def _attributes(run: Run) -> dict[str, str | float]:
    """The numbers are the environment's parameters and nothing else, as `prometheus` takes them for that."""
    return {
        "title": "Fire twin: a simulated fire in a tunnel, not measurements and not the Fire Dynamics Simulator",
        "simulated": "true",
        "source": "two-dimensional Boussinesq flow, finite volumes, s2kd's own solver",
        "resolution": f"{plume.ROWS} x {plume.COLUMNS} cells, written as {plume.ROWS} x {COLUMNS}",
        "time": "seconds after the ignition",
        "seed": " ".join(map(str, run.seed)),
        "environment": run.environment,
        **asdict(run.fire),
    }


def write_table(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["simulation", "environment", *(field.name for field in fields(Fire))])
        table.writerows([run.name, run.environment, *asdict(run.fire).values()] for run in runs)


# ---- liveliness


def found(run: Run, path: Path) -> Findings:
    """Measures one simulation's file, from the end of the fire's growth on."""
    with h5py.File(path) as file:
        values = {name: file[name][()] for name in FIELDS}
        supplied, *spent = (file[f"diagnostics/{name}"][-1] for name in DIAGNOSTICS)
    grown = min(int(run.fire.growth_time_s), len(values["smoke"]) // 2)
    steady = {name: field[grown:] for name, field in values.items()}
    return Findings(
        run,
        float(values["temperature"].max() - AMBIENT),
        abs(supplied - sum(spent)) / max(supplied, 1.0),
        back_layering(steady["temperature"], run.fire.fire_position_m),
        {name: mean_squared_changes(field) for name, field in steady.items()},
        {name: float(field.astype(np.float64).var(axis=0).mean()) for name, field in steady.items()},
    )


def back_layering(temperature: Series, position: float) -> float:
    """How far upstream of the fire the two rows under the ceiling are warm on average, in metres."""
    warm = temperature[:, -2:].mean(axis=(0, 1), dtype=np.float64) > AMBIENT + BACK_LAYER
    x = (np.arange(COLUMNS) + 0.5) * plume.LENGTH / COLUMNS
    return max(0.0, float(position - x[warm].min())) if warm.any() else 0.0


def mean_squared_changes(field: Series) -> NDArray[np.float64]:
    """At each of PERSISTENCE_LEADS, over all times and grid points; NaN for leads beyond the record."""
    wide = field.astype(np.float64)
    return np.array(
        [np.mean((wide[lead:] - wide[:-lead]) ** 2) if lead < len(wide) else np.nan for lead in PERSISTENCE_LEADS]
    )


def persistence(findings: Sequence[Findings], field: str) -> NDArray[np.float64]:
    """At each of PERSISTENCE_LEADS: mean squared change over that of independent frames, twice the variance.

    0 says that nothing moves, 1 that a frame tells nothing about the next.
    """
    changes = np.mean([finding.changes[field] for finding in findings], axis=0)
    variance = float(np.mean([finding.variances[field] for finding in findings]))
    return np.asarray(changes / (2 * variance)) if variance > 0 else np.zeros(len(PERSISTENCE_LEADS))


def check_liveliness(findings: Sequence[Findings]) -> None:
    """Refuses fires that do not burn, lose heat unaccounted for, or make smoke that stands still or flies about.

    Simulations of less than 120 s are measured and logged but not judged by their motion. Raises UserError.
    """
    for finding in findings:
        if not finding.budget_error <= BUDGET_ERROR:
            share = f"{finding.budget_error:.2g} of the heat is unaccounted for"
            raise UserError(f"{finding.run.name}: {share}; {BUDGET_ERROR:g} is allowed")
    log.info("at most %.2g of the heat is unaccounted for", max(finding.budget_error for finding in findings))
    problems = [*_cold(findings), *_still(findings), *_against_the_air(findings)]
    if findings[0].run.seconds < JUDGED_SECONDS:
        for problem in problems:
            log.warning("%s, not enforced on simulations of less than %d s", problem, JUDGED_SECONDS)
    elif problems:
        raise UserError("; ".join(problems))


def _cold(findings: Sequence[Findings]) -> list[str]:
    coldest = min(findings, key=lambda finding: finding.hottest)
    finding = f"the coolest fire, {coldest.run.name}, reaches {coldest.hottest:.3g} K over the ambient temperature"
    log.info("%s; the hottest fire %.3g K", finding, max(each.hottest for each in findings))
    return [] if coldest.hottest >= HOTTER else [f"{finding}; at least {HOTTER:g} is needed"]


def _still(findings: Sequence[Findings]) -> list[str]:
    problems = []
    for name in FIELDS:
        errors = persistence(findings, name)
        told = ", ".join(f"{error:.2g} at {lead} s" for lead, error in zip(PERSISTENCE_LEADS, errors, strict=True))
        log.info("persistence errors of %s, 1 for independent frames: %s", name, told)
        judged = errors[PERSISTENCE_LEADS.index(LIVELY_LEAD)]
        if not LIVELY[0] <= judged <= LIVELY[1]:
            problems.append(
                f"{name} has a persistence error of {judged:.2g} at {LIVELY_LEAD} s; {LIVELY[0]:g} to {LIVELY[1]:g} is "
                "allowed"
            )
    return problems


def _against_the_air(findings: Sequence[Findings]) -> list[str]:
    lengths = np.array([finding.back_layering for finding in findings])
    if len({finding.run.environment for finding in findings}) < JUDGED_ENVIRONMENTS:
        return []
    ventilation = [finding.ventilation for finding in findings]
    correlation = float(np.corrcoef(lengths, ventilation)[0, 1]) if lengths.std() > 0 else 0.0
    log.info("smoke comes up to %.3g m against the air; correlation with it %.2f", lengths.max(), correlation)
    if correlation <= BACK_LAYERING:
        return []
    return [
        f"the length of back-layering and the ventilation correlate by {correlation:.2f}; at most {BACK_LAYERING:g} "
        "is allowed"
    ]
