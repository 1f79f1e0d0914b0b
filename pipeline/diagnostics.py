"""The field's own measures, beside the main table's: what is gathered on the test split, and the tables of it.

    field.csv      every metric by run, variable and lead time; "all" is the sum over variables, where one is defined
    extremes.csv   scores of events beyond a quantile, by run, variable and tail
    events.csv     the same apart for windows before which an event was known, where the record's context tells any
    spectra.csv    power by wavenumber of truth and forecasts, mean over windows and seeds
    sharpness.csv  distance to the truth's spectrum and effective resolution, by run and variable
    rollout.csv    RMSE by lead time of forecasts made from forecasts
    climatology.npz   the training split's climatology by day of the year and hour

Rows are in the order of their keys. A score that is not defined is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import climatology, extremes, spectra, vehicles
from pipeline.batch import Batch
from pipeline.climatology import DailyClimatology
from pipeline.evaluation import Run, Scores, Tally, Yardsticks, build_metrics
from pipeline.extremes import TAILS, Extremes
from pipeline.params import Evaluate
from pipeline.spectra import Spectrum
from pipeline.store import Description, Store, Windows
from pipeline.vehicles import Above, counts_vehicles
from pipeline.windows import WindowDataset

FIELD = ["model", "seed", "metric", "variable", "lead_hours", "value", "units"]
EXTREMES = ["model", "seed", "variable", "tail", "quantile", "pod", "far", "csi", "sedi", "fss", "base_rate"]
EVENTS = ("event", "holiday", "incident")  # facts of a record's context, which captioners are told
SHARPNESS = ["model", "seed", "variable", "log_spectral_distance", "effective_resolution", "units"]
ROLLOUT = ["model", "seed", "variable", "lead_hours", "rmse"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Climate:
    """The climatology of the targets' times, as a forecast of the same shape."""

    maps: DailyClimatology
    windows: Windows
    times: NDArray[np.datetime64]

    def __call__(self, batch: Batch) -> Tensor:
        frames = np.stack([self.windows.target_frames(window) for window in batch.windows.tolist()])
        maps = self.maps.at(self.times[frames.reshape(-1)])
        return torch.from_numpy(maps.reshape(batch.targets.shape))


@dataclass(frozen=True)
class Within:
    """A tally of some windows alone; `inside` says of each window of the store whether it is one of them."""

    tally: Tally
    inside: Tensor

    def __call__(self, forecast: Tensor, batch: Batch) -> Tensor:
        rows = self.inside[batch.windows]
        return self.tally(forecast[rows], Batch(batch.windows[rows], batch.inputs[rows], batch.targets[rows]))


def eventful(store: Store) -> NDArray[np.bool_]:
    """(window,) whether an event was known at one of the window's input frames."""
    if store.context is None:
        return np.zeros(len(store.windows), dtype=bool)
    told = np.array([any(fact.split(":")[0] in EVENTS for fact in line.split("; ")) for line in store.context])
    return np.array([told[store.windows.input_frames(window)].any() for window in range(len(store.windows))])


def training_frames(store: Store) -> NDArray[np.int64]:
    """Numbers of the frames that some training window reads, ascending."""
    windows = store.windows
    offsets = windows.step * np.arange(windows.t_in + windows.t_out)
    read = np.zeros(len(store.times), dtype=bool)
    for offset in offsets:
        read[windows.start[windows.of("train")] + offset] = True
    return np.flatnonzero(read)


def yardsticks(test: WindowDataset, settings: Evaluate) -> Yardsticks:
    """Metrics, climatology and thresholds of the training split, tallies: all that a forecast is held against."""
    store = test.store
    description, frames = store.description, training_frames(store)
    maps = climatology.fit(test.fields, store.times, frames, description.time_stamps)
    rare = torch.from_numpy(extremes.thresholds(test.fields, frames))
    of_extremes = Extremes(rare, description.grid, settings.fss_cells)
    tallies: dict[str, Tally] = {"extremes": of_extremes, "spectrum": Spectrum(description.grid)}
    events = eventful(store)
    if events[test.numbers].any():
        tallies["event known"] = Within(of_extremes, torch.from_numpy(events))
        tallies["event none"] = Within(of_extremes, torch.from_numpy(~events))
    if counts_vehicles(description.variables):
        tallies["above"] = Above(settings.vehicle_threshold)
    return Yardsticks(build_metrics(description), Climate(maps, store.windows, store.times), tallies)


def legends(settings: Evaluate) -> dict[str, str]:
    """What each column and metric of the tables is, with its reduction and units; metrics' own labels stand apart."""
    of_vehicles = {name: text.format(threshold=settings.vehicle_threshold) for name, text in vehicles.LEGENDS.items()}
    events = {"events": f"whether one ({', '.join(EVENTS)}) was told of at an input frame of the window"}
    return extremes.LEGENDS | events | spectra.LEGENDS | of_vehicles


def write(
    folder: Path,
    scores: Scores,
    gauges: Yardsticks,
    description: Description,
    rolled: Mapping[Run, NDArray[np.float64]],
) -> None:
    """All tables of this module. gauges: those that the scores were made with. rolled: see `rollout`."""
    if isinstance(gauges.climate, Climate):
        gauges.climate.maps.save(folder / "climatology.npz")
    _write(folder / "field.csv", field_rows(scores, description), FIELD)
    _write(folder / "extremes.csv", extremes_rows(scores), EXTREMES)
    if events := events_rows(scores):
        _write(folder / "events.csv", events, ["events", *EXTREMES])
    spectrum = Spectrum(description.grid)
    wavelength = f"wavelength_{spectrum.units}"
    _write(
        folder / "spectra.csv", spectra_rows(scores, spectrum), ["model", "variable", "wavenumber", wavelength, "power"]
    )
    _write(folder / "sharpness.csv", sharpness_rows(scores, spectrum), SHARPNESS)
    _write(folder / "rollout.csv", rollout_rows(scores, rolled), ROLLOUT)


