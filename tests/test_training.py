"""fit(): against a plain PyTorch loop, hand-written schedules, and a crash in the middle of an epoch."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import checkpoint, paths
from pipeline.batch import Batch
from pipeline.checkpoint import Progress
from pipeline.distillation import DistilledStudent, StudentObjective, distillation_loss
from pipeline.errors import UserError
from pipeline.failures import memory_told, smaller_steps
from pipeline.models import Problem
from pipeline.params import Distill, Runtime, Training, TrainTeacher
from pipeline.students.base import build
from pipeline.training import Terms, _advance, _learning_rates, fit, one_cycle, write_history
from pipeline.windows import WindowDataset, shuffled_loader
from pipeline.work import Work
from tests.helpers import make_store

CPU = Runtime(accelerator="cpu")
MEAN, STD = torch.tensor([54000.0, 275.0])[:, None, None], torch.tensor([3000.0, 15.0])[:, None, None]


class Model(nn.Module):
    """A convolution with batch norm and dropout: state of every kind that a resumed run must have."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(6, 4, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layers(((inputs - MEAN) / STD).flatten(1, 2))
        return scores.unflatten(1, (2, 2))


def objective(model: Any, batch: Batch) -> Terms:
    forecast = model(batch.inputs)
    prediction = (forecast - (batch.targets - MEAN) / STD).square().mean()
    return Terms({"prediction": prediction, "size": forecast.abs().mean()}, {"prediction": 1.0, "size": 0.01})


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[WindowDataset, WindowDataset]:
    monkeypatch.chdir(tmp_path)
    store = make_store(Path("store.zarr"), frames=60, shape=(4, 8))
    return WindowDataset(store, "train", limit=20), WindowDataset(store, "validation")


def model_of(seed: int = 0, dropout: float = 0.2) -> Model:
    torch.manual_seed(seed)
    return Model(dropout)


Sets = tuple[WindowDataset, WindowDataset]
Objective = Callable[[Any, Batch], Terms]


def run(
    sets: Sets, model: nn.Module, objective: Objective = objective, work: str = "work", seed: int = 1, **settings: Any
) -> list[dict[str, float]]:
    values = Training.model_validate({"epochs": 4, "batch_size": 8, "learning_rate": 0.01} | settings)
    with Work(work) as parts:
        return fit(model, objective, *sets, values, seed=seed, runtime=CPU, work=parts, name="model")


