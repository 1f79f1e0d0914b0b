from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.models import Problem, parameter_count
from pipeline.students.base import Student, build


def problem(**changes: object) -> Problem:
    return Problem.model_validate(
        {"t_in": 2, "t_out": 2, "variables": 2, "height": 16, "width": 32, "periodic": True} | changes
    )


def student(channels: int = 4, level: int = 3, **changes: object) -> Student:
    torch.manual_seed(0)
    return build("unet", problem(**changes), {"width": channels, "latent_level": level})


def warmed(model: Student) -> Student:
    """In eval mode, with batch norm's statistics off their initial values."""
    p = model.problem
    for _ in range(3):
        model(torch.randn(4, p.t_in, p.variables, p.height, p.width))
    return model.eval()


@pytest.mark.parametrize("shape", [(12, 12, 1, 32, 64), (4, 4, 2, 32, 32), (4, 4, 2, 32, 64)])
def test_with_width_52_it_has_the_papers_5_1_million_parameters(shape: tuple[int, ...]) -> None:
    t_in, t_out, variables, height, width = shape
    model = student(52, t_in=t_in, t_out=t_out, variables=variables, height=height, width=width)
    assert parameter_count(model) / 1e6 == pytest.approx(5.1, abs=0.05)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("t_in", "t_out", "variables", "height", "width"),
    [(2, 2, 2, 16, 32), (3, 1, 1, 9, 17), (1, 4, 3, 5, 6), (2, 2, 1, 8, 8), (2, 1, 1, 3, 2)],
)
def test_forecast_and_latent_have_the_shapes_that_are_declared(
    t_in: int, t_out: int, variables: int, height: int, width: int, periodic: bool, level: int
) -> None:
    model = student(
        level=level, t_in=t_in, t_out=t_out, variables=variables, height=height, width=width, periodic=periodic
    )
    output = model(torch.randn(3, t_in, variables, height, width))
    assert output.forecast.shape == (3, t_out, variables, height, width)
    assert output.latent.shape == (3, model.latent_width, *model.latent_grid)
    assert model.latent_width == 4 * 2**level
    assert model.latent_grid == (-(-height // 8) * 2 ** (3 - level), -(-width // 8) * 2 ** (3 - level))


def test_turning_the_globe_turns_the_forecast() -> None:
    model = warmed(student())
    inputs = torch.randn(2, 2, 2, 16, 32)
    expected = model(inputs).forecast.roll(8, -1)
    torch.testing.assert_close(model(inputs.roll(8, -1)).forecast, expected)


def test_a_plane_does_not_turn() -> None:
    model = warmed(student(periodic=False))
    inputs = torch.randn(2, 2, 2, 16, 32)
    assert not torch.allclose(model(inputs.roll(8, -1)).forecast, model(inputs).forecast.roll(8, -1), atol=1e-2)


def test_the_latents_level_changes_neither_forecast_nor_size() -> None:
    inputs = torch.randn(2, 2, 2, 16, 32)
    forecasts = [student(level=level).eval()(inputs).forecast for level in range(4)]
    assert all(torch.equal(forecast, forecasts[0]) for forecast in forecasts)


def trained_by_latent(level: int) -> set[str]:
    model = student(level=level)
    model(torch.randn(4, 2, 2, 16, 32)).latent.square().sum().backward()
    return {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}


def test_a_latent_of_the_decoder_is_behind_more_of_the_network() -> None:
    assert trained_by_latent(3) == {"down"}
    assert trained_by_latent(1) == {"down", "up", "merge"}


def test_a_gradient_reaches_every_parameter() -> None:
    model = student()
    output = model(torch.randn(4, 2, 2, 16, 32))
    output.forecast.square().sum().backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def test_the_forecast_does_not_depend_on_units() -> None:
    model = warmed(student())
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    inputs = 5 + torch.randn(2, 2, 2, 16, 32)
    kelvin = model(inputs).forecast
    factor, offset = torch.tensor([9.81, 1.8])[:, None, None], torch.tensor([0.0, 32.0])[:, None, None]
    model.normaliser.set([10 * 9.81, -4 * 1.8 + 32], [3 * 9.81, 0.5 * 1.8])
    torch.testing.assert_close(model(inputs * factor + offset).forecast, kelvin * factor + offset, rtol=1e-4, atol=1e-3)


def frames_reach(model: Student, inputs: Tensor) -> Tensor:
    """(T_out, T_in): how much each forecast frame depends on each input frame."""
    inputs = inputs.clone().requires_grad_()
    forecast = model(inputs).forecast
    rows = [torch.autograd.grad(frame.square().sum(), inputs, retain_graph=True)[0] for frame in forecast.unbind(1)]
    return torch.stack(rows).abs().sum((1, 3, 4, 5))


def test_every_forecast_frame_sees_every_input_frame() -> None:
    model = warmed(student(t_in=3, t_out=2))
    assert (frames_reach(model, torch.randn(1, 3, 2, 16, 32)) > 0).all()
