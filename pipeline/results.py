"""The files of data/evaluate: written by `evaluate`, read by the main table and the report.

    metrics.json       DVC metrics: student -> method -> score           differences.json  comparisons
    scores.parquet     a value per run, window, lead time and variable   cost.json         parameters, latency
    rmse_by_lead.csv, mse_by_lead.csv, training.csv   DVC plots          setup.json        what was compared
    examples.npz, examples.json                       fields, time stamps and captions of a few windows
    captions.json                                     how varied the captions are, and how true of the fields
    int8.json          the exported student in 8 bits, where `export.int8` asks for it
    field.csv, extremes.csv, spectra.csv, sharpness.csv, rollout.csv, climatology.npz   see pipeline/diagnostics.py

Latency alone differs between two equal runs, so it lies apart from the rest, in cost.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import paths
from pipeline.comparison import Comparison, Precisions, as_json, metrics_tree
from pipeline.cost import Cost
from pipeline.errors import UserError
from pipeline.evaluation import Run, Scores, rows_by_lead, write_scores
from pipeline.store import SPLITS, Store
from pipeline.work import write_json

INT8 = "int8.json"
SETUP = (  # keys of setup.json without which nothing can be made of it
    *("description", "variables", "grid", "frames", "time_stamps", "first_frame", "last_frame"),
    *("t_in", "t_out", "step_hours", "windows", "metrics", "runs"),
)
# and those that older files lack, with what that means
LATER: dict[str, Any] = {"legends": {}, "environments": [], "simulation": None, "domains": {}}
CAPTIONS = ("number", "captioner", "model", "words", "distinct_share", "failed_share", "grounding")


def write_evaluation(folder: Path, scores: Scores, comparisons: list[Comparison], costs: Mapping[str, Cost]) -> None:
    """All that follows from the scores, and the costs of teacher and students."""
    write_json(folder / "metrics.json", metrics_tree(scores, comparisons))
    write_json(folder / "differences.json", as_json(comparisons))
    write_json(folder / "cost.json", {name: asdict(cost) for name, cost in costs.items()})
    write_scores(scores, folder / "scores.parquet")
    for metric in ("rmse", "mse"):
        _write_csv(folder / f"{metric}_by_lead.csv", pd.DataFrame(rows_by_lead(scores, metric)))


def write_precisions(folder: Path, precisions: Precisions) -> None:
    write_json(folder / INT8, asdict(precisions))


def write_setup(folder: Path, store: Store, scores: Scores, legends: Mapping[str, str]) -> None:
    """What was compared: the data set, the windows, the metrics' definitions, the models.

    legends: what the columns of the tables beside the metrics are.
    """
    description, windows = store.description, store.windows
    grid = description.grid
    write_json(
        folder / "setup.json",
        {
            "description": description.text,
            "variables": [asdict(variable) for variable in description.variables],
            "grid": {"dims": list(grid.dims), "y": grid.y.tolist(), "x": grid.x.tolist(), "units": grid.units},
            "frames": len(store.times),
            "time_stamps": description.time_stamps,
            "first_frame": str(store.times[0]),
            "last_frame": str(store.times[-1]),
            "t_in": windows.t_in,
            "t_out": windows.t_out,
            "step_hours": windows.step * description.frame_seconds / 3600,
            "windows": {split: int((windows.split == number).sum()) for number, split in enumerate(SPLITS)},
            "metrics": {
                name: {"title": metric.title, "label": metric.label, "across_variables": metric.across_variables}
                for name, metric in scores.metrics.items()
            },
            "legends": dict(legends),
            "runs": [asdict(run) for run in scores.values],
            "environments": [asdict(environment) for environment in store.environments],
            "simulation": None if scores.simulation is None else scores.simulation.tolist(),
            "domains": {domain: int(inside.sum()) for domain, inside in scores.domains.items()},
        },
    )


def write_training(folder: Path, models: Mapping[Run, Path]) -> None:
    """training.csv from each model's history: a row for each run and epoch; terms that a method lacks stay empty."""
    rows = []
    for run, path in models.items():
        history = json.loads((path / "history.json").read_text())
        rows += [{"run": str(run), **asdict(run), **row} for row in history]
    _write_csv(folder / "training.csv", pd.DataFrame(rows).astype({"seed": "Int64", "epoch": "int64"}))


def write_examples(
    folder: Path,
    store: Store,
    windows: NDArray[np.int64],
    fields: Mapping[str, NDArray[np.float32]],
    captions: Sequence[str],
) -> None:
    """Fields of the example windows, with what a reader needs to place them."""
    np.savez_compressed(folder / "examples.npz", allow_pickle=False, **fields)
    rows = []
    for window in windows.tolist():
        last_input = store.times[store.windows.input_frames(window)[-1]]
        rows.append({"window": window, "last_input": str(last_input), "caption": captions[window]})
    write_json(folder / "examples.json", rows)


