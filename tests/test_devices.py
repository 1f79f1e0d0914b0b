"""Two processes on this machine's processor (gloo) against one: equal within rounding, and ended together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.batch import Batch
from pipeline.devices import on_devices, share_of_windows
from pipeline.distillation import TeacherObjective
from pipeline.embeddings import Embeddings
from pipeline.errors import UserError
from pipeline.models import Problem
from pipeline.params import Runtime, Training, TrainTeacher
from pipeline.store import Store
from pipeline.teachers.base import build
from pipeline.training import Terms, fit
from pipeline.windows import WindowDataset, shown, shuffled_loader
from pipeline.work import Work
from tests.core import TEXT_WIDTH, write_embeddings
from tests.helpers import make_store
from tests.machines import two_machines
from tests.teachers import tiny

Sets = tuple[WindowDataset, WindowDataset]
MEAN, STD = torch.tensor([54000.0, 275.0])[:, None, None], torch.tensor([3000.0, 15.0])[:, None, None]


class Model(nn.Module):
    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        middle = nn.BatchNorm2d(6) if norm else nn.Dropout(dropout)
        self.layers = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), middle, nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layers(((inputs - MEAN) / STD).flatten(1, 2))
        return scores.unflatten(1, (2, 2))


class Objective:
    """Two terms; the loss of `broken_window` is NaN. A class of this module, so that other processes can have it."""

    def __init__(self, broken_window: int = -1) -> None:
        self.broken_window = broken_window

    def __call__(self, model: Any, batch: Batch) -> Terms:
        checkpoint.SECONDS_BETWEEN = 0.0  # in this process
        forecast = model(batch.inputs)
        prediction = (forecast - (batch.targets - MEAN) / STD).square().mean()
        if self.broken_window in batch.windows:
            prediction = prediction * float("nan")
        return Terms({"prediction": prediction, "size": forecast.abs().mean()}, {"prediction": 1.0, "size": 0.01})


class Labelled(Objective):
    """The prediction over windows whose targets may be learnt from alone, as a student with a teacher has it."""

    def __call__(self, model: Any, batch: Batch) -> Terms:
        if batch.labelled is None:
            return super().__call__(model, batch)
        forecast = model(batch.inputs)
        squares = (forecast - (batch.targets - MEAN) / STD).square().mean((1, 2, 3, 4))[batch.labelled]
        prediction = squares.mean() if len(squares) else forecast.sum() * 0.0
        return Terms({"prediction": prediction, "size": forecast.abs().mean()}, {"prediction": 1.0, "size": 0.01})


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sets:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", checkpoint.SECONDS_BETWEEN)  # put back what an objective sets
    store = make_store(Path("store.zarr"), frames=80, shape=(4, 8))
    return WindowDataset(store, "train", limit=20), WindowDataset(store, "validation", limit=7)


def run(
    sets: Sets,
    devices: int,
    objective: Any = None,
    work: str = "work",
    norm: bool = False,
    dropout: float = 0.0,
    nodes: int = 1,
    **settings: Any,
) -> tuple[list[dict[str, float]], nn.Module]:
    torch.manual_seed(0)
    model = Model(norm, dropout)
    values = Training.model_validate({"epochs": 3, "batch_size": 4, "learning_rate": 0.01} | settings)
    runtime = Runtime(accelerator="cpu", devices=devices, nodes=nodes)
    with Work(work, node=runtime.node) as parts:
        history = fit(model, objective or Objective(), *sets, values, seed=1, runtime=runtime, work=parts, name="model")
    return history, model


def assert_close(first: tuple[Any, nn.Module], second: tuple[Any, nn.Module]) -> None:
    for row, other in zip(first[0], second[0], strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for name, value in first[1].state_dict().items():
        torch.testing.assert_close(value, second[1].state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_at_an_equal_batch(sets: Sets) -> None:
    """Losses, norms of gradients and weights; validation's 7 windows cannot be shared evenly."""
    settings: dict[str, Any] = {"accumulate": 2, "clip_norm": 0.1, "schedule": "one-cycle"}
    assert_close(run(sets, 2, work="two", **settings), run(sets, 1, work="one", **settings))


def with_few_targets(sets: Sets) -> Sets:
    """Of 20 training windows the targets of 3; a teacher's features would make it show all windows."""
    store = sets[0].store
    train = WindowDataset(store, "train", limit=20)
    train.numbers, train.labelled = shown(train.numbers, 3, taught=True)
    return train, sets[1]


