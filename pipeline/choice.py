"""Which of the trained students is exported."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import UserError
from pipeline.params import Params


@dataclass(frozen=True)
class Candidate:
    """A trained student: where it lies, and its best validation error (MSE of z-scores)."""

    student: str
    method: str
    seed: int
    validation: float

    @property
    def folder(self) -> Path:
        return paths.distilled(self.student, self.method) / f"seed-{self.seed}"


def choose(params: Params) -> Candidate:
    """The best by validation of those that params.yaml trains and `export` allows; the test split has no say.

    Raises UserError if `export` names what is not trained, or a student is missing.
    """
    found = [_candidate(*names) for names in itertools.product(*exportable(params))]
    return min(found, key=lambda each: each.validation)


def exportable(params: Params) -> tuple[tuple[Any, ...], ...]:
    """The students, methods and seeds that `export` may choose from; raises UserError if it names an untrained one."""
    allowed: list[tuple[Any, ...]] = []
    for key, trained in (("student", params.students), ("method", params.methods), ("seed", params.seeds)):
        wanted = getattr(params.export, key)
        if wanted is not None and wanted not in trained:
            known = ", ".join(map(str, trained))
            raise UserError(f"params.yaml: export.{key} = {wanted!r} is not trained; {key}s: {known}")
        allowed.append(tuple(trained) if wanted is None else (wanted,))
    return tuple(allowed)


def _candidate(student: str, method: str, seed: int) -> Candidate:
    path = paths.distilled(student, method) / f"seed-{seed}" / "history.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; `dvc repro distill` trains it")
    rows = json.loads(path.read_text())
    return Candidate(student, method, seed, min(row["validation_prediction"] for row in rows))