T = TypeVar("T")
TIME_UNITS = (("h", 1.0), ("min", 60.0), ("s", 3600.0))


def _optional_csv(name: str) -> cached_property[pd.DataFrame | None]:
    """A table's rows; None where there are none, such as roll-outs that were not asked for, or no file."""

    def read(results: Results) -> pd.DataFrame | None:
        rows = results._csv(name) if (results.folder / name).is_file() else pd.DataFrame()
        return None if rows.empty else rows

    return cached_property(read)


class Results:
    """data/evaluate, opened for reading."""

    def __init__(self, folder: Path = paths.EVALUATE, called: str = "") -> None:
        """`called`: what people know the folder as, where it is a copy.

        Raises UserError if a file is missing, or is of another version of s2kd and lacks what is read here.
        """
        self.folder = folder
        self.called = called or str(folder)
        self.metrics: dict[str, Any] = self._json("metrics.json")
        self.costs = {name: self._record("cost.json", Cost, cost) for name, cost in self._json("cost.json").items()}
        self.comparisons = [self._record("differences.json", Comparison, row) for row in self._json("differences.json")]
        self.setup: dict[str, Any] = LATER | self._with("setup.json", SETUP)
        self.captions = self._with("captions.json", CAPTIONS)

    @cached_property
    def precisions(self) -> Precisions | None:
        """The exported student in float32 and in 8 bits; None where 8 bits were not asked for."""
        if not (self.folder / INT8).is_file():
            return None
        found = self._json(INT8)
        return Precisions(Run(**found["run"]), found["scores"], self._record(INT8, Comparison, found["comparison"]))

    @cached_property
    def runs(self) -> list[Run]:
        return [Run(**run) for run in self.setup["runs"]]

    @cached_property
    def time_unit(self) -> tuple[str, float]:
        """The unit that lead times are told in, and how many of it make an hour."""
        step = self.setup["step_hours"]
        return next((unit, each) for unit, each in TIME_UNITS if step * each >= 0.999 or unit == "s")

    def duration(self, hours: float) -> str:
        """A time with its unit, as people write it."""
        unit, each = self.time_unit
        return f"{round(hours * each, 6):g} {unit}"

    def time_text(self, time: str) -> str:
        """A time stamp as the record counts time; without seconds where frames are whole minutes apart."""
        clock = {"calendar": "UTC", "local": "local time", "nominal": "(nominal)"}[self.setup["time_stamps"]]
        text = time.replace("T", " ").removesuffix(".000")
        whole_minutes = (self.setup["step_hours"] * 60).is_integer()
        return f"{text.removesuffix(':00') if whole_minutes else text} {clock}"

    @cached_property
    def students(self) -> dict[str, list[str]]:
        """The methods of each student, in the order of params.yaml."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            if run.method and run.method not in found.setdefault(run.model, []):
                found[run.model].append(run.method)
        return found

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs if run.seed is not None and run.method})

    @cached_property
    def rmse(self) -> pd.DataFrame:
        return self._csv("rmse_by_lead.csv")

    @cached_property
    def training(self) -> pd.DataFrame:
        """Rows of training.csv; `method` is empty for the teacher."""
        return self._csv("training.csv").fillna({"method": ""})

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Rows of scores.parquet; `method` and `seed` are missing where a forecaster has none."""
        return pd.read_parquet(self._existing("scores.parquet"))

    field = _optional_csv("field.csv")  # the metrics that a domain is used to
    extremes = _optional_csv("extremes.csv")
    spectra = _optional_csv("spectra.csv")
    sharpness = _optional_csv("sharpness.csv")
    rollout = _optional_csv("rollout.csv")

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._json("examples.json")
        return rows

    @cached_property
    def fields(self) -> dict[str, NDArray[np.float32]]:
        with np.load(self._existing("examples.npz"), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def _json(self, name: str) -> Any:
        return json.loads(self._existing(name).read_text())

    def _with(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        """A file's tree, which must have these keys."""
        tree: dict[str, Any] = self._json(name)
        self._check_keys(name, [key for key in keys if key not in tree])
        return tree

    def _record(self, name: str, kind: type[T], row: dict[str, Any]) -> T:
        """One record of a file as a data class; keys that the class does not know are of a later version."""
        known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
        required = [key for key, field in known.items() if field.default is MISSING]
        self._check_keys(name, [key for key in required if key not in row])
        return kind(**{key: value for key, value in row.items() if key in known})

    def _check_keys(self, name: str, missing: list[str]) -> None:
        if missing:
            raise UserError(
                f"{self.called}/{name} has no {', '.join(missing)}: another version of s2kd wrote it; "
                "`dvc repro evaluate` with this version's code writes it anew"
            )

    def _csv(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self._existing(name))

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise UserError(
                f"{self.called}/{name} is missing; `dvc repro evaluate` makes it, `dvc pull evaluate` fetches it"
            )
        return path


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    path.write_text(table.to_csv(index=False, lineterminator="\n"))
