"""Skill against the number of training windows and against training steps, for every method, on validation alone.

    python -m experiments.curves queue          # one DVC experiment for each number of windows
    dvc exp run --run-all
    python -m experiments.curves draw docs/figures/curves.png

Students of every number of windows get the same number of steps, so that a gain from more windows is not one from
more steps: epochs are as many as make up --steps. Weights are those of params.yaml; `s2kd apply` sets tuned ones.
With `--of targets` all windows are shown and their number is that of those whose targets are (distill.target_windows):
on the others teachers alone teach. `draw` takes the same --windows and --of as `queue`, behind the picture's path.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.queued import Experiment, command_line, compared, experiment, figures, queue, settled
from pipeline import paths
from pipeline.errors import UserError
from pipeline.evaluation import deviation
from pipeline.params import Distill

WINDOWS = (50, 100, 200, 400)
STEPS = 390
SEEDS = (42, 43, 44)
KEYS = {"windows": "train_windows", "targets": "target_windows"}  # of `distill`, what is counted
COLUMNS = 3  # of the picture
LEGEND_COLUMNS = 5
AXES = {"windows": "training windows", "targets": "windows with targets"}


class Line(NamedTuple):
    """What one line of a picture stands for."""

    student: str
    method: str


def name(count: int, counted: str) -> str:
    return f"curves-{count}-{counted}"


def steps_of_epoch(distill: Distill) -> int:
    """The last batch of an epoch counts, full or not; so does the last step, of fewer batches than the others."""
    windows = distill.train_windows or _available()
    shown = windows if distill.target_windows is None else 2 * windows  # see pipeline/windows.py
    return math.ceil(math.ceil(shown / distill.batch_size) / distill.accumulate)


def queue_all(counts: Sequence[int], counted: str, steps: int, seeds: Sequence[int], settings: Sequence[str]) -> None:
    """One experiment for each number. Raises UserError before the first if a number or a setting is not allowed."""
    if max(counts) > _available():  # students would get all there are, and be drawn where they do not belong
        raise UserError(f"--windows {max(counts)} is not allowed: the record has {_available()} training windows")
    queue({name(count, counted): _settings(count, counted, steps, compared(seeds, settings)) for count in counts})


def _settings(count: int, counted: str, steps: int, common: list[str]) -> list[str]:
    """Training on so many windows, or with the targets of so many, for as many epochs as make up the steps."""
    own = [f"distill.{KEYS[counted]}={count}"]
    length = max(1, round(steps / steps_of_epoch(settled([*own, *common]).distill)))
    own += [f"distill.epochs={length}", f"distill.stop_epochs={length}"]
    settled([*own, *common])
    return [*own, *common]


def _available() -> int:
    try:
        return int(json.loads(paths.INGEST_SUMMARY.read_text())["windows"]["train"])
    except FileNotFoundError:
        raise UserError(
            f"{paths.INGEST_SUMMARY} is missing, so that windows cannot be counted; `dvc repro ingest`"
        ) from None


def draw(path: Path, counts: Sequence[int], counted: str) -> None:
    """Best-epoch errors by number of windows, then errors by step for each; the numbers of the first as text."""
    found = {count: experiment(name(count, counted)) for count in sorted(counts)}
    lines = list(dict.fromkeys(Line(each.student, each.method) for of in found.values() for each in of.trainings))
    figure, (by_windows, *by_steps) = _panels(1 + len(found))
    for line in lines:
        best = [[min(curve) for curve in _curves(of, line)] for of in found.values()]
        means = [statistics.mean(values) for values in best]
        label = " ".join(line)
        by_windows.errorbar(list(found), means, [deviation(values) for values in best], capsize=2, label=label)
        print(f"{label:24}", *map(figures, best))
        for axes, of in zip(by_steps, found.values(), strict=True):
            axes.plot(*_by_step(of, line))
    by_windows.set(xlabel=AXES[counted], ylabel="validation MSE of z-scores, best epoch", xscale="log")
    by_windows.set_xticks(list(found), [str(count) for count in found])
    by_windows.set_xticks([], minor=True)
    figure.legend(*by_windows.get_legend_handles_labels(), loc="outside upper center", ncols=LEGEND_COLUMNS)
    limits = [axes.get_ylim() for axes in by_steps]
    for axes, count in zip(by_steps, found, strict=True):
        axes.set(xlabel=f"steps, {count} {AXES[counted]}", ylabel="validation MSE of z-scores", yscale="log")
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure and so many square axes, up to three in a row."""
    from matplotlib import pyplot as plt

    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 4 * rows), squeeze=False, layout="constrained")
    for unused in axes.flat[count:]:
        unused.remove()
    return figure, list(axes.flat[:count])


def _curves(of: Experiment, line: Line) -> list[list[float]]:
    """Validation errors by epoch of each seed's student."""
    return [each.validation for each in of.trainings if Line(each.student, each.method) == line]


def _by_step(of: Experiment, line: Line) -> tuple[list[int], list[float]]:
    """Steps done after each epoch, and the mean validation error over seeds."""
    means = [statistics.mean(at) for at in zip(*_curves(of, line), strict=True)]
    per_epoch = steps_of_epoch(of.params.distill)
    return [per_epoch * epoch for epoch in range(1, len(means) + 1)], means


def main() -> None:
    parser, into_queue, from_results = command_line(__doc__, "draw", "--windows", WINDOWS, SEEDS)
    into_queue.add_argument("--steps", type=int, default=STEPS)
    from_results.add_argument("path", type=Path)
    for command in (into_queue, from_results):
        command.add_argument("--of", choices=list(KEYS), default="windows", help="what is counted")
    options = parser.parse_args()
    try:
        if options.command == "queue":
            queue_all(options.windows, options.of, options.steps, options.seeds, options.settings)
        else:
            draw(options.path, options.windows, options.of)
    except UserError as error:
        raise SystemExit(f"curves: error: {error}") from None


if __name__ == "__main__":
    main()
