"""The stage `distill`: what it leaves, and identities between methods that hold to the byte."""

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
from pipeline.embeddings import read_by
from pipeline.errors import UserError
from pipeline.features import origin
from pipeline.store import Store
from pipeline.students import base as students
from pipeline.windows import WindowDataset
from stages import distill
from tests.core import make_text_and_store, training_params, write_features

MODALITIES = ("multimodal", "vision")


@pytest.fixture(autouse=True)
def _a_record_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_text_and_store()
    windows = Store(paths.STORE).windows
    numbers = np.concatenate([windows.of("train"), windows.of("validation")])
    for modality in MODALITIES:  # what both left is the same, so that methods can be held against each other
        paths.teacher(modality).mkdir(parents=True)
        (paths.teacher(modality) / "model.safetensors").write_text(f"weights of the {modality} teacher")
        made_from = origin(paths.STORE, paths.teacher(modality), read_by(modality))
        write_features(paths.features(modality), numbers, forecast=(2, 2, 8, 16), made_from=made_from)


def weights(method: str, **overrides: Any) -> bytes:
    distill.main(training_params(**overrides), "unet", method)
    return (paths.distilled("unet", method) / "seed-42" / "model.safetensors").read_bytes()


def test_without_weight_the_teacher_changes_nothing() -> None:
    assert weights("s2kd", **{"lambda": 0}) == weights("baseline")
    assert weights("s2kd") != weights("baseline")


def test_without_beta_s2kd_is_fitnet() -> None:
    assert weights("s2kd", beta=0) == weights("fitnet")
    assert weights("s2kd", beta=0.5) != weights("fitnet")


def test_beta_and_lambda_do_not_touch_the_baseline_and_beta_not_fitnet() -> None:
    assert weights("baseline", beta=0.1, **{"lambda": 0.3}) == weights("baseline", beta=0.9)
    assert weights("fitnet", beta=0.1) == weights("fitnet", beta=0.9)
    assert weights("fitnet", **{"lambda": 0.3}) != weights("fitnet")


def test_the_ablations_are_parts_of_s2kd() -> None:
    assert weights("semantic") == weights("fitnet")
    assert weights("spectral") not in (weights("s2kd"), weights("baseline"))


def test_methods_options_reach_them_and_no_other_method() -> None:
    assert weights("s2kd", distill={"spectral_axes": "tokens"}) != weights("s2kd")
    assert weights("fitnet", distill={"spectral_axes": "tokens"}) == weights("fitnet")
    assert weights("sdkd", distill={"frequency_cutoff": 0.1}) != weights("sdkd")
    assert weights("kd", distill={"teacher_bounded": True}) != weights("kd")


def test_without_weight_kd_and_the_modules_of_reviewkd_change_nothing() -> None:
    assert weights("kd", **{"lambda": 0}) == weights("reviewkd", **{"lambda": 0}) == weights("baseline")
    assert weights("kd") != weights("baseline") != weights("reviewkd")


def test_an_option_of_another_method_takes_up_what_was_trained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first = weights("fitnet")
    caplog.clear()
    assert weights("fitnet", distill={"frequency_cutoff": 0.9}) == first
    assert "resuming after epoch 2" in caplog.text


def test_the_targets_scale_matters() -> None:
    assert weights("s2kd", distill={"target_scale": "raw"}) != weights("s2kd")


def test_every_seed_has_its_own_folder_and_is_trained_once() -> None:
    params = training_params(seeds=[7, 8])
    distill.main(params, "unet", "s2kd")
    folder = paths.distilled("unet", "s2kd")
    assert sorted(path.name for path in folder.iterdir()) == ["seed-7", "seed-8"]
    files = {path.name for path in (folder / "seed-8").iterdir()}
    assert files == {"model.safetensors", "config.json", "history.json", "live"}
    first, second = ((folder / name / "model.safetensors").read_bytes() for name in ("seed-7", "seed-8"))
    assert first != second
    distill.main(training_params(seeds=[8]), "unet", "s2kd")
    assert (folder / "seed-8" / "model.safetensors").read_bytes() == second
    assert sorted(path.name for path in folder.iterdir()) == ["seed-8"]


def test_each_term_and_its_gradient_is_in_the_history() -> None:
    distill.main(training_params(), "unet", "s2kd")
    history = json.loads((paths.distilled("unet", "s2kd") / "seed-42" / "history.json").read_text())
    terms = {
        f"{kind}_{name}"
        for kind in ("train", "validation", "gradient")
        for name in ("prediction", "semantic", "spectral")
    }
    assert [set(row) for row in history] == [terms | {"epoch", "learning_rate"}] * 2
    assert all(row[name] > 0 for row in history for name in terms)


