"""Scoring of forecasters over the test split, one pass for each, a batch at a time.

A forecaster is any callable from a `Batch` to a forecast (B, T_out, C, H, W) in physical units, so the
references, the teacher and the students are scored by the same code on the same windows. Metrics leave a value for
each window, in a file mapped into memory; tallies leave sums alone. Memory holds a batch, however long the split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batch import Batch
from pipeline.errors import UserError
from pipeline.mapped import release
from pipeline.metrics import METRICS
from pipeline.metrics.base import Metric
from pipeline.progress import progress
from pipeline.store import Description, Store
from pipeline.windows import WindowDataset, loader
from pipeline.work import Work

Forecast = Callable[[Batch], Tensor]
Tally = Callable[[Tensor, Batch], Tensor]  # what a batch's forecast adds to sums over the split, float64

WINDOWS_AT_ONCE = 4096  # in a row group of the table of scores


@dataclass(frozen=True)
class Run:
    """Who forecasts: a reference, the teacher, or one repeat of a student under a method."""

    model: str
    method: str = ""
    seed: int | None = None

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name} seed {self.seed}"

    @property
    def name(self) -> str:
        """The model with its method, without the seed."""
        return f"{self.model} {self.method}".strip()


@dataclass(frozen=True)
class Yardsticks:
    """What forecasts are held against.

    climate: the climatology of the targets' day and hour, for metrics of anomalies.
    """

    metrics: Mapping[str, Metric]
    climate: Forecast
    tallies: Mapping[str, Tally] = field(default_factory=dict)

    @classmethod
    def plain(cls, description: Description) -> Yardsticks:
        """Every metric in the room's table, anomalies from the mean map, no tally."""
        return cls(build_metrics(description), climatology(description))


@dataclass(frozen=True)
class Scores:
    """Values per window of every forecaster on the same windows.

    windows: (N,) numbers in the store. lead_hours: (T_out,) after the last input frame.
    values: for each run (M, N, T_out, C) float64, metrics in the order of `metrics`.
    simulation: (N,) the number of each window's, where the record consists of simulations.
    domains: "seen" and "unseen" -> (N,) whether a window's environment is of that kind, where there are both.
    sums: for each run, by the tally's name.
    """

    metrics: Mapping[str, Metric]
    windows: NDArray[np.int64]
    lead_hours: NDArray[np.float64]
    variables: tuple[str, ...]
    values: Mapping[Run, NDArray[np.float64]]
    simulation: NDArray[np.int32] | None = None
    domains: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    sums: Mapping[Run, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)

    def of(self, run: Run, metric: str) -> NDArray[np.float64]:
        """(N, T_out, C)."""
        return self.values[run][list(self.metrics).index(metric)]

    def score(self, run: Run, metric: str, domain: str = "") -> float:
        """One number over windows (of one domain, or all), lead times and variables."""
        values = self.of(run, metric)[self.inside(domain)]
        per_variable = values.mean((0, 1))
        summed = self.metrics[metric].sums_variables
        return float(self.metrics[metric].finish(per_variable.sum() if summed else values.mean()))

    def inside(self, domain: str) -> NDArray[np.bool_]:
        """(N,) the windows of a domain; all of them for ""."""
        return self.domains[domain] if domain else np.ones(len(self.windows), dtype=bool)

    def by_lead(self, run: Run, metric: str) -> NDArray[np.float64]:
        """(T_out, C), finished after the mean over windows."""
        return self.metrics[metric].finish(self.of(run, metric).mean(0))

    def groups(self) -> dict[tuple[str, str], list[Run]]:
        """The repeats of each (model, method), in the order in which they were scored."""
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in self.values:
            groups.setdefault((run.model, run.method), []).append(run)
        return groups


def build_metrics(description: Description) -> dict[str, Metric]:
    """Every metric in the room's table."""
    return {name: METRICS.load(name)(description) for name in METRICS}


def persistence(batch: Batch) -> Tensor:
    """The last input frame, repeated."""
    return batch.inputs[:, -1:].expand_as(batch.targets)


