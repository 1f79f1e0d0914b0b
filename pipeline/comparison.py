"""Is a method better than another on these windows and seeds, or is it noise?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import Run, Scores, deviation
from pipeline.params import Evaluate

COVERAGE = 0.95
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """`method` minus `against` in MSE: below zero, `method` is better.

    low, high: the 95 % interval; None where there are fewer than two blocks of windows, or two simulations.
    domain: "seen" or "unseen" where only windows of such environments are compared.
    simulations: how many the windows come from, where the record consists of simulations.
    """

    student: str
    method: str
    against: str
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict
    seeds: int
    windows: int
    block_windows: int
    domain: str = ""
    simulations: int | None = None


def compare_all(scores: Scores, settings: Evaluate, seed: int) -> list[Comparison]:
    """Per student: the teacher and each method against the baseline, and S2-KD against FitNet.

    Over all windows, then over those of seen and of unseen environments, where there are both.
    """
    comparisons = []
    for domain in ("", *scores.domains):
        for student, methods in students(scores).items():
            pairs = [(method, "baseline") for method in ("teacher", *methods) if method != "baseline"]
            pairs = [pair for pair in [*pairs, ("s2kd", "fitnet")] if {*pair} <= {*methods, "teacher"}]
            for method, against in pairs:
                comparisons.append(_compare(scores, student, method, against, domain, settings, seed))
    return comparisons


def students(scores: Scores) -> dict[str, dict[str, list[Run]]]:
    """The repeats of each student's methods."""
    found: dict[str, dict[str, list[Run]]] = {}
    for (model, method), runs in scores.groups().items():
        if method:
            found.setdefault(model, {})[method] = runs
    return found


def teacher_leads(comparison: Comparison) -> bool:
    """Whether the teacher is ahead of the baseline by more than chance (by any amount, if there is no interval)."""
    return comparison.verdict == "better" or (comparison.low is None and comparison.difference < 0)


def metrics_tree(scores: Scores, comparisons: list[Comparison]) -> dict[str, Any]:
    """References and the teacher -> metric; student -> method -> metric, its sd over seeds, share of the lead.

    The share is left out where the teacher does not lead: a ratio to nothing means nothing.
    """
    led = {each.student for each in comparisons if each.method == "teacher" and not each.domain and teacher_leads(each)}
    tree: dict[str, Any] = {}
    for (model, method), runs in scores.groups().items():
        leaf = _leaf(scores, runs)
        if not method:
            tree[model] = leaf
            continue
        share = _share_of_lead(scores, model, method) if model in led else {}
        tree.setdefault(model, {})[method] = leaf | share
    return tree


