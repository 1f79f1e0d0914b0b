"""Each method's weights chosen on the validation split alone, with the same number of runs for every method.

    python -m experiments.tune queue -S distill.train_windows=100   # one DVC experiment for each of --lambdas
    dvc exp run --run-all
    python -m experiments.tune choose > experiments/tuned.yaml      # the table goes to the terminal
    s2kd apply experiments/tuned.yaml

`queue` passes further `-S` settings on, which may leave methods out. Every experiment trains a student for each of
--seeds: two of them did not tell methods apart, see docs/distillation.md. They are none of the default's, with which
the choice is evaluated. The rule of `choose`, given the same --lambdas: for each method the weight with the lowest
best-epoch validation MSE, mean over seeds and students; with --by-student, for each student and method. The baseline
knows no weight: its error is printed beside the others. Every method has as many values of lambda, KD ten times larger
ones: its term is an error of forecasts, as small as L_pred itself.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from experiments.queued import Experiment, Training, command_line, compared, experiment, figures, listed, queue, settled
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.params import load

LAMBDAS = (0.01, 0.03, 0.1, 0.3)
SCALE = "standardised"
FACTORS = {"kd": 10.0}  # of lambda
SEEDS = (1, 2, 3, 4, 5)


class Tried(NamedTuple):
    """A method, or a student's (`unet-s2kd`), with one of its weights; the baseline has none."""

    name: str
    lambda_: float = 0.0
    target_scale: str = ""


def name(lambda_: float) -> str:
    """The experiment's: of letters, digits and hyphens, as git wants it."""
    return f"tune-{SCALE}-{lambda_:g}".replace(".", "p")


def weights(lambda_: float) -> str:
    """Every method's own, which stand above any that params.yaml holds from an earlier choice."""
    earlier = [name for name in load().distill.tuned if name not in LOSSES]  # of single students
    own = (
        f"{name}:{{lambda:{FACTORS.get(_method(name), 1.0) * lambda_:g},target_scale:{SCALE}}}"
        for name in [*LOSSES, *earlier]
        if _method(name) != "baseline"
    )
    return f"++distill.tuned={{{','.join(own)}}}"  # ++: keys that may be new


def queue_all(lambdas: Sequence[float], seeds: Sequence[int], settings: Sequence[str]) -> None:
    """One experiment for each value of lambda. Raises UserError before the first if a setting is not allowed."""
    each = {name(lambda_): [weights(lambda_), *compared(seeds, settings)] for lambda_ in lambdas}
    for own in each.values():
        settled(own)
    queue(each)


def _method(name: str) -> str:
    return name.rpartition("-")[2]


def errors(lambdas: Sequence[float], by_student: bool = False) -> dict[Tried, list[float]]:
    """Best-epoch validation MSE by seed, of each student or mean over them.

    Raises UserError if the experiments' seeds differ.
    """
    found: dict[Tried, list[float]] = {}
    seeds: dict[tuple[int, ...], str] = {}  # and the last experiment that had them
    for lambda_ in lambdas:
        of = experiment(name(lambda_))
        seeds[of.params.seeds] = name(lambda_)
        found |= _errors(of, by_student)
    if len(seeds) > 1:
        told = ", ".join(f"{named} {listed(values)}" for values, named in seeds.items())
        raise UserError(f"the experiments' seeds differ: {told}; they must be the same")
    return found


def _errors(of: Experiment, by_student: bool) -> dict[Tried, list[float]]:
    by_seed: dict[Tried, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in of.trainings:
        by_seed[_tried(of, each, by_student)][each.seed].append(min(each.validation))
    return {tried: [statistics.mean(students) for students in seeds.values()] for tried, seeds in by_seed.items()}


def _tried(of: Experiment, training: Training, by_student: bool) -> Tried:
    name = f"{training.student}-{training.method}" if by_student else training.method
    taken = of.params.of_pair(training.student, training.method)
    return Tried(name) if training.method == "baseline" else Tried(name, taken.lambda_, taken.distill.target_scale)


def choose(lambdas: Sequence[float], by_student: bool) -> None:
    """Prints an overlay with the chosen weights, and all errors to stderr."""
    found = errors(lambdas, by_student)
    by_name: dict[str, list[Tried]] = defaultdict(list)
    for tried in found:
        by_name[tried.name].append(tried)
    width = max(map(len, by_name))
    for tried in itertools.chain.from_iterable(by_name.values()):
        error = figures(found[tried])
        print(f"{tried.name:{width}} {tried.lambda_:6g} {tried.target_scale:13} {error}", file=sys.stderr)
    print("distill:\n  tuned:")
    for name, several in by_name.items():
        if _method(name) != "baseline":
            best = min(several, key=lambda tried: statistics.mean(found[tried]))
            print(f"    {name}: {{lambda: {best.lambda_:g}, target_scale: {best.target_scale}}}")


def main() -> None:
    parser, _, from_results = command_line(__doc__, "choose", "--lambdas", LAMBDAS, SEEDS)
    from_results.add_argument("--by-student", action="store_true", help="weights for each student and method")
    options = parser.parse_args()
    try:
        if options.command == "queue":
            queue_all(options.lambdas, options.seeds, options.settings)
        else:
            choose(options.lambdas, options.by_student)
    except UserError as error:
        raise SystemExit(f"tune: error: {error}") from None


if __name__ == "__main__":
    main()