def climatology(description: Description) -> Forecast:
    """The training split's mean map of each variable, at every lead time."""
    maps = torch.as_tensor(description.statistics.climatology)
    return lambda batch: maps.to(batch.targets).expand_as(batch.targets)


def lead_hours(store: Store) -> NDArray[np.float64]:
    """(T_out,) hours from the last input frame to each target frame."""
    windows = store.windows
    return np.arange(1, windows.t_out + 1) * windows.step * store.description.frame_seconds / 3600


@torch.no_grad()
def score(
    run: Run,
    forecast: Forecast,
    batches: Iterable[Batch],
    total: int,
    yardsticks: Yardsticks,
    values: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Fills `values` (M, N, T_out, C) with every metric of every window, in the batches' order; returns the tallies.

    total: the number of batches. Raises UserError if a forecast is not finite: a mean over it would say nothing.
    """
    sums: dict[str, Tensor] = {}
    done = 0
    for batch in progress(batches, f"scoring {run}", total, "batch"):
        fields = forecast(batch)
        _check_finite(run, fields, batch)
        window = slice(done, done + len(fields))
        values[:, window] = _per_window(yardsticks, fields, batch)
        for name, tally in yardsticks.tallies.items():
            added = tally(fields, batch)
            sums[name] = sums[name] + added if name in sums else added
        done = window.stop
    return {name: total.numpy() for name, total in sums.items()}


def _check_finite(run: Run, fields: Tensor, batch: Batch) -> None:
    finite = torch.isfinite(fields).flatten(1).all(1)
    if not finite.all():
        window = batch.windows[~finite][0].item()
        raise UserError(f"{run} forecasts NaN or infinity for window {window}; train it with a lower learning_rate")


def _per_window(yardsticks: Yardsticks, fields: Tensor, batch: Batch) -> NDArray[np.float32]:
    """(M, B, T_out, C)."""
    metrics = yardsticks.metrics.values()
    pairs = {False: (fields, batch.targets)}
    if any(metric.of_anomalies for metric in metrics):
        climate = yardsticks.climate(batch)
        pairs[True] = fields - climate, batch.targets - climate
    found: NDArray[np.float32] = torch.stack(
        [metric.per_window(*pairs[metric.of_anomalies]) for metric in metrics]
    ).numpy()
    return found


def score_all(
    forecasters: Mapping[Run, Forecast],
    dataset: WindowDataset,
    batch_size: int,
    work: Work,
    workers: int = 0,
    yardsticks: Yardsticks | None = None,
) -> Scores:
    """Scores every forecaster on all windows of `dataset`; those that a killed run had finished are kept in `work`.

    yardsticks: by default `Yardsticks.plain`. Raises UserError if there is no window.
    """
    store = dataset.store
    if not len(dataset):
        raise UserError(f"{store.path} has no test window; give ingest.splits.test a larger share")
    yardsticks = yardsticks or Yardsticks.plain(store.description)
    batches = loader(dataset, batch_size, workers)
    variables = tuple(variable.name for variable in store.description.variables)
    shape = (len(yardsticks.metrics), len(dataset), store.windows.t_out, len(variables))
    values, sums = {}, {}
    for run in forecasters:
        if not work.has(str(run)):
            with work.part(str(run)) as part:
                part.mkdir()
                rows = np.lib.format.open_memmap(part / "values.npy", mode="w+", dtype=np.float64, shape=shape)
                tallied = score(run, forecasters[run], _read_once(batches, dataset), len(batches), yardsticks, rows)
                rows.flush()
                np.savez(part / "sums.npz", allow_pickle=False, **tallied)
        values[run] = np.load(work.path(str(run)) / "values.npy", mmap_mode="r", allow_pickle=False)
        with np.load(work.path(str(run)) / "sums.npz", allow_pickle=False) as archive:
            sums[run] = {name: archive[name] for name in archive.files}
    simulation, domains = simulations(store, dataset.numbers)
    leads = lead_hours(store)
    return Scores(yardsticks.metrics, dataset.numbers, leads, variables, values, simulation, domains, sums)


def _read_once(batches: Iterable[Batch], dataset: WindowDataset) -> Iterator[Batch]:
    """Batches of a split of any length, of whose record no more than one batch stays in memory."""
    for batch in batches:
        yield batch
        release(dataset.fields)


def simulations(
    store: Store, windows: NDArray[np.int64]
) -> tuple[NDArray[np.int32] | None, dict[str, NDArray[np.bool_]]]:
    """`simulation` and `domains` of `Scores`; nothing of both for a record without environments."""
    environment = store.window_environment
    if environment is None:
        return None, {}
    simulation = np.asarray(store.array("segment")[:])[store.windows.start[windows]]
    seen = np.array([each.seen for each in store.environments])[environment[windows]]
    return simulation, {} if seen.all() or not seen.any() else {"seen": seen, "unseen": ~seen}


def write_scores(scores: Scores, path: Path) -> None:
    """A Parquet table with a row for each run, metric, window, lead time and variable.

    `value` is a window's mean before the metric is finished: for rmse the mean *squared* error.
    """
    import pyarrow.parquet as pq

    writer = None
    for run in scores.values:
        for start in range(0, len(scores.windows), WINDOWS_AT_ONCE):
            table = _score_table(scores, run, slice(start, start + WINDOWS_AT_ONCE))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    if writer is not None:
        writer.close()


def _score_table(scores: Scores, run: Run, part: slice):  # type: ignore[no-untyped-def]  # pyarrow has no types
    import pyarrow as pa

    values = scores.values[run][:, part]
    metric, window, lead, variable = (axis.reshape(-1) for axis in np.indices(values.shape))
    return pa.table(
        {
            "model": _repeated(run.model, values.size),
            "method": _repeated(run.method or None, values.size),
            "seed": pa.array([run.seed] * values.size, pa.int64()),
            "window": scores.windows[part][window],
            "lead_hours": scores.lead_hours[lead],
            "variable": pa.DictionaryArray.from_arrays(variable.astype(np.int32), list(scores.variables)),
            "metric": pa.DictionaryArray.from_arrays(metric.astype(np.int32), list(scores.metrics)),
            "value": values.reshape(-1),
        }
    )


def _repeated(value: str | None, size: int):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array([None if value is None else 0] * size, pa.int32()), [value or ""])


def rows_by_lead(scores: Scores, metric: str) -> list[dict[str, str | float]]:
    """Rows for a plot: lead_hours, model (with its method), variable, the metric, its sd over seeds."""
    rows: list[dict[str, str | float]] = []
    for runs in scores.groups().values():
        values = np.stack([scores.by_lead(run, metric) for run in runs])
        for lead, hours in enumerate(scores.lead_hours):
            for index, variable in enumerate(scores.variables):
                over_seeds = values[:, lead, index]
                row: dict[str, str | float] = {
                    "lead_hours": float(hours),
                    "model": runs[0].name,
                    "variable": variable,
                    metric: float(over_seeds.mean()),
                    "sd_over_seeds": deviation(over_seeds),
                }
                rows.append(row)
    return rows


def deviation(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The sample standard deviation, 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def example_positions(windows: int, count: int) -> list[int]:
    """Which test windows are shown: evenly spaced over the split, so none is picked for its looks."""
    count = min(count, windows)
    return [(2 * index + 1) * windows // (2 * count) for index in range(count)]


@torch.no_grad()
def examples(forecasters: Mapping[Run, Forecast], batch: Batch) -> dict[str, NDArray[np.float32]]:
    """Fields for maps, physical units: `last_input` (B, C, H, W), `truth` and forecasts (B, T_out, C, H, W).

    Of a method's repeats the first stands for all, under the name "model method".
    """
    fields = {"last_input": batch.inputs[:, -1], "truth": batch.targets}
    for run in forecasters:
        if run.name not in fields:
            fields[run.name] = forecasters[run](batch)
    return {name: np.ascontiguousarray(field.float().numpy()) for name, field in fields.items()}
