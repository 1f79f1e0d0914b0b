from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.batch import Text
from pipeline.models import Problem, parameter_count
from pipeline.teachers.base import Teacher, build
from pipeline.teachers.simvp import GatedBlock, SimVP

SIZES: dict[str, Any] = {"spatial_width": 4, "translator_width": 8, "translator_blocks": 2, "mlp_ratio": 1.0}
TEXT = 6


def problem(**changes: Any) -> Problem:
    base = {"t_in": 2, "t_out": 2, "variables": 2, "height": 8, "width": 16, "periodic": True}
    return Problem.model_validate(base | changes)


def teacher(sizes: dict[str, Any] | None = None, **changes: Any) -> Teacher:
    torch.manual_seed(0)
    return build("simvp", problem(**changes), SIZES | (sizes or {}), text_width=TEXT, layers=2, heads=2)


def inputs_of(model: Teacher, samples: int = 2, seed: int = 1) -> torch.Tensor:
    p = model.problem
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, p.t_in, p.variables, p.height, p.width, generator=generator)


def words(samples: int = 2, length: int = 5, seed: int = 2) -> Text:
    tokens = torch.randn(samples, length, TEXT, generator=torch.Generator().manual_seed(seed))
    return Text(tokens, torch.ones(samples, length, dtype=torch.bool))


def lively(model: Teacher) -> Teacher:
    """In eval mode, with layer scales of 1 and batch norm's statistics off their initial values."""
    for name, parameter in model.named_parameters():
        if name.endswith("_scale"):
            parameter.data.fill_(1.0)
    for seed in range(3):
        model(inputs_of(model, 4, seed), words(4))
    return model.eval()


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


def test_a_gradient_reaches_every_parameter() -> None:
    model = teacher()
    model(inputs_of(model, 4), words(4)).forecast.square().sum().backward()
    dead = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert dead == []


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


def test_drop_path_works_while_training_only_and_keeps_the_mean() -> None:
    block = GatedBlock(4, mlp_ratio=1, drop_path=0.5, periodic=True)
    residual = torch.ones(4000, 1, 1, 1)
    dropped = block._dropped(residual)
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.1)
    assert block.eval()._dropped(residual) is residual


def test_drop_path_rises_from_zero_to_its_value() -> None:
    model = teacher({"drop_path": 0.3, "translator_blocks": 4})
    rates = [layer.drop_path for layer in model.modules() if isinstance(layer, GatedBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