@pytest.mark.parametrize(("devices", "size", "accumulate"), [(1, 2, 4), pytest.param(2, 4, 2, marks=pytest.mark.slow)])
def test_windows_with_targets_count_alike_however_a_step_is_cut(
    sets: Sets, devices: int, size: int, accumulate: int
) -> None:
    """Steps of 8 windows: parts of 2 have 0, 1 or 2 with targets, and the prediction is a mean over these alone."""
    few = with_few_targets(sets)
    assert len({batch.labels for batch in shuffled_loader(few[0], 2, seed=1, rank=0, ranks=1)}) > 1
    cut = run(few, devices, Labelled(), work="cut", batch_size=size, accumulate=accumulate)
    whole = run(few, 1, Labelled(), work="whole", batch_size=8)
    for history in (cut[0], whole[0]):
        for row in history:
            del row["gradient_prediction"], row["gradient_size"]  # of an epoch's first batch, which is smaller
    assert_close(cut, whole)


@pytest.mark.slow
def test_a_loss_that_breaks_in_one_process_ends_both_and_a_repeated_run_ends_in_the_same_bytes(sets: Sets) -> None:
    order = shuffled_loader(sets[0], 2, seed=1, rank=1, ranks=2)
    windows = [batch.windows.tolist() for batch in order][-1]  # the second process's, of the last step
    with pytest.raises(UserError, match="model, epoch 1, step 5: the loss is not finite: prediction = nan") as error:
        run(sets, 2, Objective(windows[0]), work="broken", dropout=0.3)
    assert f"windows {windows}" in str(error.value)
    (folder,) = Path(".work/broken").glob("*[0-9a-f]")
    assert [path.name[:13] for path in folder.glob("[a-z]*")] == ["model-00000-0"]
    repeated, undisturbed = run(sets, 2, work="broken", dropout=0.3), run(sets, 2, work="undisturbed", dropout=0.3)
    assert repeated[0] == undisturbed[0]
    for name, value in repeated[1].state_dict().items():
        assert torch.equal(value, undisturbed[1].state_dict()[name])


@pytest.mark.slow
def test_statistics_of_batch_norm_are_those_of_one_process_and_training_improves(sets: Sets) -> None:
    history, model = run(sets, 2, norm=True, epochs=4)
    assert history[-1]["validation_prediction"] < history[0]["validation_prediction"]
    batch = sets[1].__getitems__(list(range(len(sets[1]))))
    with torch.no_grad():
        loss = Objective()(model.eval(), batch).values["prediction"]
    assert float(loss) == pytest.approx(min(row["validation_prediction"] for row in history), rel=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused_before_a_process_starts(sets: Sets) -> None:
    with pytest.raises(UserError, match=r"training.batch_size = 5 cannot be shared by runtime.devices = 2"):
        run(sets, 2, batch_size=5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_window_is_in_one_share_alone(sets: Sets, ranks: int) -> None:
    shares = [share_of_windows(sets[1], 4 * ranks, rank, ranks, 0) for rank in range(ranks)]
    seen = [window for share in shares for batch in share for window in batch.windows.tolist()]
    assert sorted(seen) == sets[1].numbers.tolist()
    assert max(len(batch.windows) for share in shares for batch in share) <= (4 if ranks > 1 else 4 * ranks)


def test_fewer_windows_than_devices_are_refused(sets: Sets) -> None:
    with pytest.raises(UserError, match=r"7 windows cannot be shared by 8 devices"):
        share_of_windows(sets[1], 8, 0, 8, 0)


SETTINGS: dict[str, Any] = {"accumulate": 2, "clip_norm": 0.1}
NODE = """
import json, sys
from pathlib import Path
from pipeline.store import Store
from pipeline.windows import WindowDataset
from tests import test_devices as here
store = Store(Path("store.zarr"))
sets = WindowDataset(store, "train", limit=20), WindowDataset(store, "validation", limit=7)
if __name__ == "__main__":
    history, _ = here.run(sets, 1, here.Objective(int(sys.argv[1])), nodes=2, **here.SETTINGS)
    print(json.dumps(history))
"""


@pytest.mark.slow
def test_two_machines_learn_what_one_does_at_an_equal_batch_and_end_together(sets: Sets) -> None:
    Path("node.py").write_text(NODE)
    nodes = two_machines("node.py", "-1")
    assert [node.returncode for node in nodes] == [0, 0], nodes
    history, _ = run(sets, 1, work="one", **SETTINGS)
    for row, other in zip(json.loads(nodes[0].stdout), history, strict=True):
        assert row == pytest.approx(other, rel=1e-5)

    order = shuffled_loader(sets[0], 2, seed=1, rank=1, ranks=2)
    window = next(iter(order)).windows.tolist()[0]  # the second machine's
    for node in two_machines("node.py", str(window)):
        assert node.returncode == 1
        assert "model, epoch 1, step 1: the loss is not finite" in node.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "runtime.nodes = 2 and the environment lacks MASTER_ADDR, MASTER_PORT, NODE_RANK; docs/training.md"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "1", "NODE_RANK": "2"}, "runtime.nodes = 2 and NODE_RANK = 2; it must be"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, "--nproc-per-node=1"),
    ],
)
def test_machines_that_cannot_find_each_other_are_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        on_devices(Runtime(accelerator="cpu", nodes=2), "32-true", tmp_path, print)


