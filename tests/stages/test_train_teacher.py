"""The stages train_teacher, dump_features and distill on a tiny record, one after the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from pipeline import paths
from pipeline.embeddings import Embeddings
from pipeline.features import Features
from pipeline.params import Params
from pipeline.store import Store
from pipeline.teachers import base as teachers
from pipeline.windows import WindowDataset
from stages import distill, dump_features, train_teacher
from tests.core import content, make_text_and_store, training_params


@pytest.fixture(autouse=True)
def _a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_text_and_store()


def run_all(params: Params) -> dict[str, bytes]:
    """All that the three stages leave."""
    for modality in params.modalities:
        train_teacher.main(params, modality)
        dump_features.main(params, modality)
    for method in params.methods:
        distill.main(params, "unet", method)
    return {
        f"{folder}/{name}": data
        for folder in (paths.TRAIN_TEACHER, paths.DUMP_FEATURES, paths.DISTILL)
        for name, data in content(folder).items()
    }


def test_the_teacher_that_is_left_is_the_best_of_validation() -> None:
    params = training_params(train_teacher={"epochs": 3})
    train_teacher.main(params)
    history = json.loads((paths.teacher("multimodal") / "history.json").read_text())
    assert len(history) == 3
    store = Store(paths.STORE)
    validation = WindowDataset(store, "validation", text=Embeddings(paths.EMBEDDINGS))
    batch = validation.__getitems__(list(range(len(validation))))
    assert batch.text is not None
    with torch.no_grad():
        forecast = teachers.load(paths.teacher("multimodal"))(batch.inputs, batch.text).forecast
    std = torch.as_tensor(store.description.statistics.std)[:, None, None]
    loss = ((forecast - batch.targets) / std).square().mean().item()
    assert loss == pytest.approx(min(row["validation_prediction"] for row in history), rel=1e-4)


def test_the_folder_holds_weights_configuration_and_history() -> None:
    train_teacher.main(training_params(train_teacher={"residual": True}))
    names = {path.name for path in paths.teacher("multimodal").iterdir()}
    assert names == {"model.safetensors", "config.json", "history.json", "live"}
    config = json.loads((paths.teacher("multimodal") / "config.json").read_text())
    assert (config["name"], config["text_width"], config["problem"]["residual"]) == ("simvp", 6, True)
    assert not list(paths.WORK.glob("train_teacher/*/"))


def test_no_stage_of_training_opens_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: set[str] = set()
    plain = WindowDataset.__init__

    def watched(self: WindowDataset, store: Store, split: Any, *rest: Any, **options: Any) -> None:
        opened.add(split)
        plain(self, store, split, *rest, **options)

    monkeypatch.setattr(WindowDataset, "__init__", watched)
    run_all(training_params())
    assert opened == {"train", "validation"}


def test_other_test_frames_and_captions_give_the_same_bytes_everywhere() -> None:
    params = training_params()
    first = run_all(params)
    store = Store(paths.STORE)
    windows, last_frame = store.windows, int(store.windows.target_frames(store.windows.of("validation")[-1])[-1])
    group: Any = zarr.open_group(paths.STORE, mode="r+", use_consolidated=False)
    for name in ("z500", "t850"):
        group[name][last_frame + 1 :] = 1e5
    text: Any = zarr.open_group(paths.EMBEDDINGS, mode="r+", use_consolidated=False)
    text["tokens"][int(windows.of("test")[0]) :] = 3
    assert (WindowDataset(Store(paths.STORE), "test")[0].inputs == 1e5).all()  # the reader sees them
    for folder in (paths.TRAIN_TEACHER, paths.DUMP_FEATURES, paths.DISTILL):
        shutil.rmtree(folder)
    shutil.rmtree(paths.WORK)
    assert run_all(params) == first


def test_every_stage_repeats_to_the_byte() -> None:
    params = training_params()
    first = run_all(params)
    shutil.rmtree(paths.WORK)
    assert run_all(params) == first
    assert len(first) > 10


def test_the_features_are_the_teachers_own() -> None:
    params = training_params()
    train_teacher.main(params)
    dump_features.main(params)
    features, store = Features(paths.features("multimodal")), Store(paths.STORE)
    dataset = WindowDataset(store, "validation", text=Embeddings(paths.EMBEDDINGS))
    batch = dataset.__getitems__([0, 2])
    assert batch.text is not None
    with torch.no_grad():
        fused = teachers.load(paths.teacher("multimodal"))(batch.inputs, batch.text).fused.numpy()
    np.testing.assert_allclose(features.of(batch.windows.numpy()).astype(np.float32), fused, rtol=1e-3, atol=1e-3)
    assert not list(paths.WORK.glob("dump_features/*/"))


def test_the_vision_teacher_is_the_same_without_text_and_never_opens_the_captions() -> None:
    shutil.rmtree(paths.EMBED)
    params = training_params()
    train_teacher.main(params, "vision")
    dump_features.main(params, "vision")
    config = json.loads((paths.teacher("vision") / "config.json").read_text())
    assert config["text_width"] is None
    features = Features(paths.features("vision"))
    assert features.of(Store(paths.STORE).windows.of("train")).std() > 0
    assert not paths.teacher("multimodal").exists()
