from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models import Problem, parameter_count
from pipeline.teachers import simvp
from pipeline.teachers.base import Teacher, build
from pipeline.teachers.simvp import GatedBlock, SimVP
from tests.teachers import tiny
from tests.teachers.tiny import inputs_of, lively, words

SIZES = tiny.SIZES["simvp"]


def teacher(sizes: dict[str, Any] | None = None, **changes: Any) -> Teacher:
    return tiny.teacher("simvp", sizes, **changes)


def test_at_the_papers_size_it_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = build("simvp", simvp.PAPER_PROBLEM, simvp.PAPER_SIZES, text_width=384, layers=2, heads=8)
    assert parameter_count(model) == pytest.approx(80.5e6, rel=0.01)


@pytest.mark.parametrize(
    ("problem", "published"),
    [
        (Problem(t_in=12, t_out=12, variables=1, height=32, width=64, periodic=True), 12.758e6),  # WeatherBench t2m
        (Problem(t_in=4, t_out=4, variables=2, height=32, width=32, periodic=False), 9.961e6),  # TaxiBJ
    ],
)
def test_without_alignment_it_is_as_large_as_openstls_simvp(problem: Problem, published: float) -> None:
    assert parameter_count(SimVP(problem, SimVP.Sizes.model_validate({}))) == pytest.approx(published, abs=500)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("t_in", "t_out", "height", "width", "spatial_blocks"),
    [(2, 2, 8, 16, 2), (3, 1, 9, 13, 2), (2, 5, 7, 16, 2), (1, 1, 5, 6, 4), (2, 2, 4, 4, 2), (2, 1, 3, 2, 4)],
)
def test_forecast_and_features_have_the_shapes_that_are_declared(
    t_in: int, t_out: int, height: int, width: int, spatial_blocks: int, periodic: bool
) -> None:
    model = teacher(
        {"spatial_blocks": spatial_blocks}, t_in=t_in, t_out=t_out, height=height, width=width, periodic=periodic
    )
    output = model(inputs_of(model), words())
    divisor = 2 ** (spatial_blocks // 2)
    assert model.latent_grid == (-(-height // divisor), -(-width // divisor))
    assert output.forecast.shape == (2, t_out, 2, height, width)
    assert output.fused.shape == (2, model.latent_grid[0] * model.latent_grid[1], model.latent_width)
    assert torch.isfinite(output.forecast).all()


def test_turning_the_globe_turns_the_forecast_and_its_features() -> None:
    model = lively(teacher())
    inputs, text = inputs_of(model), words()
    plain, turned = model(inputs, text), model(inputs.roll(6, -1), text)
    torch.testing.assert_close(turned.forecast, plain.forecast.roll(6, -1), rtol=1e-3, atol=1e-4)
    grid = plain.fused.unflatten(1, model.latent_grid)
    torch.testing.assert_close(turned.fused.unflatten(1, model.latent_grid), grid.roll(3, 2), rtol=1e-3, atol=1e-4)


def test_a_plane_does_not_turn() -> None:
    model = lively(teacher(periodic=False))
    inputs, text = inputs_of(model), words()
    turned = model(inputs.roll(6, -1), text).forecast
    assert not torch.allclose(turned, model(inputs, text).forecast.roll(6, -1), atol=1e-2)


def test_drop_path_rises_from_zero_to_its_value() -> None:
    model = teacher({"drop_path": 0.3, "translator_blocks": 4})
    rates = [layer.drop_path for layer in model.modules() if isinstance(layer, GatedBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
