from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.distillation import (
    DistilledStudent,
    PredictionLoss,
    StudentObjective,
    TeacherObjective,
    decisive,
    distillation_loss,
)
from pipeline.errors import UserError
from pipeline.features import Features, Forecasts
from pipeline.losses import LOSSES
from pipeline.losses.spectrum import spectral_alignment
from pipeline.models import Problem
from pipeline.params import Distill
from pipeline.store import Store
from pipeline.students.base import build, regridded
from pipeline.teachers.base import build as build_teacher
from pipeline.windows import WindowDataset
from tests.core import TEXT_WIDTH, forecast_of, write_embeddings, write_features
from tests.helpers import make_store
from tests.teachers.test_simvp import SIZES


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return make_store(Path("store.zarr"), frames=60, shape=(8, 16))


@pytest.fixture
def features(store: Store) -> Features:
    return write_features(Path("features.zarr"), store.windows.of("train"), grid=(2, 4), width=6)


def student_for(store: Store, features: Features | None) -> DistilledStudent:
    torch.manual_seed(0)
    model = DistilledStudent(build("unet", Problem.of(store), {"width": 2}), features)
    model.student.normaliser.set(store.description.statistics.mean, store.description.statistics.std)
    return model.eval()


def z_scores(store: Store, fields: torch.Tensor) -> np.ndarray:
    statistics = store.description.statistics
    return (fields.detach().double().numpy() - statistics.mean[:, None, None]) / statistics.std[:, None, None]


def test_the_prediction_loss_is_the_mean_squared_error_of_z_scores(store: Store) -> None:
    batch = WindowDataset(store, "train").__getitems__([0, 3, 5])
    forecast = batch.targets + torch.randn_like(batch.targets)
    expected = np.mean((z_scores(store, forecast) - z_scores(store, batch.targets)) ** 2)
    loss = PredictionLoss(store.description.statistics)
    assert loss(forecast, batch.targets).item() == pytest.approx(expected, rel=1e-2)  # float32 of 54000 +- 1
    assert loss(batch.targets, batch.targets).item() == 0


def test_the_teachers_objective_is_its_prediction_loss_alone(store: Store) -> None:
    text = write_embeddings(Path("embeddings.zarr"), len(store.windows))
    batch = WindowDataset(store, "train", text=text).__getitems__([0, 3, 5])
    teacher = build_teacher("simvp", Problem.of(store), SIZES, TEXT_WIDTH, layers=1, heads=2).eval()
    teacher.normaliser.set(store.description.statistics.mean, store.description.statistics.std)
    terms = TeacherObjective(store.description.statistics)(teacher, batch)
    forecast = teacher(batch.inputs, batch.text).forecast
    expected = np.mean((z_scores(store, forecast) - z_scores(store, batch.targets)) ** 2)
    assert list(terms.values) == ["prediction"]
    assert terms.total.item() == pytest.approx(expected, rel=1e-4)


def test_targets_of_windows_that_have_none_change_nothing(store: Store, features: Features) -> None:
    dataset = WindowDataset(store, "train", features=features, targets=5)
    batch = dataset.__getitems__([0, 1, 2, 3])
    assert batch.labelled is not None
    assert batch.labelled.tolist() == [True, False, False, False]
    forecasts = np.stack([forecast_of(window, tuple(batch.targets.shape[1:])) for window in batch.windows.tolist()])
    hidden = torch.where(batch.labelled[:, None, None, None, None], batch.targets, 1e9)
    batch = replace(batch, forecasts=torch.from_numpy(forecasts).float())
    other = replace(batch, targets=hidden)
    model = student_for(store, features)
    statistics = store.description.statistics
    for method, settings in (("s2kd", Distill()), ("kd", Distill()), ("kd", Distill(teacher_bounded=True))):
        objective = StudentObjective(statistics, distillation_loss(method, 0.5, 1.0, settings), features, "raw")
        terms, others = objective(model, batch).values, objective(model, other).values
        assert {name: value.item() for name, value in terms.items()} == {
            name: value.item() for name, value in others.items()
        }
    first = PredictionLoss(statistics)(model(batch.inputs).forecast[:1], batch.targets[:1])
    assert terms["prediction"].item() == pytest.approx(first.item(), rel=1e-6)


def test_a_batch_without_any_target_has_no_prediction_loss_but_a_gradient(store: Store, features: Features) -> None:
    batch = WindowDataset(store, "train", features=features, targets=2).__getitems__([1, 2])
    model = student_for(store, features)
    objective = StudentObjective(store.description.statistics, distillation_loss("s2kd", 0.5, 1.0), features, "raw")
    terms = objective(model, batch)
    assert terms.values["prediction"].item() == 0
    terms.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("scale", ["raw", "centred", "standardised"])
def test_the_students_objective_is_equation_14(store: Store, features: Features, scale: str) -> None:
    batch = WindowDataset(store, "train", features=features).__getitems__([0, 3, 5])
    model = student_for(store, features)
    terms = StudentObjective(store.description.statistics, distillation_loss("s2kd", 0.3, 0.2), features, scale)(
        model, batch
    )
    output = model(batch.inputs)
    target = features.of(batch.windows.numpy()).astype(np.float64)
    every = features.of(store.windows.of("train")).astype(np.float64)
    if scale == "centred":
        target = (target - every.mean(0)) / np.sqrt(every.var(0).mean())
    if scale == "standardised":
        target = (target - every.mean(0)) / every.std(0)
    semantic = np.mean((output.projected.detach().double().numpy() - target) ** 2)
    spectral = spectral_alignment(output.projected, torch.from_numpy(target).float(), (2, 4)).item()
    prediction = np.mean((z_scores(store, output.forecast) - z_scores(store, batch.targets)) ** 2)
    assert terms.values["prediction"].item() == pytest.approx(prediction, rel=1e-4)
    assert terms.values["semantic"].item() == pytest.approx(semantic, rel=1e-4)
    assert terms.values["spectral"].item() == pytest.approx(spectral, rel=1e-4)
    assert terms.total.item() == pytest.approx(prediction + 0.2 * (semantic + 0.3 * spectral), rel=1e-4)