def bootstrap_interval(
    difference: NDArray[np.float64], block: int, samples: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean of `difference` (S seeds, N windows), over seeds and windows.

    Windows overlap and weather lasts, so whole blocks of consecutive windows are drawn (circular block
    bootstrap, Politis and Romano 1992), and seeds beside them. None if there are fewer than two blocks.
    """
    seeds, windows = difference.shape
    if windows < 2 * block:
        return None
    generator = np.random.default_rng(seed)
    difference = _stretched(difference)
    wrapped = np.concatenate([np.zeros((seeds, 1)), np.cumsum(np.tile(difference, 2), axis=1)], axis=1)
    block_means = (wrapped[:, block : windows + block] - wrapped[:, :windows]) / block  # (S, N): one for each start
    starts = generator.integers(windows, size=(samples, windows // block))
    drawn = generator.integers(seeds, size=(samples, seeds))
    return _quantiles(block_means[drawn[:, :, None], starts[:, None, :]].mean((1, 2)))


def simulation_interval(
    difference: NDArray[np.float64], simulation: NDArray[np.int32], samples: int, seed: int
) -> tuple[float, float] | None:
    """The same over seeds and whole simulations: windows of one simulation share its fate.

    simulation: (N,) the number of each window's. None if there are fewer than two.
    """
    numbers, of_window = np.unique(simulation, return_inverse=True)
    seeds, count = len(difference), len(numbers)
    if count < 2:
        return None
    generator = np.random.default_rng(seed)
    stretched = _stretched(difference)
    sums = np.stack([np.bincount(of_window, weights=row, minlength=count) for row in stretched])  # (S, K)
    sizes = np.bincount(of_window, minlength=count)
    chosen = generator.integers(count, size=(samples, count))
    drawn = generator.integers(seeds, size=(samples, seeds))
    totals = sums[drawn[:, :, None], chosen[:, None, :]].sum((1, 2))
    means = totals / (seeds * sizes[chosen].sum(1))
    centre = stretched.mean()
    return _quantiles(centre + np.sqrt(count / (count - 1)) * (means - centre))


def _stretched(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of S drawn seeds varies by (S - 1) / S too little, which three seeds would feel: deviations of
    the seeds' means are stretched by the root of S / (S - 1)."""
    seeds = len(difference)
    if seeds == 1:
        return difference
    of_seed = difference.mean(1, keepdims=True)
    stretched: NDArray[np.float64] = difference + (np.sqrt(seeds / (seeds - 1)) - 1) * (of_seed - of_seed.mean())
    return stretched


def _quantiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def as_json(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    return [asdict(comparison) for comparison in comparisons]


def _compare(
    scores: Scores, student: str, method: str, against: str, domain: str, settings: Evaluate, seed: int
) -> Comparison:
    inside = scores.inside(domain)
    difference = (_per_window(scores, student, method) - _per_window(scores, student, against))[:, inside]
    if scores.simulation is None:
        simulations = None
        interval = bootstrap_interval(difference, settings.block_windows, settings.bootstrap_samples, seed)
    else:
        simulation = scores.simulation[inside]
        simulations = len(np.unique(simulation))
        interval = simulation_interval(difference, simulation, settings.bootstrap_samples, seed)
    low, high = interval or (None, None)
    return Comparison(
        student=student,
        method=method,
        against=against,
        difference=float(difference.mean()),
        low=low,
        high=high,
        verdict=_verdict(low, high),
        seeds=difference.shape[0],
        windows=difference.shape[1],
        block_windows=settings.block_windows,
        domain=domain,
        simulations=simulations,
    )


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is not None and high is not None and (high < 0 or low > 0):
        return "better" if high < 0 else "worse"
    return "not distinguishable"


def _per_window(scores: Scores, student: str, method: str) -> NDArray[np.float64]:
    """(S, N) MSE of each repeat and window; (1, N) for the teacher. Repeats of one seed form a pair."""
    runs = [Run("teacher")] if method == "teacher" else students(scores)[student][method]
    return np.stack([scores.of(run, "mse").mean((1, 2)) for run in runs])


def _leaf(scores: Scores, runs: list[Run]) -> dict[str, float]:
    leaf = {}
    for name, metric in scores.metrics.items():
        if metric.across_variables:
            values = [scores.score(run, name) for run in runs]
            leaf[name] = float(np.mean(values))
            if len(runs) > 1:
                leaf[f"{name}_sd"] = deviation(values)
        for domain in scores.domains if metric.across_variables else ():
            leaf[f"{name}_{domain}"] = float(np.mean([scores.score(run, name, domain) for run in runs]))
    return leaf


def _share_of_lead(scores: Scores, student: str, method: str) -> dict[str, float]:
    """(baseline - method) / (baseline - teacher) in MSE; the sd is that of the share of each pair of repeats."""
    if method == "baseline" or "baseline" not in students(scores)[student]:
        return {}
    baseline, taught = (_per_window(scores, student, name).mean(1) for name in ("baseline", method))
    lead = baseline.mean() - scores.score(Run("teacher"), "mse")
    shares = (baseline - taught) / lead
    return {"share_of_lead": float(shares.mean())} | (
        {"share_of_lead_sd": deviation(shares)} if len(shares) > 1 else {}
    )
