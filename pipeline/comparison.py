"""Is a method better than another on these windows and seeds, or is it noise?

Many comparisons are printed together, and among twenty of noise alone one is expected outside its 95 % interval.
Verdicts therefore go by Bonferroni's correction: the interval of 1 - 0.05 / m where m are printed. Holm's is a
little stronger, but rejects in steps and gives no interval to print. Bonferroni's all hold together with 95 %
confidence, however the comparisons depend on each other, and here they share windows, seeds and baselines.

A bootstrap of five seeds knows nothing beyond the furthest of them, which is where such limits lie. Its deviations
are therefore given Student's tails, with the degrees of freedom of seeds and blocks (Welch and Satterthwaite).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import Run, Scores, deviation
from pipeline.params import Evaluate

COVERAGE = 0.95
BEYOND = 25  # bootstrap samples beyond each limit of the corrected interval, at least
AT_ONCE = 500  # bootstrap samples, so that memory does not grow with their number
TEACHERS = ("teacher", "vision teacher")
AGAINST_EACH_OTHER = (
    ("teacher", "vision teacher"),  # what the text adds to the teacher
    ("s2kd", "fitnet"),
    ("s2kd", "semantic"),  # what the spectral term adds
    ("s2kd", "s2kd_vision"),  # what the text adds
)
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """`method` minus `against` in MSE: below zero, `method` is better.

    student: empty where one teacher is compared with the other.
    low, high: the 95 % interval; None where there are fewer than two blocks of windows, or two simulations.
    corrected_low, corrected_high: the same, corrected for `comparisons` printed together; the verdict goes by it.
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
    corrected_low: float | None = None
    corrected_high: float | None = None
    comparisons: int = 1


@dataclass(frozen=True)
class Precisions:
    """One trained student, `run`, forecasting in float32 and in 8 bits.

    scores: "float32" and "int8" -> metric, as in the tree of metrics. comparison: int8 minus float32.
    """

    run: Run
    scores: dict[str, dict[str, float]]
    comparison: Comparison


def compare_all(scores: Scores, settings: Evaluate, seed: int) -> list[Comparison]:
    """Per student: the teachers and each method against the baseline, and S2-KD against its rivals and controls.

    Over all windows, then over those of seen and of unseen environments, where there are both. The teachers against
    each other are no student's, and compared once.
    """
    chosen = dict.fromkeys(
        ("" if against in TEACHERS else student, method, against, domain)
        for domain in ("", *scores.domains)
        for student, methods in students(scores).items()
        for method, against in _pairs(scores, list(methods))
    )
    return [_compare(scores, *each, settings, seed, len(chosen)) for each in chosen]


def compare_precisions(run: Run, scores: Scores, quantised: Scores, settings: Evaluate, seed: int) -> Precisions:
    """What 8 bits cost the student of `run`. quantised: the scores of its 8-bit model alone, on the same windows.

    One question beside those of the methods, so it is not among the comparisons that theirs are corrected for.
    """
    (int8,) = quantised.values
    difference = (quantised.of(int8, "mse") - scores.of(run, "mse")).mean((1, 2))[None]
    return Precisions(
        run=run,
        scores={"float32": _leaf(scores, [run]), "int8": _leaf(quantised, [int8])},
        comparison=_judged(scores, (run.model, "int8", "float32", ""), difference, settings, seed, 1),
    )


def _pairs(scores: Scores, methods: list[str]) -> list[tuple[str, str]]:
    present = {*methods, *(name for name in TEACHERS if Run(name) in scores.values)}
    pairs = [(method, "baseline") for method in (*TEACHERS, *methods) if method != "baseline"]
    return [pair for pair in (*pairs, *AGAINST_EACH_OTHER) if present.issuperset(pair)]


def students(scores: Scores) -> dict[str, dict[str, list[Run]]]:
    """The repeats of each student's methods."""
    found: dict[str, dict[str, list[Run]]] = {}
    for (model, method), runs in scores.groups().items():
        if method:
            found.setdefault(model, {})[method] = runs
    return found


def teacher_leads(comparison: Comparison) -> bool:
    """Whether a comparison of the teacher with the baseline has it ahead by more than chance (or without interval)."""
    return comparison.verdict == "better" or (comparison.low is None and comparison.difference < 0)


def metrics_tree(scores: Scores, comparisons: list[Comparison]) -> dict[str, Any]:
    """References and the teacher -> metric; student -> method -> metric, its sd over seeds, share of the lead.

    The share is left out where the teacher does not lead: a ratio to nothing means nothing.
    """
    key = ("teacher", "baseline", "")
    led = {c.student for c in comparisons if (c.method, c.against, c.domain) == key and teacher_leads(c)}
    tree: dict[str, Any] = {}
    for (model, method), runs in scores.groups().items():
        leaf = _leaf(scores, runs)
        if not method:
            tree[model] = leaf
            continue
        share = _share_of_lead(scores, model, method) if model in led else {}
        tree.setdefault(model, {})[method] = leaf | share
    return tree


