from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.students.base import build
from tests.students import contract

SIZES = {"width": 8, "blocks": 3}


@pytest.mark.parametrize("shape", [(12, 12, 1, 32, 64), (12, 12, 2, 32, 64), (4, 4, 2, 32, 32)])
def test_by_default_it_has_the_papers_4_5_million_parameters(shape: tuple[int, ...]) -> None:
    assert contract.millions("resnet", {}, shape) == pytest.approx(4.5, rel=0.01)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", contract.SHAPES)
def test_forecast_latent_and_levels_have_the_shapes_that_are_declared(shape: tuple[int, ...], periodic: bool) -> None:
    contract.assert_shapes("resnet", SIZES, contract.shaped(shape, periodic))


def test_the_latent_is_the_width_of_the_blocks_on_half_the_grid() -> None:
    model = contract.student("resnet", SIZES, contract.problem(height=15, width=31))
    assert (model.latent_width, model.latent_grid) == (8, (8, 16))
    assert model.levels[-1] == (4, (16, 32))


@pytest.mark.parametrize("blocks", [1, 2])
def test_few_blocks_are_enough(blocks: int) -> None:
    contract.assert_shapes("resnet", {"width": 2, "blocks": blocks}, contract.problem())


def test_a_gradient_reaches_every_parameter() -> None:
    contract.assert_a_gradient_reaches_every_parameter("resnet", SIZES)


def test_the_latent_teaches_all_but_the_way_back_up() -> None:
    assert contract.untaught_by_latent("resnet", SIZES) == {"up", "readout"}


def test_every_forecast_frame_sees_every_input_frame() -> None:
    contract.assert_every_forecast_frame_sees_every_input_frame("resnet", SIZES)


@pytest.mark.parametrize("periodic", [True, False])
def test_turning_a_globe_turns_the_forecast_and_turning_a_plane_does_not(periodic: bool) -> None:
    model = contract.warmed(contract.student("resnet", SIZES, contract.problem(periodic=periodic)))
    inputs = contract.inputs_for(model.problem)
    turned, expected = model(inputs.roll(8, -1)).forecast, model(inputs).forecast.roll(8, -1)
    assert torch.allclose(turned, expected, rtol=1e-4, atol=1e-5) is periodic


def test_a_saved_one_forecasts_the_same_when_loaded(tmp_path: Path) -> None:
    contract.assert_the_same_when_loaded("resnet", SIZES, tmp_path / "student")


def test_the_forecast_does_not_depend_on_units() -> None:
    contract.assert_not_tied_to_units("resnet", SIZES)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"distill\.sizes\.resnet: width = 7: .*multiple of 2"):
        build("resnet", contract.problem(), {"width": 7})
