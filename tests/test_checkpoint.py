"""A run that ends anywhere, by an error or by `kill -9` at any moment, goes on and ends in the same bytes."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.batch import Batch
from pipeline.checkpoint import Checkpoints, Progress
from pipeline.params import Runtime, Training
from pipeline.training import Terms, fit
from pipeline.windows import WindowDataset
from pipeline.work import Work
from tests.helpers import make_store

STEPS = 10  # of an epoch of 20 windows, 2 a batch
Sets = tuple[WindowDataset, WindowDataset]


class Drawing(nn.Module):
    """Batch norm, dropout, and noise from every generator that a user's model may draw from."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layers(inputs.flatten(1, 2) / 54000)
        if self.training:
            scores = scores * (1 + 0.1 * np.random.standard_normal() + 0.1 * random.gauss())
        return scores.unflatten(1, (2, 2))


class Objective:
    """Counts the training steps, and fails at one of them."""

    def __init__(self, fails_at: int = 0) -> None:
        self.steps = 0
        self.fails_at = fails_at

    def __call__(self, model: Any, batch: Batch) -> Terms:
        if model.training:
            self.steps += 1
            if self.steps == self.fails_at:
                raise ConnectionError
        return Terms({"prediction": (model(batch.inputs) - batch.targets / 54000).square().mean()}, {"prediction": 1.0})


def make_sets() -> Sets:
    store = make_store(Path("store.zarr"), frames=60, shape=(4, 8))
    return WindowDataset(store, "train", limit=20), WindowDataset(store, "validation")


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sets:
    monkeypatch.chdir(tmp_path)
    return make_sets()


