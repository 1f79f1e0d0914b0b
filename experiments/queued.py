"""DVC experiments by name: put into the queue, and what their students' training left, read without a checkout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.errors import UserError


class Training(NamedTuple):
    """One student's training: a row of `history` is an epoch, see pipeline/training.py."""

    student: str
    method: str
    seed: int
    history: list[dict[str, float]]

    @property
    def validation(self) -> list[float]:
        """MSE of z-scores on the validation split, by epoch."""
        return [row["validation_prediction"] for row in self.history]


def queue(name: str, settings: Iterable[str]) -> None:
    """Queues one experiment that ends after `distill`: the test split stays closed. `settings`: key=value."""
    options = [word for value in settings for word in ("-S", value)]
    subprocess.run(["dvc", "exp", "run", "--queue", "--name", name, *options, "distill"], check=True)


def trainings(name: str, seeds: Iterable[int]) -> Iterator[Training]:
    """Every student of an experiment that has been run; raises UserError for one that has not."""
    from dvc.api import DVCFileSystem

    listed = subprocess.run(["dvc", "exp", "list", "--name-only"], capture_output=True, text=True, check=True)
    if name not in listed.stdout.split():
        raise UserError(f"experiment {name} has not been run; `dvc exp run --run-all` runs what is queued")
    files: Any = DVCFileSystem(".", rev=name)
    for folder in sorted(files.ls("data/distill", detail=False)):
        student, _, method = folder.rpartition("/")[2].partition("-")
        for seed in seeds:
            yield Training(student, method, seed, json.loads(files.read_text(f"{folder}/seed-{seed}/history.json")))


def listed(values: Iterable[object]) -> str:
    """As `-S` takes a list."""
    return f"[{','.join(map(str, values))}]"
