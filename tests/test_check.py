from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.check import check
from pipeline.errors import UserError
from pipeline.params import load
from tests.helpers import tiny_params

ROOT = Path(__file__).resolve().parents[1]


def refusal(**overrides: Any) -> str:
    with pytest.raises(UserError) as error:
        check(tiny_params(**overrides))
    return str(error.value)


def test_the_repositorys_own_parameters_pass() -> None:
    check(load(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("dataset", "nonesuch", "weather_twin, weatherbench, xarray"),
        ("captioner", "nonesuch", "narrator"),
        ("embedder", "nonesuch", "minilm, huggingface"),
        ("teacher", "nonesuch", "simvp"),
        ("students", ["unet", "nonesuch"], "unet"),
        ("methods", ["baseline", "nonesuch"], "baseline, fitnet, s2kd"),
        ("train_teacher", {"sizes": {"nonesuch": {}}}, "simvp"),
        ("distill", {"sizes": {"nonesuch": {}}}, "unet"),
    ],
)
def test_an_unknown_name_is_told_with_its_key_and_the_known_ones(key: str, value: Any, known: str) -> None:
    message = refusal(**{key: value})
    assert "'nonesuch' is not a known" in message
    assert message.startswith(f"params.yaml: {key}")
    assert all(name in message for name in known.split(", "))


def test_a_method_that_needs_forecasts_names_the_key_that_stores_them() -> None:
    message = refusal(methods=["baseline", "kd"])
    assert "method 'kd' learns from the teacher's forecasts and dump_features.forecasts is false" in message
    check(tiny_params(methods=["baseline", "kd"], dump_features={"forecasts": True}))


def test_methods_without_the_control_are_refused() -> None:
    assert "methods must list 'baseline'" in refusal(methods=["s2kd"])


def test_a_wrong_size_of_a_model_is_told_with_its_keys() -> None:
    assert "distill.sizes.unet: depth = 3" in refusal(distill={"sizes": {"unet": {"depth": 3}}})
    message = refusal(train_teacher={"sizes": {"simvp": {"drop_path": 1.5}}})
    assert "train_teacher.sizes.simvp: drop_path = 1.5: Input should be less than 1" in message
    assert "translator_blocks" in message


def test_a_method_needs_its_teacher() -> None:
    message = refusal(methods=["baseline", "fitnet"], modalities=["multimodal"])
    assert "method 'fitnet' learns from the vision teacher and modalities = [multimodal]" in message
    assert "modalities = [vision] must list 'multimodal'" in refusal(methods=["baseline"], modalities=["vision"])
    check(tiny_params(methods=["baseline", "s2kd"], modalities=["multimodal"]))
    check(tiny_params(methods=["baseline", "fitnet", "s2kd_vision", "s2kd"]))


def test_weights_of_an_unknown_method_are_refused() -> None:
    def said(name: str) -> str:
        return refusal(distill={"tuned": {name: {"lambda": 0.1}}})

    assert "distill.tuned = 's2k' is not a known method" in said("s2k")
    assert "distill.tuned.unet-s2k: method = 's2k' is not a known method" in said("unet-s2k")
    assert "distill.tuned.unit-s2kd: student = 'unit' is not a known student" in said("unit-s2kd")
    check(tiny_params(distill={"tuned": {"mlp_mixer-s2kd": {"lambda": 0.1}}}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("student", "resnet", "params.yaml: export.student = 'resnet' is not trained; students: unet"),
        ("method", "fitnet", "params.yaml: export.method = 'fitnet' is not trained; methods: baseline, s2kd"),
        ("seed", 7, "params.yaml: export.seed = 7 is not trained; seeds: 1, 2"),
    ],
)
def test_an_export_of_what_is_not_trained_is_refused_before_anything_runs(key: str, value: Any, message: str) -> None:
    assert refusal(seeds=[1, 2], export={key: value}) == message
    check(tiny_params(seeds=[1, 2], export={"student": "unet", "method": "s2kd", "seed": 2}))
