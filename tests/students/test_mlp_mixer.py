from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.students.base import build, load, save_student
from tests.students import contract

SIZES = {"width": 8, "layers": 3}


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((12, 12, 1, 32, 64), {}),
        ((12, 12, 2, 32, 64), {"width": 318}),
        ((4, 4, 2, 32, 32), {"width": 432, "layers": 4}),
        ((4, 4, 2, 64, 64), {"width": 420, "layers": 4}),
    ],
)
def test_at_the_stated_sizes_it_has_the_papers_6_2_million_parameters(
    shape: tuple[int, ...], sizes: contract.Sizes
) -> None:
    assert contract.millions("mlp_mixer", sizes, shape) == pytest.approx(6.2, rel=0.01)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", contract.SHAPES)
def test_forecast_latent_and_levels_have_the_shapes_that_are_declared(shape: tuple[int, ...], periodic: bool) -> None:
    contract.assert_shapes("mlp_mixer", SIZES, contract.shaped(shape, periodic))


def test_the_latent_is_a_token_for_each_patch() -> None:
    model = contract.student("mlp_mixer", SIZES, contract.problem(height=14, width=31))
    assert (model.latent_width, model.latent_grid) == (8, (4, 8))


def test_a_token_of_the_forecast_lies_where_its_patch_lies() -> None:
    """Without mixing, a change of one patch of the input changes that patch of the forecast alone."""
    model = contract.student("mlp_mixer", SIZES).eval()
    for layer in [*model.first, *model.second]:  # type: ignore[misc]
        torch.nn.init.zeros_(layer.token_mlp[2].weight)
    inputs = contract.inputs_for(model.problem, 1)
    changed = inputs.clone()
    changed[..., 4:8, 20:24] += 1
    change = (model(changed).forecast - model(inputs).forecast).abs().sum((0, 1, 2))
    inside = torch.zeros(16, 32, dtype=torch.bool)
    inside[4:8, 20:24] = True
    assert (change[inside] > 0).all()
    assert (change[~inside] == 0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_few_layers_are_enough(layers: int) -> None:
    contract.assert_shapes("mlp_mixer", {"width": 2, "layers": layers, "patch": 2}, contract.problem())


def test_a_gradient_reaches_every_parameter() -> None:
    contract.assert_a_gradient_reaches_every_parameter("mlp_mixer", SIZES)


def test_the_latent_teaches_all_but_the_readout() -> None:
    assert contract.untaught_by_latent("mlp_mixer", SIZES) == {"readout"}


def test_every_forecast_frame_sees_every_input_frame() -> None:
    contract.assert_every_forecast_frame_sees_every_input_frame("mlp_mixer", SIZES)


def test_every_point_of_the_forecast_sees_the_whole_grid() -> None:
    model = contract.student("mlp_mixer", SIZES)
    inputs = contract.inputs_for(model.problem, 1).requires_grad_()
    model(inputs).forecast[..., 0, 0].square().sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad.abs().sum((0, 1, 2)) > 0).all()


def test_a_saved_one_forecasts_the_same_when_loaded(tmp_path: Path) -> None:
    contract.assert_the_same_when_loaded("mlp_mixer", SIZES, tmp_path / "student")


def test_the_forecast_does_not_depend_on_units() -> None:
    contract.assert_not_tied_to_units("mlp_mixer", SIZES)


def test_a_checkpoint_that_meets_another_grid_says_which_it_was_trained_on(tmp_path: Path) -> None:
    save_student(contract.student("mlp_mixer", SIZES), tmp_path / "student", name="mlp_mixer", sizes=SIZES)
    model = load(tmp_path / "student")
    sentence = (
        "this mlp_mixer was trained on a grid of 16 x 32 and is given one of 8 x 32; its token MLPs know no other"
    )
    with pytest.raises(UserError, match=sentence):
        model(torch.zeros(1, 2, 2, 8, 32))
    with pytest.raises(UserError, match="given one of 15 x 31"):  # the same tokens after padding, still another grid
        model(torch.zeros(1, 2, 2, 15, 31))


def test_weights_of_another_grid_do_not_fit(tmp_path: Path) -> None:
    save_student(contract.student("mlp_mixer", SIZES), tmp_path / "student", name="mlp_mixer", sizes=SIZES)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    config["problem"]["height"] = 32
    (tmp_path / "student" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit its config"):
        load(tmp_path / "student")


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"distill\.sizes\.mlp_mixer: width = 7: .*multiple of 2"):
        build("mlp_mixer", contract.problem(), {"width": 7})
