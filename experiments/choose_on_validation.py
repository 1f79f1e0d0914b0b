"""Weights and scales of the distillation target held against each other on the validation split alone.

    python -m experiments.choose_on_validation > chosen.csv

Needs data/ as far as `dump_features`. Trains students with the settings of params.yaml for every combination below,
each method with the same number of runs, and prints the best validation MSE of every run. The test split is never
opened. The rule: take the pair of `lambda` and `distill.target_scale` with the lowest mean over methods and seeds,
then confirm it with another `seed`, which simulates another record.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pipeline import params as parameters
from pipeline import paths, training
from pipeline.distillation import DistilledStudent, StudentObjective, distillation_loss
from pipeline.features import Features
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.store import Store
from pipeline.students.base import build
from pipeline.windows import WindowDataset
from pipeline.work import Work

METHODS = ("s2kd", "fitnet")
SCALES = ("centred", "standardised", "raw")
LAMBDAS = (0.01, 0.03, 0.1, 0.3)
SEEDS = (1, 2, 3)  # of the students; none of them is one of the default's


def combinations() -> Iterator[tuple[str, str, float, int]]:
    """Method, target scale, lambda and seed; the baseline knows neither scale nor lambda."""
    yield from (("baseline", "raw", 0.0, seed) for seed in SEEDS)
    yield from product(METHODS, SCALES, LAMBDAS, SEEDS)


def best_validation(params: Params, method: str, scale: str, lambda_: float, seed: int) -> float:
    """The lowest validation MSE of one student's training."""
    store, settings, student = Store(paths.STORE), params.distill, params.students[0]
    loss = distillation_loss(method, params.beta, lambda_, settings)
    features = Features(paths.features(loss.teacher)) if loss.uses_features else None
    statistics = store.description.statistics
    torch.manual_seed(seed)
    problem = Problem.of(store, settings.residual)
    model = DistilledStudent(build(student, problem, settings.sizes.get(student, {})), features, loss)
    model.student.normaliser.set(statistics.mean, statistics.std)
    common: dict[str, Any] = {"seed": seed, "runtime": params.runtime, "name": f"{method}, seed {seed}"}
    with tempfile.TemporaryDirectory() as folder:
        paths.WORK = Path(folder)  # its checkpoints are not worth keeping
        with Work("choose") as work:
            history = training.fit(
                model,
                StudentObjective(statistics, loss, features, scale),
                WindowDataset(store, "train", features=features, limit=settings.train_windows),
                WindowDataset(store, "validation", features=features),
                settings,
                work=work,
                **common,
            )
    return min(row["validation_prediction"] for row in history)


def main() -> None:
    params = parameters.load()
    table = csv.writer(sys.stdout)
    table.writerow(["method", "target_scale", "lambda", "seed", "validation_mse"])
    for method, scale, lambda_, seed in combinations():
        mse = best_validation(params, method, scale, lambda_, seed)
        table.writerow([method, scale, lambda_, seed, f"{mse:.5f}"])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