def bootstrap_means(difference: NDArray[np.float64], block: int, samples: int, seed: int) -> NDArray[np.float64] | None:
    """(samples,) means of `difference` (S seeds, N windows), over drawn seeds and windows, with Student's tails.

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
    means = np.empty(samples)
    for start in range(0, samples, AT_ONCE):
        count = len(means[start : start + AT_ONCE])
        starts = generator.integers(windows, size=(count, 1, windows // block))
        drawn = generator.integers(seeds, size=(count, seeds, 1))
        means[start : start + count] = block_means[drawn, starts].mean((1, 2))
    return _with_students_tails(means, difference, windows // block, generator)


def simulation_means(
    difference: NDArray[np.float64], simulation: NDArray[np.int32], samples: int, seed: int
) -> NDArray[np.float64] | None:
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
    means = np.empty(samples)
    for start in range(0, samples, AT_ONCE):
        size = len(means[start : start + AT_ONCE])
        chosen = generator.integers(count, size=(size, 1, count))
        drawn = generator.integers(seeds, size=(size, seeds, 1))
        means[start : start + size] = sums[drawn, chosen].sum((1, 2)) / (seeds * sizes[chosen].sum((1, 2)))
    centre = stretched.mean()
    means = centre + np.sqrt(count / (count - 1)) * (means - centre)
    return _with_students_tails(means, difference, count, generator)


def _with_students_tails(
    means: NDArray[np.float64], difference: NDArray[np.float64], pieces: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Bootstrap means whose deviations are divided by the root of a chi-square over its degrees of freedom.

    difference: (S, N) as observed. pieces: blocks or simulations. Freedom is shared out between both as their
    variances are (Satterthwaite 1946, Biometrics Bulletin 2): one source alone gives its own number less one.
    """
    seeds, variance = len(difference), means.var()
    if variance == 0:
        return means
    of_seeds = min(difference.mean(1).var(ddof=1) / seeds, variance) if seeds > 1 else 0.0
    freedom = variance**2 / (of_seeds**2 / max(seeds - 1, 1) + (variance - of_seeds) ** 2 / max(pieces - 1, 1))
    scale = np.sqrt(generator.chisquare(freedom, len(means)) / freedom)
    return np.asarray(difference.mean() + (means - difference.mean()) / scale)


def samples_needed(samples: int, comparisons: int) -> int:
    """`samples`, or as many more as leave some beyond the limits of a corrected interval."""
    return max(samples, math.ceil(2 * BEYOND * comparisons / (1 - COVERAGE)))


def interval(means: NDArray[np.float64], comparisons: int = 1) -> tuple[float, float]:
    """The 95 % percentile interval, by Bonferroni's correction for that many of them."""
    beyond = (1 - COVERAGE) / comparisons / 2
    low, high = np.quantile(means, [beyond, 1 - beyond])
    return float(low), float(high)


def _stretched(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of S drawn seeds varies by (S - 1) / S too little, which three seeds would feel: deviations of
    the seeds' means are stretched by the root of S / (S - 1)."""
    seeds = len(difference)
    if seeds == 1:
        return difference
    of_seed = difference.mean(1, keepdims=True)
    stretched: NDArray[np.float64] = difference + (np.sqrt(seeds / (seeds - 1)) - 1) * (of_seed - of_seed.mean())
    return stretched


def as_json(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    return [asdict(comparison) for comparison in comparisons]


def _compare(
    scores: Scores,
    student: str,
    method: str,
    against: str,
    domain: str,
    settings: Evaluate,
    seed: int,
    comparisons: int,
) -> Comparison:
    difference = _per_window(scores, student, method) - _per_window(scores, student, against)
    return _judged(scores, (student, method, against, domain), difference, settings, seed, comparisons)


def _judged(
    scores: Scores,
    names: tuple[str, str, str, str],
    difference: NDArray[np.float64],
    settings: Evaluate,
    seed: int,
    comparisons: int,
) -> Comparison:
    """The intervals of a difference (S, N) in MSE, of which the windows of the domain count.

    names: student, method, against and domain. scores: where the windows come from.
    """
    student, method, against, domain = names
    inside = scores.inside(domain)
    difference = difference[:, inside]
    simulation = None if scores.simulation is None else scores.simulation[inside]
    samples = samples_needed(settings.bootstrap_samples, comparisons)
    if simulation is None:
        means = bootstrap_means(difference, settings.block_windows, samples, seed)
    else:
        means = simulation_means(difference, simulation, samples, seed)
    low, high = (None, None) if means is None else interval(means)
    corrected_low, corrected_high = (None, None) if means is None else interval(means, comparisons)
    return Comparison(
        student=student,
        method=method,
        against=against,
        difference=float(difference.mean()),
        low=low,
        high=high,
        verdict=_verdict(corrected_low, corrected_high),
        seeds=difference.shape[0],
        windows=difference.shape[1],
        block_windows=settings.block_windows,
        domain=domain,
        simulations=None if simulation is None else len(np.unique(simulation)),
        corrected_low=corrected_low,
        corrected_high=corrected_high,
        comparisons=comparisons,
    )


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is not None and high is not None and (high < 0 or low > 0):
        return "better" if high < 0 else "worse"
    return "not distinguishable"


def _per_window(scores: Scores, student: str, method: str) -> NDArray[np.float64]:
    """(S, N) MSE of each repeat and window; (1, N) for a teacher. Repeats of one seed form a pair."""
    runs = [Run(method)] if method in TEACHERS else students(scores)[student][method]
    return np.stack([scores.of(run, "mse").mean((1, 2)) for run in runs])


def _leaf(scores: Scores, runs: list[Run]) -> dict[str, float]:
    leaf = {}
    for name, metric in scores.metrics.items():
        if metric.across_variables or metric.sums_variables:
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
