"""DVC experiments by name: put into the queue, and what their students' training left, read without a checkout."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from pipeline import paths
from pipeline.check import check
from pipeline.errors import UserError
from pipeline.evaluation import deviation
from pipeline.params import PARAMS_FILE, Params, load, parse

METHODS = ("baseline", "kd", "fitnet", "s2kd_vision", "semantic", "s2kd")


class Training(NamedTuple):
    """One student's training: a row of `history` is an epoch, see pipeline/training.py."""

    student: str
    method: str
    seed: int
    history: list[dict[str, float]]

    @property
    def validation(self) -> list[float]:
        """MSE of z-scores on the validation split, by epoch."""
        return [row["validation_prediction"] for row in self.history]


class Experiment(NamedTuple):
    """One that has been run: its params.yaml, and a training for each student, method and seed."""

    params: Params
    trainings: list[Training]


def compared(seeds: Iterable[int], settings: Iterable[str]) -> list[str]:
    """Settings of experiments that hold METHODS against each other, then the user's own, which may replace them."""
    return [f"methods={listed(METHODS)}", f"seeds={listed(seeds)}", "dump_features.forecasts=true", *settings]


def settled(settings: Sequence[str]) -> Params:
    """params.yaml as an experiment with these settings has it. Raises UserError if that is not allowed."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    load()  # so that the settings are not blamed for what was wrong before
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(PARAMS_FILE, folder))
        try:
            apply_overrides(str(copy), list(settings))
        except DvcException as error:
            raise UserError(f"-S: {error.__cause__ or error}") from None
        params = parse(_yaml(copy.read_text()), f"{PARAMS_FILE} with these settings")
    check(params)
    return params


def queue(experiments: Mapping[str, Sequence[str]]) -> None:
    """Queues experiments by name that end after `distill`: the test split stays closed.

    experiments: of each its settings, key=value. Raises UserError before the first if one has been run already.
    """
    for name in _revisions():
        if name in experiments:
            raise UserError(f"experiment {name} has been run already; `dvc exp remove {name}` makes room for another")
    for name, settings in experiments.items():
        options = [word for value in settings for word in ("-S", value)]
        command = [sys.executable, "-m", "dvc", "exp", "run", "--queue", "--name", name, *options, "distill"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"experiment {name} was not queued. {done.stderr.strip()}")


def experiment(name: str) -> Experiment:
    """What an experiment left; raises UserError for one that has not been run from the present commit."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    revisions = _revisions()
    if name not in revisions:
        raise UserError(
            f"experiment {name} has not been run from the commit that is checked out; `dvc exp run --run-all` runs "
            "what is queued, `dvc queue status` tells what failed"
        )
    files: Any = DVCFileSystem(".", rev=revisions[name])
    params = parse(_yaml(files.read_text(str(PARAMS_FILE))), f"{PARAMS_FILE} of experiment {name}")
    trained = itertools.product(params.students, params.methods, params.seeds)
    try:
        return Experiment(params, [Training(*of, json.loads(files.read_text(_history(*of)))) for of in trained])
    except (DvcException, FileNotFoundError) as error:
        raise UserError(f"what experiment {name} trained is not in DVC's cache: {error}") from None


def _revisions() -> dict[str, str]:
    """The experiments that have been run from the commit that is checked out, each by the commit DVC made of it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(".") as repo:
            return {name: str(revision) for found in repo.experiments.ls().values() for name, revision in found}
    except DvcException as error:
        raise UserError(f"experiments cannot be listed: {error}") from None


def _history(student: str, method: str, seed: int) -> str:
    return str(paths.distilled(student, method) / f"seed-{seed}" / "history.json")


def _yaml(text: str) -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return tree


def listed(values: Iterable[object]) -> str:
    """As `-S` takes a list."""
    return f"[{','.join(map(str, values))}]"


def figures(values: Sequence[float]) -> str:
    """Mean and standard deviation of what several seeds gave; one seed has no deviation."""
    spread = f" ± {deviation(values):.5f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.5f}{spread}"


def command_line(
    description: str | None, reading: str, option: str, numbers: Sequence[float], seeds: Sequence[int]
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, argparse.ArgumentParser]:
    """A script's parser, and those of its commands: `queue`, which takes --seeds and -S, and `reading`.

    Both take `option`, the values of what is queued, whose defaults are `numbers`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    into_queue, from_results = commands.add_parser("queue"), commands.add_parser(reading)
    for command in (into_queue, from_results):
        command.add_argument(option, type=type(numbers[0]), nargs="+", default=numbers, metavar="VALUE")
    into_queue.add_argument("--seeds", type=int, nargs="+", default=seeds, metavar="SEED")
    into_queue.add_argument("-S", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    return parser, into_queue, from_results