def test_the_student_left_forecasts_in_physical_units_without_teacher_or_projection() -> None:
    distill.main(training_params(), "unet", "s2kd")
    paths.DUMP_FEATURES.rename("elsewhere")
    student = students.load(paths.distilled("unet", "s2kd") / "seed-42")
    batch = WindowDataset(Store(paths.STORE), "test")[0]
    with torch.no_grad():
        forecast = student(batch.inputs).forecast
    assert forecast.shape == batch.targets.shape
    mean = forecast.mean((0, 1, 3, 4))
    torch.testing.assert_close(mean, batch.targets.mean((0, 1, 3, 4)), rtol=0.1, atol=0)


def test_the_baseline_needs_no_features_and_other_methods_say_what_makes_them() -> None:
    paths.DUMP_FEATURES.rename("elsewhere")
    distill.main(training_params(), "unet", "baseline")
    with pytest.raises(UserError, match=r"features\.zarr is missing; `dvc repro` makes it"):
        distill.main(training_params(), "unet", "fitnet")


def test_coming_back_to_a_setting_takes_up_what_was_trained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first = weights("s2kd", beta=0.1)
    weights("s2kd", beta=0.9)
    caplog.clear()
    assert weights("s2kd", beta=0.1) == first
    assert "resuming after epoch 2" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("target_windows", [None, 5])
def test_two_processes_distil_what_one_does_within_rounding(target_windows: int | None) -> None:
    """The MLP-Mixer, which has neither batch norm nor dropout: nothing but the order of sums may differ."""
    histories = []
    for devices in (1, 2):
        sizes = {"mlp_mixer": {"width": 8, "layers": 1, "patch": 4}}
        settings = {"sizes": sizes, "batch_size": 8, "accumulate": 2, "target_windows": target_windows}
        params = training_params(distill=settings, runtime={"devices": devices})
        distill.main(params, "mlp_mixer", "s2kd")
        histories.append(json.loads((paths.distilled("mlp_mixer", "s2kd") / "seed-42/history.json").read_text()))
        shutil.rmtree(paths.WORK)  # or the first run would be taken up
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_fitnet_learns_from_the_vision_teacher_and_s2kd_from_the_multimodal_one() -> None:
    paths.features("vision").rename("elsewhere")
    assert weights("s2kd") != weights("baseline")
    for method in ("fitnet", "s2kd_vision", "sdkd", "reviewkd", "kd"):
        with pytest.raises(UserError, match=r"dump_features/vision/features\.zarr is missing"):
            weights(method)


def test_the_control_is_s2kd_from_the_other_teacher() -> None:
    assert weights("s2kd_vision") == weights("s2kd")


@pytest.mark.parametrize("method", ["s2kd", "kd"])
@pytest.mark.parametrize("what", ["weights", "captions", "preprocessing"])
def test_features_made_from_something_else_are_refused(method: str, what: str) -> None:
    if what == "weights":
        for modality in MODALITIES:
            (paths.teacher(modality) / "model.safetensors").write_text("other weights")
    elif what == "captions":
        method = "s2kd"  # kd's teacher reads none
        zarr.open_group(paths.EMBEDDINGS, mode="r+", use_consolidated=False).attrs["captions"] = "others"
    else:
        group: Any = zarr.open_group(paths.STORE, mode="r+", use_consolidated=False)
        group["window_start"][:] = group["window_start"][:][::-1]
    with pytest.raises(UserError, match=rf"features\.zarr was made from other {what} .* run dump_features again"):
        weights(method)
    assert not paths.distilled("unet", method).exists()


def test_a_methods_own_weights_take_the_place_of_the_common_ones_for_it_alone() -> None:
    tuned = {"tuned": {"s2kd": {"lambda": 0.3, "beta": 0.9, "target_scale": "raw"}}}
    common = {"beta": 0.9, "lambda": 0.3, "distill": {"target_scale": "raw"}}
    assert weights("s2kd", distill=tuned) == weights("s2kd", **common) != weights("s2kd")
    assert weights("fitnet", distill=tuned) == weights("fitnet")


def test_a_students_own_weights_stand_above_those_of_the_method() -> None:
    of_both = {"s2kd": {"lambda": 0.3, "beta": 0.9}, "unet-s2kd": {"lambda": 0.7}, "resnet-s2kd": {"lambda": 5.0}}
    of_method = {"s2kd": {"lambda": 0.7, "beta": 0.9}}
    assert weights("s2kd", distill={"tuned": of_both}) == weights("s2kd", distill={"tuned": of_method})
