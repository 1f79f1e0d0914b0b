"""What every student must do, asked of a student by name; each file of a student runs it with its own sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models import Problem, parameter_count
from pipeline.students.base import Projection, Student, build, load, regridded, save_student

Sizes = dict[str, Any]

SHAPES = [  # t_in, t_out, variables, height, width
    (2, 2, 2, 16, 32),
    (3, 1, 1, 9, 17),
    (1, 4, 3, 5, 6),
    (2, 1, 1, 3, 2),
]


def problem(**changes: Any) -> Problem:
    base = {"t_in": 2, "t_out": 2, "variables": 2, "height": 16, "width": 32, "periodic": True}
    return Problem.model_validate(base | changes)


def shaped(shape: tuple[int, ...], periodic: bool) -> Problem:
    names = ("t_in", "t_out", "variables", "height", "width")
    return problem(**dict(zip(names, shape, strict=True)), periodic=periodic)


def student(name: str, sizes: Sizes, asked: Problem | None = None) -> Student:
    """A student of fixed weights."""
    torch.manual_seed(0)
    return build(name, asked or problem(), sizes)


def inputs_for(asked: Problem, samples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, asked.t_in, asked.variables, asked.height, asked.width, generator=generator)


def warmed(model: Student) -> Student:
    """In eval mode, with batch norm's statistics, where there are any, off their initial values."""
    for _ in range(3):
        model(torch.randn_like(inputs_for(model.problem, 4)))
    return model.eval()


def millions(name: str, sizes: Sizes, shape: tuple[int, ...]) -> float:
    """Parameters at a size that is only counted."""
    with torch.device("meta"):
        return parameter_count(build(name, shaped(shape, periodic=True), sizes)) / 1e6


def assert_shapes(name: str, sizes: Sizes, asked: Problem) -> None:
    """Forecast and feature maps are as declared, and the latent reaches the teacher's tokens, finer or coarser."""
    model = student(name, sizes, asked)
    output = model(inputs_for(asked, 3))
    assert output.forecast.shape == (3, asked.t_out, asked.variables, asked.height, asked.width)
    assert [tuple(level.shape) for level in output.levels] == [(3, level.width, *level.grid) for level in model.levels]
    assert output.latent is output.levels[model.latent_level]
    for grid in ((2, 3), (7, 20)):
        projection = Projection(model.latent_width, model.latent_grid, 5, grid, asked.periodic)
        assert projection(output.latent).shape == (3, grid[0] * grid[1], 5)
        assert all(regridded(level, grid, asked.periodic).shape[-2:] == grid for level in output.levels)


def assert_a_gradient_reaches_every_parameter(name: str, sizes: Sizes) -> None:
    model = student(name, sizes)
    model(inputs_for(model.problem, 4)).forecast.square().sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def untaught_by_latent(name: str, sizes: Sizes) -> set[str]:
    """The parts of a student that no gradient of its latent reaches."""
    model = student(name, sizes)
    (model(inputs_for(model.problem, 4)).latent ** 3).sum().backward()
    return {key.split(".")[0] for key, value in model.named_parameters() if value.grad is None or not value.grad.any()}


def assert_every_forecast_frame_sees_every_input_frame(name: str, sizes: Sizes) -> None:
    model = warmed(student(name, sizes, problem(t_in=3)))
    inputs = inputs_for(model.problem, 1).requires_grad_()
    for frame in model(inputs).forecast.unbind(1):
        (gradient,) = torch.autograd.grad(frame.square().sum(), inputs, retain_graph=True)
        assert (gradient.abs().sum((0, 2, 3, 4)) > 0).all()


def assert_the_same_when_loaded(name: str, sizes: Sizes, folder: Path) -> None:
    model = warmed(student(name, sizes))
    model.normaliser.set([5.0, -1.0], [2.0, 3.0])
    save_student(model, folder, name=name, sizes=sizes)
    again, inputs = load(folder), inputs_for(model.problem)
    assert not again.training
    assert torch.equal(again(inputs).forecast, model(inputs).forecast)
    assert again.levels == model.levels


def assert_not_tied_to_units(name: str, sizes: Sizes) -> None:
    model = warmed(student(name, sizes))
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    inputs = 5 + inputs_for(model.problem)
    kelvin = model(inputs).forecast
    factor, offset = torch.tensor([9.81, 1.8])[:, None, None], torch.tensor([0.0, 32.0])[:, None, None]
    model.normaliser.set([10 * 9.81, -4 * 1.8 + 32], [3 * 9.81, 0.5 * 1.8])
    torch.testing.assert_close(model(inputs * factor + offset).forecast, kelvin * factor + offset, rtol=1e-4, atol=1e-3)
