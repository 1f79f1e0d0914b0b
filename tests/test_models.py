from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipeline import models
from pipeline.errors import UserError
from pipeline.models import Problem
from pipeline.students.base import build as build_student
from pipeline.students.unet import UNet
from pipeline.teachers.base import build as build_teacher
from tests.helpers import make_store
from tests.teachers.test_simvp import SIZES, words


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_problem_is_read_from_the_store() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8), t_in=3, t_out=1)
    expected = {"t_in": 3, "t_out": 1, "variables": 2, "height": 4, "width": 8, "periodic": True, "residual": False}
    assert Problem.of(store).model_dump() == expected
    assert Problem.of(store, residual=True).model_dump() == expected | {"residual": True}


def test_equal_models_are_saved_as_equal_bytes_with_their_configuration() -> None:
    for folder in ("first", "second"):
        torch.manual_seed(0)
        models.save(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), Path(folder), {"name": "x", "sizes": {"a": 1}})
    for file in ("model.safetensors", "config.json"):
        assert Path("first", file).read_bytes() == Path("second", file).read_bytes()
    assert models.read_config(Path("first")) == {"name": "x", "sizes": {"a": 1}}
    assert {path.name for path in Path("first").iterdir()} == {"model.safetensors", "config.json"}


def test_weights_are_plain_arrays_that_load_back() -> None:
    model = nn.Linear(2, 3)
    models.save(model, Path("model"), {})
    assert np.array_equal(load_file("model/model.safetensors")["weight"], model.weight.detach().numpy())
    other = models.load_weights(nn.Linear(2, 3), Path("model"))
    assert torch.equal(other.get_parameter("weight"), model.weight)
    assert not other.training


@pytest.mark.parametrize("damage", ["other", "cut", "gone"])
def test_weights_that_do_not_fit_are_named(damage: str) -> None:
    models.save(nn.Linear(2, 3), Path("model"), {})
    file = Path("model/model.safetensors")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:20])
    elif damage == "gone":
        file.unlink()
    with pytest.raises(UserError, match=r"model/model\.safetensors does not fit its config\.json"):
        models.load_weights(nn.Linear(2, 4 if damage == "other" else 3), Path("model"))


def test_only_trainable_parameters_are_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert models.parameter_count(model) == 2 * 3 + 3 + 3 + 3
    model[0].weight.requires_grad_(False)
    assert models.parameter_count(model) == 3 + 3 + 3


def test_every_wrong_size_is_told_with_the_key_and_what_is_allowed() -> None:
    with pytest.raises(UserError) as error:
        models.sizes(UNet, {"width": 1.5, "depth": 2}, "params.yaml: distill.sizes.unet")
    message = str(error.value)
    assert message.startswith("params.yaml: distill.sizes.unet: ")
    assert "width = 1.5" in message
    assert "depth = 2" in message
    assert message.endswith("its keys are width, latent_level")


def forecast(kind: str, residual: bool, inputs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    problem = Problem(t_in=2, t_out=2, variables=2, height=8, width=16, periodic=True, residual=residual)
    model: Any
    if kind == "student":
        model = build_student("unet", problem, {"width": 2})
    else:
        model = build_teacher("simvp", problem, SIZES, text_width=6, layers=1, heads=2)
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    output = model.eval()(inputs, words()) if kind == "teacher" else model.eval()(inputs)
    result: torch.Tensor = output.forecast
    return result


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_residual_model_adds_its_output_to_the_last_input_frame(kind: str) -> None:
    inputs = torch.randn(2, 2, 2, 8, 16) + 10
    mean = torch.tensor([10.0, -4.0])[:, None, None]
    plain, residual = (forecast(kind, value, inputs) for value in (False, True))
    torch.testing.assert_close(residual, inputs[:, -1:] + plain - mean, rtol=1e-4, atol=1e-4)
