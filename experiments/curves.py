"""Skill against training steps and against the number of training windows, for every method, on validation alone.

    python -m experiments.curves queue          # one DVC experiment for each number of windows
    dvc exp run --run-all
    python -m experiments.curves draw docs/figures/curves.png

Students of every number of windows get the same number of steps, so that a gain from more windows is not one from
more steps: epochs are as many as make up STEPS. Weights are those of params.yaml; `s2kd apply` sets tuned ones.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from experiments.queued import Training, listed, queue, trainings
from pipeline.errors import UserError
from pipeline.params import load

METHODS = ("baseline", "kd", "fitnet", "s2kd_vision", "semantic", "s2kd")
WINDOWS = (50, 100, 200, 400)
STEPS = 390
SEEDS = (42, 43, 44)


def name(windows: int) -> str:
    return f"curves-{windows}-windows"


def epochs(windows: int) -> int:
    """As many as make up STEPS; the last batch of an epoch counts, full or not."""
    return round(STEPS / math.ceil(windows / load().distill.batch_size))


def queue_all(settings: list[str]) -> None:
    common = [f"methods={listed(METHODS)}", f"seeds={listed(SEEDS)}", "dump_features.forecasts=true", *settings]
    for windows in WINDOWS:
        length = epochs(windows)
        own = [f"distill.train_windows={windows}", f"distill.epochs={length}", f"distill.stop_epochs={length}"]
        queue(name(windows), [*own, *common])


def draw(path: Path) -> None:
    """Two pictures side by side, and the numbers of the second on the terminal."""
    from matplotlib import pyplot as plt

    found = {windows: list(trainings(name(windows), SEEDS)) for windows in WINDOWS}
    figure, (by_windows, by_steps) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for method in METHODS:
        best = {
            count: [min(each.validation) for each in runs if each.method == method] for count, runs in found.items()
        }
        means = [statistics.mean(values) for values in best.values()]
        by_windows.errorbar(WINDOWS, means, [statistics.stdev(v) for v in best.values()], capsize=2, label=method)
        print(
            f"{method:12}", *(f"{m:.5f} ± {statistics.stdev(v):.5f}" for m, v in zip(means, best.values(), strict=True))
        )
        steps, mean = _along(found[WINDOWS[1]], method)
        by_steps.plot(steps, mean, label=method)
    by_windows.set(xlabel="training windows", ylabel="validation MSE of z-scores, best epoch", xscale="log")
    by_windows.set_xticks(WINDOWS, [str(count) for count in WINDOWS])
    by_steps.set(xlabel=f"steps, {WINDOWS[1]} windows", ylabel="validation MSE of z-scores", yscale="log")
    by_windows.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _along(runs: list[Training], method: str) -> tuple[list[int], list[float]]:
    """Steps and mean validation error over seeds after each epoch."""
    curves: Any = [each.validation for each in runs if each.method == method]
    per_epoch = STEPS // len(curves[0])
    return [per_epoch * (i + 1) for i in range(len(curves[0]))], [
        statistics.mean(at) for at in zip(*curves, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("queue").add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("draw").add_argument("path", type=Path)
    options = parser.parse_args()
    try:
        queue_all(options.settings) if options.command == "queue" else draw(options.path)
    except UserError as error:
        raise SystemExit(f"curves: error: {error}") from None


if __name__ == "__main__":
    main()
