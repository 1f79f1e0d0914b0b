"""Each method's weights chosen on the validation split alone, with the same number of runs for every method.

    python -m experiments.tune queue -S distill.train_windows=100   # one DVC experiment for each pair of GRID
    dvc exp run --run-all
    python -m experiments.tune choose > experiments/tuned.yaml      # the table goes to the terminal
    s2kd apply experiments/tuned.yaml

`queue` passes further `-S` settings on, and stops each experiment after `distill`: the test split is never opened. The
rule of `choose`: for each method the pair of lambda and target scale with the lowest best-epoch validation MSE, mean
over SEEDS and students. The students' seeds are none of the default's, with which the choice is evaluated. The
baseline knows no weight: it is trained once and its error is printed beside the others.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

from pipeline.errors import UserError
from pipeline.params import load

METHODS = ("baseline", "kd", "fitnet", "sdkd", "s2kd_vision", "semantic", "spectral", "s2kd")
LAMBDAS = (0.01, 0.03, 0.1, 0.3)
SCALES = ("standardised",)
SEEDS = (1, 2)
GRID = tuple(product(LAMBDAS, SCALES))

Key = tuple[str, float, str]  # method, lambda, target scale


def name(lambda_: float, scale: str) -> str:
    """The experiment's: of letters and digits, as git wants it."""
    return f"tune-{scale}-{str(lambda_).replace('.', 'p')}"


def queue(settings: list[str]) -> None:
    """Queues the grid; `settings` are further `key=value` for every experiment."""
    methods, seeds = (f"[{','.join(map(str, names))}]" for names in (METHODS, SEEDS))
    common = [f"methods={methods}", f"seeds={seeds}", "dump_features.forecasts=true", *settings]
    for lambda_, scale in GRID:
        values = [f"lambda={lambda_}", f"distill.target_scale={scale}", *common]
        options = [word for value in values for word in ("-S", value)]
        subprocess.run(
            ["dvc", "exp", "run", "--queue", "--name", name(lambda_, scale), *options, "distill"], check=True
        )


def errors() -> dict[Key, list[float]]:
    """Best-epoch validation MSE of every student and seed; UserError for an experiment that has not been run."""
    from dvc.api import DVCFileSystem

    known = set(subprocess.run(["dvc", "exp", "list", "--name-only"], capture_output=True, text=True).stdout.split())
    found: dict[Key, list[float]] = {}
    for lambda_, scale in GRID:
        if name(lambda_, scale) not in known:
            raise UserError(f"experiment {name(lambda_, scale)} has not been run; `dvc exp run --run-all` runs it")
        files: Any = DVCFileSystem(".", rev=name(lambda_, scale), subrepos=False)
        for path, method in _histories(files):
            history = json.loads(files.read_text(path))
            key = (method, lambda_, scale) if method != "baseline" else (method, 0.0, "")
            found.setdefault(key, []).append(min(row["validation_prediction"] for row in history))
    return found


def _histories(files: Any) -> Iterator[tuple[str, str]]:
    """Path and method of every history.json of an experiment."""
    for folder in files.ls("data/distill", detail=False):
        for seed in SEEDS:
            yield f"{folder}/seed-{seed}/history.json", re.sub(r".*/[^-]+-", "", folder)


def choose() -> None:
    """Prints an overlay with the chosen weights, and all errors to stderr."""
    found = errors()
    print("distill:\n  tuned:")
    for method in METHODS:
        tried = {key: statistics.mean(values) for key, values in found.items() if key[0] == method}
        for key, mean in tried.items():
            spread = statistics.stdev(found[key]) if len(found[key]) > 1 else 0.0
            print(f"{key[0]:12} {key[1]:6g} {key[2]:13} {mean:.5f} ± {spread:.5f}", file=sys.stderr)
        if method != "baseline":
            _, lambda_, scale = min(tried, key=lambda key: tried[key])
            print(f"    {method}: {{lambda: {lambda_:g}, target_scale: {scale}}}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("queue").add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("choose")
    options = parser.parse_args()
    load()  # a mistake in params.yaml ends here
    try:
        queue(options.settings) if options.command == "queue" else choose()
    except UserError as error:
        raise SystemExit(f"tune: error: {error}") from None


if __name__ == "__main__":
    main()
