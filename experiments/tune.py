"""Each method's weights chosen on the validation split alone, with the same number of runs for every method.

    python -m experiments.tune queue -S distill.train_windows=100   # one DVC experiment for each pair of GRID
    dvc exp run --run-all
    python -m experiments.tune choose > experiments/tuned.yaml      # the table goes to the terminal
    s2kd apply experiments/tuned.yaml

`queue` passes further `-S` settings on. The rule of `choose`: for each method the pair of lambda and target scale with
the lowest best-epoch validation MSE, mean over SEEDS and students. The students' seeds are none of the default's, with
which the choice is evaluated. The baseline knows no weight: its error is printed beside the others. Every method has as
many values of lambda, KD ten times larger ones: its term is an error of forecasts, as small as L_pred itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from itertools import product

from experiments.queued import listed, queue, trainings
from pipeline.errors import UserError

METHODS = ("baseline", "kd", "fitnet", "s2kd_vision", "semantic", "s2kd")
LAMBDAS = (0.01, 0.03, 0.1, 0.3)
SCALES = ("standardised",)
FACTORS = {"kd": 10.0}  # of lambda
SEEDS = (1, 2)
GRID = tuple(product(LAMBDAS, SCALES))

Key = tuple[str, float, str]  # method, lambda, target scale


def name(lambda_: float, scale: str) -> str:
    """The experiment's: of letters, digits and hyphens, as git wants it."""
    return f"tune-{scale}-{str(lambda_).replace('.', 'p')}"


def queue_grid(settings: list[str]) -> None:
    common = [f"methods={listed(METHODS)}", f"seeds={listed(SEEDS)}", "dump_features.forecasts=true", *settings]
    for lambda_, scale in GRID:
        own = ",".join(f"{method}:{{lambda:{factor * lambda_:g}}}" for method, factor in FACTORS.items())
        values = [f"lambda={lambda_}", f"distill.target_scale={scale}", f"++distill.tuned={{{own}}}"]  # ++: a new key
        queue(name(lambda_, scale), [*values, *common])


def errors() -> dict[Key, list[float]]:
    """Best-epoch validation MSE of every student and seed."""
    found: dict[Key, list[float]] = {}
    for lambda_, scale in GRID:
        for each in trainings(name(lambda_, scale), SEEDS):
            weight = FACTORS.get(each.method, 1.0) * lambda_
            key = (each.method, 0.0, "") if each.method == "baseline" else (each.method, weight, scale)
            found.setdefault(key, []).append(min(each.validation))
    return found


def choose() -> None:
    """Prints an overlay with the chosen weights, and all errors to stderr."""
    found = errors()
    print("distill:\n  tuned:")
    for method in METHODS:
        tried = {key: statistics.mean(values) for key, values in found.items() if key[0] == method}
        for key, mean in tried.items():
            print(
                f"{key[0]:12} {key[1]:6g} {key[2]:13} {mean:.5f} ± {statistics.pstdev(found[key]):.5f}", file=sys.stderr
            )
        if method != "baseline":
            _, lambda_, scale = min(tried, key=lambda key: tried[key])
            print(f"    {method}: {{lambda: {lambda_:g}, target_scale: {scale}}}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("queue").add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("choose")
    options = parser.parse_args()
    try:
        queue_grid(options.settings) if options.command == "queue" else choose()
    except UserError as error:
        raise SystemExit(f"tune: error: {error}") from None


if __name__ == "__main__":
    main()