def train(
    sets: Sets, objective: Any, work: str, seed: int = 0, workers: int = 0, **settings: Any
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    torch.manual_seed(seed)
    model = Drawing()
    values = Training.model_validate({"epochs": 3, "batch_size": 2, "learning_rate": 0.01} | settings)
    runtime = Runtime(accelerator="cpu", loader_workers=workers)
    with Work(work) as parts:
        history = fit(model, objective, *sets, values, seed=1, runtime=runtime, work=parts, name="model")
    return history, dict(model.state_dict())


def same(first: tuple[Any, dict[str, Tensor]], second: tuple[Any, dict[str, Tensor]]) -> bool:
    return first[0] == second[0] and all(torch.equal(value, second[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize("schedule", ["plateau", "one-cycle"])
@pytest.mark.parametrize("step", [2, 7, 11, 12, 20, 30])
def test_a_run_that_failed_at_a_step_goes_on_with_that_step(
    sets: Sets, monkeypatch: pytest.MonkeyPatch, step: int, schedule: str
) -> None:
    undisturbed = train(sets, Objective(), "first", schedule=schedule)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    with pytest.raises(ConnectionError):
        train(sets, Objective(step), "second", schedule=schedule)
    rest = Objective()
    resumed = train(sets, rest, "second", seed=99, schedule=schedule)
    assert same(resumed, undisturbed)
    assert rest.steps == 3 * STEPS - (step - 1)


def test_a_resumed_run_goes_on_at_the_last_whole_step_and_may_have_readers(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(sets, Objective(), "first", accumulate=3)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    with pytest.raises(ConnectionError):
        train(sets, Objective(STEPS + 6), "second", accumulate=3, workers=1)
    rest = Objective()
    assert same(train(sets, rest, "second", accumulate=3, workers=1), undisturbed)
    assert rest.steps == 2 * STEPS - 3  # five batches of the second epoch were done, three of them in a step


def test_checkpoints_within_an_epoch_are_taken_by_the_clock_and_change_no_byte(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    names: list[str] = []

    class Watching(Objective):
        def __call__(self, model: Any, batch: Batch) -> Terms:
            if model.training:
                clock[0] += 70.0  # five minutes are over after every fifth step
                names.extend(path.name for path in Path(".work/watched").glob("*/model-*") if path.name not in names)
            return super().__call__(model, batch)

    undisturbed = train(sets, Objective(), "first", epochs=2)
    assert same(train(sets, Watching(), "watched", epochs=2), undisturbed)
    assert names == ["model-00000-0000005", "model-00001", "model-00001-0000005"]


PROGRAM = """
import hashlib, os, random, signal, sys, time
import torch
from pipeline import checkpoint
from tests.test_checkpoint import Objective, make_sets, train

class Slow(Objective):
    def __call__(self, model, batch):
        time.sleep(0.01)
        return super().__call__(model, batch)

def run(name):
    objective = Slow()
    history, weights = train(sets, objective, name)
    content = repr(history).encode() + b"".join(weights[key].numpy().tobytes() for key in sorted(weights))
    print(hashlib.sha256(content).hexdigest(), objective.steps, flush=True)

def forked(name):
    child = os.fork()
    if not child:
        run(name)
        os._exit(0)
    return child

torch.set_num_threads(1)
checkpoint.SECONDS_BETWEEN = 0.0
sets, moments, kills = make_sets(), random.Random(int(sys.argv[1])), 0
begun = time.monotonic()
os.waitpid(forked("undisturbed"), 0)
whole = time.monotonic() - begun  # on a busy machine it takes many times longer
while kills < 12:
    child = forked("killed")
    time.sleep(moments.uniform(0.02, 0.3) * whole)  # at its start, in a step, or while it writes a checkpoint
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    kills += 1
else:
    run("killed")
print(kills)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(seed)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    undisturbed, steps, killed, rest, *again, kills = run.stdout.split()  # again: shot as it had printed, and run anew
    assert {killed, *again[::2]} == {undisturbed}
    assert int(steps) == 3 * STEPS
    assert int(kills) >= 1
    assert int(rest) < 3 * STEPS


def test_each_place_in_a_run_draws_numbers_of_its_own() -> None:
    def drawn(*place: int) -> tuple[float, ...]:
        checkpoint.seed_generators(*place)
        numbers = [np.random.standard_normal(), random.gauss(), random.random(), float(torch.randn(()))]
        return tuple(float(number) for number in numbers)

    places = [(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0), (2, 0, 0, 0)]
    draws = {place: drawn(*place) for place in places}
    for numbers in zip(*draws.values(), strict=True):
        assert len(set(numbers)) == len(places)
    assert {place: drawn(*place) for place in reversed(places)} == draws


class Steep(nn.Module):
    """Its gradients overflow half precision as long as losses are scaled by more than a few thousand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layer(inputs.flatten(1, 2) / 54000)
        return scores.unflatten(1, (2, 2))


def in_half_precision(sets: Sets, scale: float, work: str) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """`fit`'s loop with scaled losses, which Fabric itself sets up on a GPU alone."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    from pipeline.training import Task, _fit

    torch.manual_seed(0)
    model, settings = Steep(), Training(epochs=3, batch_size=10, learning_rate=0.01)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    with Work(work, keep=1) as parts:
        task = Task(Objective(), *sets, settings, 1, Runtime(accelerator="cpu"), parts, "model")
        return _fit(fabric, model, task), dict(model.state_dict())


def test_steps_whose_scaled_gradients_overflow_are_left_out_and_training_goes_on(sets: Sets) -> None:
    history, weights = in_half_precision(sets, 2.0**127, "overflowing")
    assert "gradient_prediction" not in history[0]
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert (
        history[0]["validation_prediction"] == history[2]["validation_prediction"]
    )  # six steps halve a scale six times
    torch.manual_seed(0)
    assert torch.equal(weights["layer.weight"], Steep().layer.weight)


def test_scaled_losses_report_the_gradients_of_unscaled_ones_and_learn(sets: Sets) -> None:
    history, _ = in_half_precision(sets, 2.0**10, "scaled")
    smaller, _ = in_half_precision(sets, 2.0**4, "hardly")
    assert history[0]["gradient_prediction"] == pytest.approx(smaller[0]["gradient_prediction"], rel=0.02)
    assert history[2]["validation_prediction"] < history[0]["validation_prediction"]


def test_the_scale_of_losses_in_half_precision_is_part_of_the_state(tmp_path: Path) -> None:
    from lightning_fabric.plugins.precision import MixedPrecision

    def checkpoints(scaler: torch.amp.GradScaler) -> Checkpoints:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.Adam(model.parameters())
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        return Checkpoints(work, "model", model, optimizer, precision)

    work = Work("scaled")
    work.folder = tmp_path
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    checkpoints(scaler).save(Progress())
    other = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert checkpoints(other).resume() == Progress()
    assert other.state_dict() == scaler.state_dict()