def trained_teacher(name: str, devices: int, **settings: Any) -> list[dict[str, float]]:
    """The history of a tiny teacher."""
    store = Store(Path("store.zarr"))
    text = Embeddings(Path("embeddings.zarr"))
    parts = WindowDataset(store, "train", text=text, limit=8), WindowDataset(store, "validation", text=text, limit=4)
    torch.manual_seed(0)
    teacher = build(name, Problem.of(store), tiny.SIZES[name], text_width=TEXT_WIDTH, layers=1, heads=2)
    statistics = store.description.statistics
    teacher.normaliser.set(statistics.mean, statistics.std)
    values = TrainTeacher.model_validate({"epochs": 2, "batch_size": 4, "learning_rate": 0.01} | settings)
    runtime = Runtime(accelerator="cpu", devices=devices)
    with Work(f"{name}-{devices}-{values.checkpoint_activations}") as work:
        return fit(teacher, TeacherObjective(statistics), *parts, values, seed=1, runtime=runtime, work=work, name="t")


@pytest.mark.slow
def test_a_teacher_whose_blocks_are_run_again_trains_alike_on_two_devices(sets: Sets) -> None:
    """The one with drop path and batch norm; tests/teachers has every teacher on one device."""
    write_embeddings(Path("embeddings.zarr"), len(sets[0].store.windows))
    remembered, again = (trained_teacher("simvp", 2, checkpoint_activations=value) for value in (False, True))
    assert again == remembered


def test_a_model_without_blocks_to_run_again_is_named(sets: Sets) -> None:
    write_embeddings(Path("embeddings.zarr"), len(sets[0].store.windows))
    values = TrainTeacher(checkpoint_activations=True)
    options: Any = {"seed": 1, "runtime": Runtime(accelerator="cpu"), "work": Work("w"), "name": "t"}
    with pytest.raises(UserError, match="checkpoint_activations = True and Model has no Recomputable blocks"):
        fit(Model(), Objective(), *sets, values, **options)
    with pytest.raises(UserError, match=r"checkpoint_activations = True and train_teacher\.compile = True do not go"):
        fit(Model(), Objective(), *sets, values.model_copy(update={"compile": True}), **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how much memory a process holds is read from /proc")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_kept_for_the_next_step_when_it_is_asked_for(keep: bool) -> None:
    program = """
import sys, psutil, numpy
from pipeline.devices import keep_freed_memory
if sys.argv[1] == "True":
    keep_freed_memory()
before = psutil.Process().memory_info().rss
large = numpy.ones(2**24)
del large
print(psutil.Process().memory_info().rss - before > 2**26)
"""
    printed = subprocess.run([sys.executable, "-c", program, str(keep)], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(keep)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_device_that_is_not_there_is_told_with_what_is(tmp_path: Path, devices: int) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(
        UserError, match=f"runtime.accelerator = gpu and runtime.devices = {devices} cannot be had"
    ) as error:
        on_devices(Runtime(accelerator="gpu", devices=devices), "32-true", tmp_path, print)
    assert "accelerator: auto" in str(error.value)


def test_float16_is_refused_where_it_would_quietly_become_bfloat16(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(UserError, match="precision = 16-mixed needs a GPU; here it can be 32-true or bf16-mixed"):
        on_devices(Runtime(accelerator="cpu"), "16-mixed", tmp_path, print)
    assert not [warning for warning in recwarn if "AMP" in str(warning.message)]