@pytest.mark.parametrize("bounded", [True, False])
def test_kd_learns_from_the_teachers_forecast_as_z_scores(store: Store, bounded: bool) -> None:
    write_features(Path("features.zarr"), store.windows.of("train"), forecast=(2, 2, 8, 16))
    dataset = WindowDataset(store, "train", forecasts=Forecasts(Path("features.zarr")))
    batch, model = dataset.__getitems__([0, 3, 5]), student_for(store, None)
    settings = Distill(teacher_bounded=bounded, bound_margin=0.1)
    loss = distillation_loss("kd", 0.3, 0.2, settings)
    terms = StudentObjective(store.description.statistics, loss, None, "raw")(model, batch)
    scores, truth = z_scores(store, model(batch.inputs).forecast), z_scores(store, batch.targets)
    taught = np.stack([forecast_of(window, (2, 2, 8, 16)) for window in batch.windows.tolist()]).astype(np.float64)
    output = np.mean((scores - taught) ** 2)
    if bounded:
        error, bound = (np.square(each - truth).mean((-2, -1)) for each in (scores, taught))
        output = np.where(error + 0.1 > bound, error, 0).mean()
    assert list(terms.values) == ["prediction", "output"]
    assert terms.values["output"].item() == pytest.approx(output, rel=1e-4)
    assert terms.total.item() == pytest.approx(np.mean((scores - truth) ** 2) + 0.2 * output, rel=1e-4)


def test_a_method_with_modules_of_its_own_gets_the_levels_on_the_teachers_grid(
    store: Store, features: Features
) -> None:
    loss = distillation_loss("reviewkd", 0.5, 0.1)
    torch.manual_seed(0)
    model = DistilledStudent(build("unet", Problem.of(store), {"width": 2}), features, loss)
    assert model.projection is None
    assert model.review is not None
    batch = WindowDataset(store, "train", features=features).__getitems__([0, 3, 5])
    levels = [regridded(level, (2, 4), True) for level in model.student(batch.inputs).levels]
    assert model(batch.inputs).projected.shape == (3, 4, 8, 6)
    assert [level.shape[1] for level in levels] == [16, 8, 4, 2]
    terms = StudentObjective(store.description.statistics, loss, features, "centred")(model, batch)
    assert list(terms.values) == ["prediction", "review"]
    terms.total.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def test_a_method_takes_its_own_options_from_the_settings() -> None:
    settings = Distill(
        spectral_axes="tokens", frequency_cutoff=0.3, low_band_weight=0.7, teacher_bounded=True, bound_margin=0.2
    )
    kinds: Any = {name: distillation_loss(name, 0.5, 1.0, settings) for name in LOSSES}
    assert kinds["s2kd"].spectral_axes == kinds["spectral"].spectral_axes == "tokens"
    assert (kinds["sdkd"].cutoff, kinds["sdkd"].alpha) == (0.3, 0.7)
    assert (kinds["kd"].bounded, kinds["kd"].margin) == (True, 0.2)


@pytest.mark.parametrize("method", LOSSES)
def test_a_methods_own_options_default_to_those_of_the_settings(method: str) -> None:
    assert vars(distillation_loss(method, 0.5, 1.0)) == vars(distillation_loss(method, 0.5, 1.0, Distill()))


def methods_decided_by(**changes: Any) -> set[str]:
    """For which methods a U-Net must be trained again."""
    before, after = Distill(), Distill(**changes)
    return {name for name in LOSSES if decisive(before, "unet", name) != decisive(after, "unet", name)}


def test_other_methods_options_and_other_students_sizes_decide_nothing() -> None:
    assert methods_decided_by(spectral_axes="tokens", frequency_cutoff=0.3) == {
        "s2kd",
        "s2kd_vision",
        "spectral",
        "sdkd",
    }
    assert methods_decided_by(sizes={"resnet": {"width": 4}}) == set()
    assert methods_decided_by(sizes={"unet": {"width": 4}}) == methods_decided_by(epochs=3) == set(LOSSES)


def test_a_channel_that_never_changes_is_not_blown_up(store: Store, features: Features) -> None:
    features.std = features.std.copy()
    features.std[1, 2] = 0
    objective = StudentObjective(
        store.description.statistics, distillation_loss("s2kd", 1, 1), features, "standardised"
    )
    assert float(objective.reciprocal[2, 1]) == pytest.approx(100 / float(features.std.mean()))
    assert torch.isfinite(objective.reciprocal).all()


def test_the_baseline_is_the_prediction_loss_alone_and_has_no_projection(store: Store) -> None:
    batch = WindowDataset(store, "train").__getitems__([0, 3, 5])
    model = student_for(store, None)
    objective = StudentObjective(store.description.statistics, distillation_loss("baseline", 0.5, 1.0), None, "raw")
    terms = objective(model, batch)
    assert terms.weights == {"prediction": 1.0}
    assert list(terms.values) == ["prediction"]
    assert model.projection is None


def test_validation_without_features_measures_the_prediction_alone(store: Store, features: Features) -> None:
    loss = distillation_loss("fitnet", 0.5, 1.0)
    objective = StudentObjective(store.description.statistics, loss, features, "raw")
    assert list(objective(student_for(store, features), WindowDataset(store, "train")[0]).values) == ["prediction"]


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown method 'at'; known: baseline, kd, fitnet, .*s2kd"):
        distillation_loss("at", 0.5, 1.0)
