"""How much worse a small model forecasts fires of the fire twin that are larger than those it has learnt from.

    python -m benchmarks.ood_gap --raw data/fetch

The student U-Net of width 8 is trained on the moderate fires, and once more with large fires among as many training
windows. Both forecast the same test windows of large fires: how far the first falls behind the second is due to
what it has not seen, and not to larger fires being harder. Errors are shares of persistence's mean squared error on
the same windows, so that hotter fires do not count for more. Without --raw the fires are simulated first.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import training
from pipeline.batch import Batch
from pipeline.datasets.fire_twin import LARGE, FireTwin
from pipeline.distillation import DistilledStudent, StudentObjective, distillation_loss
from pipeline.ingest import STORE, ingest
from pipeline.models import Problem
from pipeline.params import Distill, Environments, Fetch, Ingest, Runtime, Splits
from pipeline.store import Store
from pipeline.students.base import Student, build
from pipeline.windows import WindowDataset, loader
from pipeline.work import Work

VARIABLES = ("temperature", "smoke")
WIDTH = 8
APART = Environments(unseen={"heat_release_rate_MW": LARGE})
TOGETHER = Environments()


def ingested(raw: Path, environments: Environments, seed: int) -> Store:
    """4 -> 4 frames, two seconds apart."""
    splits = Splits(train=0.6, validation=0.2, test=0.2)
    settings = Ingest(variables=VARIABLES, t_in=4, t_out=4, step=2, stride=6, splits=splits, environments=environments)
    folder = Path("apart" if environments is APART else "together")
    folder.mkdir()
    ingest(FireTwin(Fetch(), settings, seed).open(raw), settings, folder, "nominal")
    return Store(folder / STORE)


def trained(store: Store, windows: int, epochs: int, seed: int) -> Student:
    """The student, on that many training windows."""
    settings = Distill(epochs=epochs, learning_rate=0.01, schedule="one-cycle", residual=True)
    torch.manual_seed(seed)
    statistics = store.description.statistics
    model = DistilledStudent(build("unet", Problem.of(store, residual=True), {"width": WIDTH}), None)
    model.student.normaliser.set(statistics.mean, statistics.std)
    objective = StudentObjective(statistics, distillation_loss("baseline", 0.5, 1.0), None, "raw")
    sets = WindowDataset(store, "train", limit=windows), WindowDataset(store, "validation")
    with Work("ood", params=[str(store.path), seed]) as work:
        training.fit(model, objective, *sets, settings, seed=seed, runtime=Runtime(), work=work, name="unet")
    return model.student


def squared_errors(student: Student | None, store: Store) -> dict[int, NDArray[np.float64]]:
    """By first frame of each test window: (C,) mean squared errors in physical units; None: of persistence."""
    errors: dict[int, NDArray[np.float64]] = {}
    for batch in loader(WindowDataset(store, "test"), 32):
        with torch.no_grad():
            forecast = student(batch.inputs).forecast if student else persistence(batch)
        squares = (forecast - batch.targets).double().square().mean(dim=(1, 3, 4)).numpy()
        errors |= dict(zip(store.windows.start[batch.windows.numpy()].tolist(), squares, strict=True))
    return errors


def persistence(batch: Batch) -> torch.Tensor:
    return batch.inputs[:, -1:].expand_as(batch.targets)


def large(store: Store) -> set[int]:
    """First frames of the windows of large fires."""
    of_window = store.window_environment
    assert of_window is not None
    power = np.array([environment.parameters["heat_release_rate_MW"] for environment in store.environments])
    return set(store.windows.start[power[of_window] >= LARGE[0]].tolist())


def compare(raw: Path, epochs: int, repeats: int, seed: int) -> None:
    apart, together = ingested(raw, APART, seed), ingested(raw, TOGETHER, seed)
    windows = min(len(WindowDataset(store, "train")) for store in (apart, together))
    print(f"{windows} training windows each, U-Net of width {WIDTH}, {epochs} epochs, {repeats} seeds")
    reference = squared_errors(None, apart) | squared_errors(None, together)
    in_both = large(apart) & set(squared_errors(None, together))
    groups = {
        "moderate fires, learnt from the like": (apart, set(squared_errors(None, apart)) - large(apart)),
        "large fires, never learnt from": (apart, large(apart)),
        "  those that both can forecast": (apart, in_both),
        "  the same, learnt from the like": (together, in_both),
    }
    errors: dict[str, list[dict[int, NDArray[np.float64]]]] = {"apart": [], "together": []}
    for repeat in range(repeats):
        for store in (apart, together):
            student = trained(store, windows, epochs, seed + repeat)
            errors[store.path.parent.name].append(squared_errors(student, store))
    print(f"{'':38} {'windows':>8} {'RMSE, K':>12} {'RMSE, 1/m':>14} {'MSE over that of persistence':>34}")
    for name, (store, starts) in groups.items():
        runs = [np.mean([found[start] for start in starts], axis=0) for found in errors[store.path.parent.name]]
        shares = np.array(runs) / np.mean([reference[start] for start in starts], axis=0)
        kelvin, smoke = np.sqrt(runs).mean(axis=0)
        told = [f"{share:.3f} +- {spread:.3f}" for share, spread in zip(shares.mean(0), shares.std(0), strict=True)]
        print(f"{name:38} {len(starts):8} {kelvin:12.3g} {smoke:14.3g} {told[0]:>20} {told[1]:>20}", flush=True)
    pairs = zip(errors["apart"], errors["together"], strict=True)
    ratios = [np.divide(*(np.mean([found[start] for start in in_both], axis=0) for found in pair)) for pair in pairs]
    for variable, of_seeds in zip(VARIABLES, np.transpose(ratios), strict=True):
        told = [f"{ratio:.2f}" for ratio in of_seeds]
        print(f"MSE of {variable}, never learnt from over learnt from the like, by seed: {', '.join(told)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="what stage fetch has written; default: simulate")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    raw = options.raw.resolve() if options.raw else Path("raw")
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        if options.raw is None:
            FireTwin(Fetch(), Ingest(variables=VARIABLES), options.seed).fetch(raw)
        compare(raw, options.epochs, options.repeats, options.seed)


if __name__ == "__main__":
    main()
