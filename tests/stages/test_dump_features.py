"""The stage `dump_features`: what it does when the teacher is missing, and which windows it covers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import paths
from pipeline.errors import UserError
from pipeline.features import Features
from pipeline.store import Store
from pipeline.work import fingerprint
from stages import distill, dump_features, train_teacher
from tests.core import make_text_and_store, training_params


@pytest.fixture(autouse=True)
def _a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_text_and_store()


def test_without_a_teacher_it_says_what_makes_one() -> None:
    with pytest.raises(UserError, match="train_teacher/multimodal holds no model"):
        dump_features.main(training_params())
    assert not paths.features("multimodal").exists()


def test_it_covers_training_and_validation_and_no_test_window() -> None:
    train_teacher.main(training_params())
    dump_features.main(training_params(dump_features={"dtype": "float32"}))
    features, windows = Features(paths.features("multimodal")), Store(paths.STORE).windows
    features.of(np.concatenate([windows.of("train"), windows.of("validation")]))
    for window in windows.of("test"):
        with pytest.raises(UserError, match=f"window {window} has no teacher features"):
            features.of(np.array([window]))
    assert features.values.dtype == np.float32
    attributes = zarr.open_group(paths.features("multimodal"), mode="r").attrs
    assert attributes["teacher"] == "simvp"
    assert attributes["weights"] == fingerprint([paths.teacher("multimodal") / "model.safetensors"])


def test_students_learn_from_the_forecasts_that_it_stores() -> None:
    train_teacher.main(training_params(), "vision")
    dump_features.main(training_params(), "vision")
    with pytest.raises(UserError, match=r"holds no forecasts .* dump_features\.forecasts = true"):
        distill.main(training_params(), "unet", "kd")
    dump_features.main(training_params(dump_features={"forecasts": True}), "vision")
    distill.main(training_params(), "unet", "kd")
    history = json.loads((paths.distilled("unet", "kd") / "seed-42" / "history.json").read_text())
    assert all(row["train_output"] > 0 and row["validation_output"] > 0 for row in history)