class Scripted:
    """The objective, but validation gives the losses of a script; keeps the weights it was asked with."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.states: list[dict[str, Tensor]] = []
        self.calls = 0

    def __call__(self, model: Any, batch: Batch) -> Terms:
        terms = objective(model, batch)
        if model.training:
            return terms
        self.calls += 1
        loss = torch.tensor(self.losses[self.calls - 1])
        self.states.append({name: value.clone() for name, value in model.module.state_dict().items()})
        return Terms({"prediction": loss}, {"prediction": 1.0})


def counting(steps: list[bool]) -> Objective:
    """The objective, noting for each batch whether it trained on it."""

    def counted(model: Any, batch: Batch) -> Terms:
        steps.append(model.training)
        return objective(model, batch)

    return counted


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_it_equals_a_plain_loop_of_adam(sets: Sets) -> None:
    model = model_of(dropout=0)
    history = run(sets, model, epochs=3)
    plain = model_of(dropout=0)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    batches = shuffled_loader(sets[0], 8, seed=1, rank=0, ranks=1)
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    for epoch in range(3):
        plain.train()
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        losses = []
        for batch in batches:
            terms = objective(plain, batch)
            loss = terms.values["prediction"] + 0.01 * terms.values["size"]
            losses += [terms.values["prediction"].item()] * len(batch.windows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        plain.eval()
        everything = sets[1].__getitems__(list(range(len(sets[1]))))
        validation = objective(plain, everything).values["prediction"].item()
        assert history[epoch]["train_prediction"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert history[epoch]["validation_prediction"] == pytest.approx(validation, rel=1e-5)
        if validation < best[0]:
            best = (validation, {name: value.clone() for name, value in plain.state_dict().items()})
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["plateau", "one-cycle"])
def test_a_run_that_crashed_within_an_epoch_ends_as_if_it_had_not(sets: Sets, schedule: str) -> None:
    undisturbed = model_of()
    expected = run(sets, undisturbed, work="first", epochs=5, schedule=schedule)
    steps: list[bool] = []

    def crashing(model: Any, batch: Batch) -> Terms:
        steps.append(model.training)
        if sum(steps) == 8:  # the second of three steps of epoch 3
            raise ConnectionError
        return objective(model, batch)

    with pytest.raises(ConnectionError):
        run(sets, model_of(), crashing, work="second", epochs=5, schedule=schedule)
    steps.clear()
    resumed = model_of(seed=77)  # what it starts from is replaced
    history = run(sets, resumed, counting(steps), "second", epochs=5, schedule=schedule)
    assert sum(steps) == 3 * 3  # epochs 3 to 5
    assert history == expected
    assert equal(resumed.state_dict(), undisturbed.state_dict())


def test_a_checkpoint_survives_its_epoch_alone(sets: Sets) -> None:
    seen = []

    def watching(model: Any, batch: Batch) -> Terms:
        if model.training:
            seen.append(sorted(path.name for path in Path(".work/work").glob("*/model-*")))
        return objective(model, batch)

    run(sets, model_of(), watching, epochs=3)
    assert seen[::3] == [[], ["model-00001"], ["model-00002"]]


def test_a_finished_run_that_is_kept_is_not_trained_again(sets: Sets) -> None:
    model, again = model_of(), model_of(seed=5)
    steps: list[bool] = []
    with Work("kept", keep=1) as work:
        values = Training(epochs=2, batch_size=8)
        history = fit(model, objective, *sets, values, seed=1, runtime=CPU, work=work, name="model")
    with Work("kept", keep=1) as work:
        assert fit(again, counting(steps), *sets, values, seed=1, runtime=CPU, work=work, name="model") == history
    assert steps == []
    assert equal(again.state_dict(), model.state_dict())


SCRIPT = [5.0, 4.0, 4.0, 4.5, 3.0, 3.5, 3.1, 3.2, 3.3, 3.05, 2.0]


def test_the_rate_falls_on_a_plateau_and_training_stops_as_written_by_hand(sets: Sets) -> None:
    script = Scripted(SCRIPT)
    settings: dict[str, Any] = {
        "plateau_epochs": 2,
        "plateau_factor": 0.1,
        "stop_epochs": 5,
        "epochs": 50,
        "batch_size": 32,
    }
    model = model_of()
    history = run(sets, model, script, **settings)
    # best at 2; 3 and 4 are no better (an equal loss is not), so 5 is trained slower; 5 is best; 6, 7 and 8, 9 stall
    rates = [1e-2, 1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5]
    assert [row["learning_rate"] for row in history] == pytest.approx(rates)
    assert [row["validation_prediction"] for row in history] == pytest.approx(SCRIPT[:10])
    assert [row["epoch"] for row in history] == list(range(1, 11))  # 5 epochs after the best, the last loss unseen
    assert equal(model.state_dict(), script.states[4])
    assert not model.training


@pytest.mark.parametrize("best", [0, 2, 3])
def test_the_weights_left_are_those_of_the_best_epoch(sets: Sets, best: int) -> None:
    script = Scripted([1.0 - 0.5 * (epoch == best) for epoch in range(4)])
    model = model_of()
    run(sets, model, script, batch_size=32)
    assert equal(model.state_dict(), script.states[best])
    assert not any(equal(model.state_dict(), state) for epoch, state in enumerate(script.states) if epoch != best)


def test_validation_changes_no_weight_and_no_statistic(sets: Sets) -> None:
    script = Scripted([1.0] * 9)
    model = model_of()
    run(sets, model, script, epochs=1, batch_size=2)
    assert len(script.states) > 1  # one of each validation batch
    assert all(equal(state, script.states[0]) for state in [*script.states, dict(model.state_dict())])


@pytest.mark.parametrize(
    ("done", "share"),
    [(0, 1 / 11), (0.05, 6 / 11), (0.1, 1.0), (0.55, 0.5), (0.325, 0.5 * (1 + math.sqrt(0.5))), (1.0, 0.0)],
)
def test_one_cycle_rises_linearly_and_falls_along_a_cosine(done: float, share: float) -> None:
    assert one_cycle(done) == pytest.approx(share)


def test_one_cycle_moves_with_every_step_of_every_epoch() -> None:
    settings = Training(epochs=10, learning_rate=0.4, schedule="one-cycle")
    rates = [rate for epoch in range(10) for rate in _learning_rates(Progress(epoch=epoch), settings, 5)]
    assert rates == pytest.approx([0.4 * one_cycle(step / 50) for step in range(50)])
    assert np.argmax(rates) == 5
    assert (np.diff(rates[5:]) < 0).all()


def test_the_rate_of_the_schedule_is_the_rate_of_the_step(sets: Sets) -> None:
    """Adam's first step moves each weight by the rate, whatever the size of its gradient."""
    model = model_of()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    (row,) = run(sets, model, epochs=1, batch_size=32, schedule="one-cycle", learning_rate=0.11)
    moved = (model.layers[4].get_parameter("weight") - before["layers.4.weight"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)
    assert row["learning_rate"] == pytest.approx(0.01)


def test_gradient_norms_are_those_of_each_weighted_term_at_the_epochs_start(sets: Sets) -> None:
    (row, *_) = run(sets, model_of(dropout=0), epochs=1)
    model = model_of(dropout=0)
    model.train()
    terms = objective(model, next(iter(shuffled_loader(sets[0], 8, seed=1, rank=0, ranks=1))))
    for name, weight in terms.weights.items():
        model.zero_grad()
        (weight * terms.values[name]).backward(retain_graph=True)
        gradients = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        assert row[f"gradient_{name}"] == pytest.approx(float(gradients.norm()), rel=1e-5)


def test_every_term_is_in_the_history(sets: Sets) -> None:
    history = run(sets, model_of(), epochs=2)
    names = {f"{kind}_{term}" for kind in ("train", "validation", "gradient") for term in ("prediction", "size")}
    assert [set(row) for row in history] == [names | {"epoch", "learning_rate"}] * 2


def failing(step: int, failure: Callable[[Terms], object]) -> tuple[Objective, list[list[int]]]:
    """The objective, which fails at a training step counted over all epochs; and the windows of each step."""
    steps: list[list[int]] = []

    def broken(model: Any, batch: Batch) -> Terms:
        terms = objective(model, batch)
        if model.training:
            steps.append(batch.windows.tolist())
            if len(steps) == step:
                failure(terms)
        return terms

    return broken, steps


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_told_with_windows_and_terms_and_checkpoints_stay(
    sets: Sets, value: float
) -> None:
    broken, steps = failing(5, lambda terms: terms.values.update(size=terms.values["size"] * value))
    with pytest.raises(UserError) as error:
        run(sets, model_of(), broken)
    message = str(error.value)
    assert message.startswith("model, epoch 2, step 2: the loss is not finite: prediction = ")
    assert f"size = {value:g}; windows {steps[4]}. {paths.WORK / 'work'}/" in message
    assert "model-00001 is kept. Try a training.learning_rate below 0.01, training.clip_norm: 1.0, or look" in message
    assert "The step before" not in message
    assert [path.name for path in Path(".work/work").glob("*/model-*")] == ["model-00001"]


def test_weights_that_a_step_has_spoilt_are_blamed_on_its_windows_and_never_saved(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square root's slope at zero is infinite: the loss of the step is finite, and its gradient is not."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)

    def spoil(terms: Terms) -> None:
        terms.values["size"] = (terms.values["size"] * 0).sqrt()

    broken, steps = failing(5, spoil)
    with pytest.raises(UserError) as error:
        run(sets, model_of(), broken, clip_norm=1.0)
    assert "model, epoch 2, step 3: the loss is not finite: prediction = nan" in str(error.value)
    assert f"The step before, windows {steps[4]}, had left weights that are not." in str(error.value)
    assert "clip_norm" not in str(error.value)
    (kept,) = Path(".work/work").glob("*/model-*")
    assert kept.name == "model-00001-0000001"
    assert all(bool(value.isfinite().all()) for value in load_file(kept / "model.safetensors").values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_validation_loss_that_is_not_finite_is_told_with_its_windows(sets: Sets, value: float, epoch: int) -> None:
    windows = sets[1].numbers.tolist()
    with pytest.raises(UserError) as error:
        run(sets, model_of(), Scripted([1.0] * epoch + [value]), batch_size=32)
    expected = f"model, epoch {epoch + 1}, validation: the loss is not finite: prediction = {value}; windows {windows}"
    assert expected in str(error.value)
    assert ("There is no checkpoint yet" in str(error.value)) == (epoch == 0)


def take_too_much(terms: Terms) -> object:
    return torch.empty(1 << 50, dtype=torch.uint8)  # what torch's own allocator says of it


def raising(error: Exception) -> Callable[[Terms], object]:
    def raise_it(terms: Terms) -> object:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (take_too_much, "can't allocate memory: you tried to allocate 1125899906842624 bytes"),
        (
            raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")),
            "Tried to allocate 2 GiB.",
        ),
        (raising(MemoryError()), "(MemoryError)"),
    ],
)
def test_memory_that_runs_out_names_the_settings_to_lower_and_checkpoints_stay(
    sets: Sets, failure: Callable[[Terms], object], words: str
) -> None:
    with pytest.raises(UserError) as error:
        run(sets, model_of(), failing(4, failure)[0])
    message = str(error.value)
    assert message.startswith("model, epoch 2: out of memory (")
    assert words in message
    assert "\n" not in message
    assert "Lower training.batch_size = 8 and raise training.accumulate = 1 by the same factor" in message
    assert "training.sizes" in message
    assert "training.precision: bf16-mixed" in message
    assert [path.name for path in Path(".work/work").glob("*/model-*")] == ["model-00001"]


def test_with_the_smallest_batch_and_half_precision_only_smaller_models_are_left(sets: Sets) -> None:
    with pytest.raises(UserError) as error:
        run(sets, model_of(), failing(1, take_too_much)[0], batch_size=1, precision="bf16-mixed")
    assert "batch_size is 1 already; or choose smaller training.sizes. Checkpoints" in str(error.value)


def test_another_error_of_the_runtime_passes_as_it_is(sets: Sets) -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(sets, model_of(), failing(1, raising(RuntimeError("shapes do not fit")))[0])


@pytest.mark.parametrize(("kind", "section"), [(TrainTeacher, "train_teacher"), (Distill, "distill")])
def test_errors_name_the_keys_as_they_stand_in_the_file(kind: type[Training], section: str) -> None:
    assert kind().section == section
    with pytest.raises(UserError, match=f"Lower {section}.batch_size = 16"), memory_told("x", smaller_steps(kind())):
        raise MemoryError


def orders(sets: Sets, seed: int, dropout: float) -> list[list[int]]:
    epochs: list[list[int]] = []

    def watching(model: Any, batch: Batch) -> Terms:
        if model.training:
            epochs[-1].extend(batch.windows.tolist())
        elif not epochs or epochs[-1]:
            epochs.append([])
        return objective(model, batch)

    epochs.append([])
    run(sets, model_of(dropout=dropout), watching, seed=seed, epochs=2)
    return epochs[:2]


def test_the_order_of_windows_depends_on_seed_and_epoch_alone(sets: Sets) -> None:
    first = orders(sets, seed=1, dropout=0)
    assert orders(sets, seed=1, dropout=0.5) == first
    assert first[0] != first[1]
    assert sorted(first[0]) == sorted(first[1]) == sets[0].numbers.tolist()
    assert orders(sets, seed=2, dropout=0)[0] != first[0]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(sets: Sets) -> None:
    models = [model_of(), model_of(), model_of()]
    histories = [run(sets, model, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert histories[0] == histories[1] != histories[2]
    assert equal(models[0].state_dict(), models[1].state_dict())
    assert not equal(models[0].state_dict(), models[2].state_dict())


class Plain(nn.Module):
    """Without batch norm and dropout, whose batches are what they see at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    forward = Model.forward


def plain_model(seed: int = 0) -> Plain:
    torch.manual_seed(seed)
    return Plain()


@pytest.mark.parametrize("schedule", ["plateau", "one-cycle"])
@pytest.mark.parametrize(("size", "accumulate"), [(4, 2), (2, 4), (3, 4)])
def test_accumulated_batches_are_one_large_batch(sets: Sets, schedule: str, size: int, accumulate: int) -> None:
    """20 windows: the last step has fewer batches, and the last batch of 3 has fewer windows."""
    large, small = plain_model(), plain_model()
    expected = run(sets, large, batch_size=size * accumulate, schedule=schedule)
    history = run(sets, small, batch_size=size, accumulate=accumulate, schedule=schedule)
    for row, other in zip(history, expected, strict=True):
        for name in row:
            if not name.startswith("gradient_"):  # of the epoch's first batch, which is smaller
                assert row[name] == pytest.approx(other[name], rel=1e-4)
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, large.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_a_gradient_is_shortened_to_the_norm_and_a_shorter_one_is_left(sets: Sets) -> None:
    """By Adam's first moment after one step, a tenth of the gradient; with this norm as bound nothing changes."""
    norms = {}
    for bound in (None, 1e-3, 1e3):
        with contextlib.suppress(ConnectionError), Work(f"clipped{bound}") as work:
            values = Training(epochs=1, batch_size=32, clip_norm=bound)
            fit(plain_model(), objective, *sets, values, seed=1, runtime=CPU, work=work, name="model")
            (folder,) = work.folder.glob("model-*")
            moments = load_file(folder / "optimizer.safetensors")
            raise ConnectionError  # so that the parts stay
        norms[bound] = 10 * math.hypot(*(float(moments[f"{i}.exp_avg"].norm()) for i in range(4)))
    assert norms[None] > 0.1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-4)
    assert norms[1e3] == norms[None]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler, which torch.compile needs")
def test_a_compiled_model_learns_the_same_and_its_weights_keep_their_names(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path("inductor").absolute()))
    plain, compiled = plain_model(), plain_model()
    expected = run(sets, plain, epochs=2, batch_size=10)
    history = run(sets, compiled, epochs=2, batch_size=10, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler, which torch.compile needs")
def test_a_student_compiles_as_it_is(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path("inductor").absolute()))
    store = sets[0].store
    baseline = StudentObjective(store.description.statistics, distillation_loss("baseline", 0.5, 1.0), None, "raw")
    histories = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student = build("mlp_mixer", Problem.of(store), {"width": 8, "layers": 1, "patch": 4})
        student.normaliser.set(MEAN[:, 0, 0], STD[:, 0, 0])
        model = DistilledStudent(student, None)
        histories.append(run(sets, model, baseline, f"compiled-{compiled}", epochs=2, batch_size=10, compile=compiled))
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_bf16_mixed_trains_and_keeps_float32_weights(sets: Sets) -> None:
    model = model_of()
    history = run(sets, model, precision="bf16-mixed", epochs=6)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert history[-1]["validation_prediction"] < history[0]["validation_prediction"]


def test_progress_counts_an_equal_loss_as_stale() -> None:
    state = Progress(learning_rate=1.0)
    settings = Training(plateau_epochs=3, plateau_factor=0.5)
    assert [_advance(state, loss, settings) for loss in (2.0, 2.0, 1.0, 1.0)] == [True, False, True, False]
    assert (state.epoch, state.best_epoch, state.best_loss, state.stale) == (4, 3, 1.0, 1)


def test_a_history_is_written_for_people_dvc_and_plots(tmp_path: Path) -> None:
    import json

    history = [{"epoch": 1.0, "learning_rate": 0.1}, {"epoch": 2.0, "learning_rate": 0.05}]
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        with contextlib.chdir(tmp_path):
            write_history(history, tmp_path / folder)
    assert json.loads((tmp_path / "first/history.json").read_text()) == history
    assert json.loads((tmp_path / "first/live/metrics.json").read_text())["learning_rate"] == 0.05
    files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*") if file.is_file())
    assert len(files) >= 4
    assert all((tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes() for file in files)
