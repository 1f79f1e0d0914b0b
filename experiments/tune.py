"""Each method's weights chosen on the validation split alone, with the same number of runs for every method.

    python -m experiments.tune queue -S distill.train_windows=100   # one DVC experiment for each of --lambdas
    dvc exp run --run-all
    python -m experiments.tune choose > experiments/tuned.yaml      # the table goes to the terminal
    s2kd apply experiments/tuned.yaml

`queue` passes further `-S` settings on, which may leave methods out. Every experiment trains a student for each of
--seeds: two of them did not tell methods apart, see docs/distillation.md. They are none of the default's, with which
the choice is evaluated. The rule of `choose`, given the same --lambdas: for each method the weight with the lowest
best-epoch validation MSE, mean over seeds and students. The baseline knows no weight: its error is printed beside the
others. Every method has as many values of lambda, KD ten times larger ones: its term is an error of forecasts, as
small as L_pred itself.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from experiments.queued import Experiment, command_line, compared, experiment, figures, listed, queue, settled
from pipeline.errors import UserError
from pipeline.losses import LOSSES

LAMBDAS = (0.01, 0.03, 0.1, 0.3)
SCALE = "standardised"
FACTORS = {"kd": 10.0}  # of lambda
SEEDS = (1, 2, 3, 4, 5)


class Tried(NamedTuple):
    """A method with one of its weights; the baseline has none."""

    method: str
    lambda_: float = 0.0
    target_scale: str = ""


def name(lambda_: float) -> str:
    """The experiment's: of letters, digits and hyphens, as git wants it."""
    return f"tune-{SCALE}-{lambda_:g}".replace(".", "p")


def weights(lambda_: float) -> str:
    """Every method's own, which stand above any that params.yaml holds from an earlier choice."""
    own = (
        f"{method}:{{lambda:{FACTORS.get(method, 1.0) * lambda_:g},target_scale:{SCALE}}}"
        for method in LOSSES
        if method != "baseline"
    )
    return f"++distill.tuned={{{','.join(own)}}}"  # ++: keys that may be new


def queue_all(lambdas: Sequence[float], seeds: Sequence[int], settings: Sequence[str]) -> None:
    """One experiment for each value of lambda. Raises UserError before the first if a setting is not allowed."""
    each = {name(lambda_): [weights(lambda_), *compared(seeds, settings)] for lambda_ in lambdas}
    for own in each.values():
        settled(own)
    queue(each)


def errors(lambdas: Sequence[float]) -> dict[Tried, list[float]]:
    """Best-epoch validation MSE by seed, mean over students. Raises UserError if the experiments' seeds differ."""
    found: dict[Tried, list[float]] = {}
    seeds: dict[tuple[int, ...], str] = {}  # and the last experiment that had them
    for lambda_ in lambdas:
        of = experiment(name(lambda_))
        seeds[of.params.seeds] = name(lambda_)
        found |= _errors(of)
    if len(seeds) > 1:
        told = ", ".join(f"{named} {listed(values)}" for values, named in seeds.items())
        raise UserError(f"the experiments' seeds differ: {told}; they must be the same")
    return found


def _errors(of: Experiment) -> dict[Tried, list[float]]:
    by_seed: dict[Tried, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in of.trainings:
        taken = of.params.of_method(each.method)
        weight = () if each.method == "baseline" else (taken.lambda_, taken.distill.target_scale)
        by_seed[Tried(each.method, *weight)][each.seed].append(min(each.validation))
    return {tried: [statistics.mean(students) for students in seeds.values()] for tried, seeds in by_seed.items()}


def choose(lambdas: Sequence[float]) -> None:
    """Prints an overlay with the chosen weights, and all errors to stderr."""
    found = errors(lambdas)
    by_method: dict[str, list[Tried]] = defaultdict(list)
    for tried in found:
        by_method[tried.method].append(tried)
    for tried in itertools.chain.from_iterable(by_method.values()):
        print(f"{tried.method:12} {tried.lambda_:6g} {tried.target_scale:13} {figures(found[tried])}", file=sys.stderr)
    print("distill:\n  tuned:")
    for method, several in by_method.items():
        if method != "baseline":
            best = min(several, key=lambda tried: statistics.mean(found[tried]))
            print(f"    {method}: {{lambda: {best.lambda_:g}, target_scale: {best.target_scale}}}")


def main() -> None:
    parser, _, _ = command_line(__doc__, "choose", "--lambdas", LAMBDAS, SEEDS)
    options = parser.parse_args()
    try:
        if options.command == "queue":
            queue_all(options.lambdas, options.seeds, options.settings)
        else:
            choose(options.lambdas)
    except UserError as error:
        raise SystemExit(f"tune: error: {error}") from None


if __name__ == "__main__":
    main()
