"""Results of several commits or experiments side by side, read from DVC without touching the workspace.

Scores of two revisions are held against each other window by window and seed by seed, so they must be of the same
test windows. Equal numbers do not make equal windows: the errors of persistence, which only the data decide, must
agree as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import paths, provenance, tables
from pipeline.comparison import Verdict, bootstrap_means, interval, samples_needed, simulation_means
from pipeline.errors import UserError
from pipeline.results import Results

WORKSPACE = "workspace"
SAMPLES = 2000  # of the bootstrap, at least
SEED = 42  # of the bootstrap
WHAT = (  # of setup.json, and how people call it
    ("variables", "variables"),
    ("grid", "grids"),
    ("step_hours", "time steps"),
    ("t_in", "numbers of input frames"),
    ("t_out", "numbers of target frames"),
)


@dataclass(frozen=True)
class Revision:
    """name: as it was asked for. commit: None for the workspace. parameters: key with dots -> value."""

    name: str
    commit: str | None
    results: Results
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One forecaster's MSE at `revision` minus that at `against`: below zero, `revision` is better.

    low, high: the 95 % interval; corrected ones for all differences of the page, by which the verdict goes.
    """

    revision: str
    against: str
    model: str
    difference: float
    low: float | None
    high: float | None
    corrected_low: float | None
    corrected_high: float | None
    verdict: Verdict
    seeds: int


def read(name: str, folder: Path, root: Path = Path()) -> Revision:
    """A revision's data/evaluate, copied into `folder` from cache or remote; "workspace" is read where it lies.

    Raises UserError if there is no such revision, or if it has no results, or if nobody has pushed them, or if they
    are of another version that wrote less than is read here.
    """
    if name == WORKSPACE:
        text = (root / "params.yaml").read_text()
        return Revision(name, None, Results(root / paths.EVALUATE), provenance.flat_parameters(text))
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    try:
        files = DVCFileSystem(str(root.absolute()), rev=name)
        text = files.read_text("params.yaml")
        files.get(str(paths.EVALUATE), str(folder), recursive=True)
        commit = str(files.repo.get_rev())
    except RevError:
        raise UserError(f"'{name}' is no commit, branch, tag or experiment; `dvc exp list` names experiments") from None
    except (FileNotFoundError, DvcException) as error:
        hint = f"`dvc pull --rev {name}` is not possible; check it out and run `dvc repro evaluate`, or push it"
        raise UserError(f"{name} has no {paths.EVALUATE} in the cache or a remote ({error}); {hint}") from None
    results = Results(folder, f"{name}:{paths.EVALUATE}")
    return Revision(name, commit, results, provenance.flat_parameters(text))


def not_comparable(one: Results, other: Results) -> str | None:
    """Why scores of two revisions cannot be held against each other; None if they can."""
    for key, words in WHAT:
        if one.setup[key] != other.setup[key]:
            return f"their {words} differ"
    mine, theirs = (_per_window(results, "persistence") for results in (one, other))
    if mine.columns.tolist() != theirs.columns.tolist():
        return "their test windows differ"
    if not np.allclose(mine, theirs, rtol=1e-4):
        return "their test windows have the same numbers and other data: persistence errs differently"
    return None


def differences(revisions: Sequence[Revision]) -> list[Difference]:
    """Every forecaster of each later revision against the same one of the first, where they are comparable.

    Without those that err equally on every window, a baseline that no parameter changed for one: nothing is in
    question there, and counting them would widen the intervals of the others.
    """
    first = revisions[0]
    pairs = [
        (other, model)
        for other in revisions[1:]
        if not_comparable(first.results, other.results) is None
        for model in tables.forecasters(other.results)
        if model in tables.forecasters(first.results)
        if not _per_window(first.results, model).equals(_per_window(other.results, model))
    ]
    return [_difference(first, other, model, len(pairs)) for other, model in pairs]


def changed_parameters(revisions: Sequence[Revision]) -> dict[str, list[Any]]:
    """The parameters that differ between any two, with every revision's value (None where it has none)."""
    keys = dict.fromkeys(key for revision in revisions for key in revision.parameters)
    values = {key: [revision.parameters.get(key) for revision in revisions] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _difference(first: Revision, other: Revision, model: str, comparisons: int) -> Difference:
    mine, theirs = (_per_window(revision.results, model) for revision in (other, first))
    common = [seed for seed in mine.index if seed in theirs.index]
    if common:
        values = mine.loc[common].to_numpy() - theirs.loc[common].to_numpy()
        means = _means(first.results, values, samples_needed(SAMPLES, comparisons))
    else:  # seeds cannot be paired, and what they add to the spread is unknown
        values = (mine.mean() - theirs.mean()).to_numpy()[None]
        means = None
    low, high = (None, None) if means is None else interval(means)
    corrected_low, corrected_high = (None, None) if means is None else interval(means, comparisons)
    return Difference(
        revision=other.name,
        against=first.name,
        model=model,
        difference=float(values.mean()),
        low=low,
        high=high,
        corrected_low=corrected_low,
        corrected_high=corrected_high,
        verdict=_verdict(corrected_low, corrected_high),
        seeds=len(common),
    )


def _means(results: Results, values: NDArray[np.float64], samples: int) -> NDArray[np.float64] | None:
    """Bootstrap means of (S, N) differences, over seeds and blocks of windows or whole simulations.

    None where they cannot be had: too few blocks, or an older evaluation that does not tell the simulations.
    """
    simulation = results.setup["simulation"]
    if simulation is not None:
        return simulation_means(values, np.array(simulation, dtype=np.int32), samples, SEED)
    if results.setup["environments"]:
        return None
    return bootstrap_means(values, results.comparisons[0].block_windows, samples, SEED) if results.comparisons else None


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is not None and high is not None and (high < 0 or low > 0):
        return "better" if high < 0 else "worse"
    return "not distinguishable"


def _per_window(results: Results, model: str) -> pd.DataFrame:
    """MSE of a forecaster over lead times and variables: a row for each seed (-1 without), a column for each window."""
    student, _, method = model.partition(" ")
    scores = results.scores[results.scores["metric"] == "mse"]
    if student in results.students:
        rows = scores[(scores["model"] == student) & (scores["method"] == method)]
    else:
        rows = scores[scores["model"] == model]
    rows = rows.assign(seed=rows["seed"].fillna(-1).astype(int))
    return rows.groupby(["seed", "window"])["value"].mean().unstack("window").sort_index(axis=1)
