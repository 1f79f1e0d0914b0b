"""Skill against the number of training windows and against training steps, for every method, on validation alone.

    python -m experiments.curves queue          # one DVC experiment for each number of windows
    dvc exp run --run-all
    python -m experiments.curves draw docs/figures/curves.png

Students of every number of windows get the same number of steps, so that a gain from more windows is not one from
more steps: epochs are as many as make up --steps. Weights are those of params.yaml; `s2kd apply` sets tuned ones.
`draw` takes the same --windows as `queue`, behind the picture's path.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.queued import Experiment, command_line, compared, experiment, figures, queue, settled
from pipeline import paths
from pipeline.errors import UserError
from pipeline.evaluation import deviation
from pipeline.params import Distill

WINDOWS = (50, 100, 200, 400)
STEPS = 390
SEEDS = (42, 43, 44)


class Line(NamedTuple):
    """What one line of a picture stands for."""

    student: str
    method: str


def name(windows: int) -> str:
    return f"curves-{windows}-windows"


def steps_of_epoch(windows: int, distill: Distill) -> int:
    """The last batch of an epoch counts, full or not; so does the last step, of fewer batches than the others."""
    shown = windows if distill.target_windows is None else 2 * windows  # see pipeline/windows.py
    return math.ceil(math.ceil(shown / distill.batch_size) / distill.accumulate)


def queue_all(windows: Sequence[int], steps: int, seeds: Sequence[int], settings: Sequence[str]) -> None:
    """One experiment for each number. Raises UserError before the first if a number or a setting is not allowed."""
    _check_available(max(windows))
    queue({name(count): _settings(count, steps, compared(seeds, settings)) for count in windows})


def _settings(windows: int, steps: int, common: list[str]) -> list[str]:
    """Training on so many windows, for as many epochs as make up the steps."""
    own = [f"distill.train_windows={windows}"]
    length = max(1, round(steps / steps_of_epoch(windows, settled([*own, *common]).distill)))
    own += [f"distill.epochs={length}", f"distill.stop_epochs={length}"]
    settled([*own, *common])
    return [*own, *common]


def _check_available(windows: int) -> None:
    """Students asked for more windows than there are would get all of them, and be drawn where they do not belong."""
    try:
        available = json.loads(paths.INGEST_SUMMARY.read_text())["windows"]["train"]
    except FileNotFoundError:
        raise UserError(
            f"{paths.INGEST_SUMMARY} is missing, so that windows cannot be counted; `dvc repro ingest`"
        ) from None
    if windows > available:
        raise UserError(f"--windows {windows} is not allowed: the record has {available} training windows")


def draw(path: Path, windows: Sequence[int]) -> None:
    """Best-epoch errors by number of windows, then errors by step for each; the numbers of the first as text."""
    from matplotlib import pyplot as plt

    found = {count: experiment(name(count)) for count in sorted(windows)}
    lines = list(dict.fromkeys(Line(each.student, each.method) for of in found.values() for each in of.trainings))
    figure, (by_windows, *by_steps) = plt.subplots(
        1, 1 + len(found), figsize=(4 * (1 + len(found)), 4), layout="constrained"
    )
    for line in lines:
        best = [[min(curve) for curve in _curves(of, line)] for of in found.values()]
        means = [statistics.mean(values) for values in best]
        label = " ".join(line)
        by_windows.errorbar(list(found), means, [deviation(values) for values in best], capsize=2, label=label)
        print(f"{label:24}", *map(figures, best))
        for axes, (count, of) in zip(by_steps, found.items(), strict=True):
            axes.plot(*_by_step(count, of, line))
    by_windows.set(xlabel="training windows", ylabel="validation MSE of z-scores, best epoch", xscale="log")
    by_windows.set_xticks(list(found), [str(count) for count in found])
    by_windows.set_xticks([], minor=True)
    by_windows.legend()
    for axes, count in zip(by_steps, found, strict=True):
        axes.set(xlabel=f"steps, {count} windows", ylabel="validation MSE of z-scores", yscale="log")
        axes.sharey(by_steps[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _curves(of: Experiment, line: Line) -> list[list[float]]:
    """Validation errors by epoch of each seed's student."""
    return [each.validation for each in of.trainings if Line(each.student, each.method) == line]


def _by_step(windows: int, of: Experiment, line: Line) -> tuple[list[int], list[float]]:
    """Steps done after each epoch, and the mean validation error over seeds."""
    means = [statistics.mean(at) for at in zip(*_curves(of, line), strict=True)]
    per_epoch = steps_of_epoch(windows, of.params.distill)
    return [per_epoch * epoch for epoch in range(1, len(means) + 1)], means


def main() -> None:
    parser, into_queue, from_results = command_line(__doc__, "draw", "--windows", WINDOWS, SEEDS)
    into_queue.add_argument("--steps", type=int, default=STEPS)
    from_results.add_argument("path", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "queue":
            queue_all(options.windows, options.steps, options.seeds, options.settings)
        else:
            draw(options.path, options.windows)
    except UserError as error:
        raise SystemExit(f"curves: error: {error}") from None


if __name__ == "__main__":
    main()
