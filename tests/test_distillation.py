from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.distillation import (
    DistilledStudent,
    PredictionLoss,
    StudentObjective,
    TeacherObjective,
    distillation_loss,
)
from pipeline.errors import UserError
from pipeline.features import Features
from pipeline.losses.s2kd import spectral_alignment
from pipeline.models import Problem
from pipeline.store import Store
from pipeline.students.base import build
from pipeline.teachers.base import build as build_teacher
from pipeline.windows import WindowDataset
from tests.core import TEXT_WIDTH, write_embeddings, write_features
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


def test_a_channel_that_never_changes_is_not_blown_up(store: Store, features: Features) -> None:
    features.std = features.std.copy()
    features.std[1, 2] = 0
    objective = StudentObjective(
        store.description.statistics, distillation_loss("s2kd", 1, 1), features, "standardised"
    )
    assert float(objective.reciprocal[1, 2]) == pytest.approx(100 / float(features.std.mean()))
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
    with pytest.raises(UserError, match=r"unknown method 'kd'; known: baseline, fitnet, s2kd"):
        distillation_loss("kd", 0.5, 1.0)