def field_rows(scores: Scores, description: Description) -> Rows:
    """Every metric after the mean over windows, by variable and lead time."""
    units = [variable.units for variable in description.variables]
    rows: Rows = []
    for run in scores.values:
        for name, metric in scores.metrics.items():
            values = scores.by_lead(run, name)
            found = {variable: (values[:, index], metric.units(units[index])) for index, variable in _variables(scores)}
            if metric.sums_variables:
                found["all"] = values.sum(1), metric.units(units[0]) if len(set(units)) == 1 else "mixed"
            rows += _by_lead(scores, run, name, found)
        for name, values in vehicles.scores(scores.sums[run]["above"]).items() if "above" in scores.sums[run] else ():
            unit = [("%" if name == "mape_above" else each) for each in units]
            rows += _by_lead(scores, run, name, {v: (values[:, index], unit[index]) for index, v in _variables(scores)})
    return rows


def _by_lead(scores: Scores, run: Run, metric: str, found: Mapping[str, tuple[NDArray[np.float64], str]]) -> Rows:
    return [
        _keys(run) | {"metric": metric, "variable": name, "lead_hours": hours, "value": value, "units": units}
        for name, (values, units) in found.items()
        for hours, value in zip(scores.lead_hours, values, strict=True)
    ]


def extremes_rows(scores: Scores) -> Rows:
    """Pooled over windows, lead times and grid points."""
    return [row for run, sums in scores.sums.items() for row in _of_tally(scores, run, sums["extremes"])]


def events_rows(scores: Scores) -> Rows:
    """The same, of windows before which an event was known and of the others."""
    return [
        {"events": name} | row
        for run, sums in scores.sums.items()
        for name in ("known", "none")
        if f"event {name}" in sums
        for row in _of_tally(scores, run, sums[f"event {name}"])
    ]


def _of_tally(scores: Scores, run: Run, counts: NDArray[np.float64]) -> Rows:
    found = extremes.scores(counts)
    return [
        _keys(run)
        | {"variable": variable, "tail": tail.name, "quantile": tail.quantile}
        | {name: values[index, number] for name, values in found.items()}
        for index, variable in _variables(scores)
        for number, tail in enumerate(TAILS)
    ]


def spectra_rows(scores: Scores, spectrum: Spectrum) -> Rows:
    """Truth first, then the mean over each forecaster's seeds."""
    powers = {"truth": _truth(scores)}
    for runs in scores.groups().values():
        powers[runs[0].name] = np.mean([_power(scores, run) for run in runs], axis=0)
    return [
        {
            "model": model,
            "variable": variable,
            "wavenumber": wavenumber,
            f"wavelength_{spectrum.units}": wavelength,
            "power": power[index, number],
        }
        for model, power in powers.items()
        for index, variable in _variables(scores)
        for number, (wavenumber, wavelength) in enumerate(zip(spectrum.wavenumbers, spectrum.wavelengths, strict=True))
    ]


def sharpness_rows(scores: Scores, spectrum: Spectrum) -> Rows:
    """Of each run's spectrum, averaged over windows before it is held against the truth's."""
    rows: Rows = []
    truth = _truth(scores)
    for run in scores.sums:
        distance = spectra.log_spectral_distance(_power(scores, run), truth)
        resolution = spectra.effective_resolution(_power(scores, run), truth, spectrum.wavelengths)
        for index, variable in _variables(scores):
            of_field = {"log_spectral_distance": distance[index], "effective_resolution": resolution[index]}
            rows.append(_keys(run) | {"variable": variable} | of_field | {"units": spectrum.units})
    return rows


def rollout_rows(scores: Scores, rolled: Mapping[Run, NDArray[np.float64]]) -> Rows:
    step = scores.lead_hours[0]
    return [
        _keys(run) | {"variable": variable, "lead_hours": step * (lead + 1), "rmse": values[lead, index]}
        for run, values in rolled.items()
        for index, variable in _variables(scores)
        for lead in range(len(values))
    ]


def _power(scores: Scores, run: Run) -> NDArray[np.float64]:
    """(C, K), mean over windows."""
    power: NDArray[np.float64] = scores.sums[run]["spectrum"][0] / len(scores.windows)
    return power


def _truth(scores: Scores) -> NDArray[np.float64]:
    power: NDArray[np.float64] = next(iter(scores.sums.values()))["spectrum"][1] / len(scores.windows)
    return power


def _variables(scores: Scores) -> list[tuple[int, str]]:
    return list(enumerate(scores.variables))


def _keys(run: Run) -> dict[str, Any]:
    return {"model": run.name, "seed": run.seed}


def _write(path: Path, rows: Rows, columns: list[str]) -> None:
    table = pd.DataFrame(rows, columns=columns).replace([np.inf, -np.inf], np.nan)
    if "seed" in columns:
        table = table.astype({"seed": "Int64"})
    path.write_text(table.to_csv(index=False, lineterminator="\n"))
