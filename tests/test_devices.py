"""Two processes on this machine's processor (gloo) against one: equal within rounding, and ended together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.batch import Batch
from pipeline.devices import share_of_windows
from pipeline.errors import UserError
from pipeline.params import Runtime, Training
from pipeline.training import Terms, fit
from pipeline.windows import WindowDataset, shuffled_loader
from pipeline.work import Work
from tests.helpers import make_store

Sets = tuple[WindowDataset, WindowDataset]
MEAN, STD = torch.tensor([54000.0, 275.0])[:, None, None], torch.tensor([3000.0, 15.0])[:, None, None]


class Model(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        middle = nn.BatchNorm2d(6) if norm else nn.Identity()
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


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sets:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", checkpoint.SECONDS_BETWEEN)  # put back what an objective sets
    store = make_store(Path("store.zarr"), frames=80, shape=(4, 8))
    return WindowDataset(store, "train", limit=20), WindowDataset(store, "validation", limit=7)


def run(
    sets: Sets, devices: int, objective: Any = None, work: str = "work", norm: bool = False, **settings: Any
) -> tuple[list[dict[str, float]], nn.Module]:
    torch.manual_seed(0)
    model = Model(norm)
    values = Training.model_validate({"epochs": 3, "batch_size": 4, "learning_rate": 0.01} | settings)
    runtime = Runtime(accelerator="cpu", devices=devices)
    with Work(work) as parts:
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


@pytest.mark.slow
def test_a_loss_that_breaks_in_one_process_ends_both_and_a_repeated_run_ends_in_the_same_bytes(sets: Sets) -> None:
    order = shuffled_loader(sets[0], 2, seed=1, rank=1, ranks=2)
    windows = [batch.windows.tolist() for batch in order][-1]  # the second process's, of the last step
    with pytest.raises(UserError, match="model, epoch 1, step 5: the loss is not finite: prediction = nan") as error:
        run(sets, 2, Objective(windows[0]), work="broken")
    assert f"windows {windows}" in str(error.value)
    (folder,) = Path(".work/broken").glob("*[0-9a-f]")
    assert [path.name[:13] for path in folder.glob("[a-z]*")] == ["model-00000-0"]
    repeated, undisturbed = run(sets, 2, work="broken"), run(sets, 2, work="undisturbed")
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
