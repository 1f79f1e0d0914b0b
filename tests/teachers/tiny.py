"""Every teacher small enough to run in a moment, with inputs and captions for it."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.batch import Text
from pipeline.models import Problem
from pipeline.teachers.base import Teacher, build

TEXT = 6  # width of token embeddings
SIZES: dict[str, dict[str, Any]] = {
    "simvp": {"spatial_width": 4, "translator_width": 8, "translator_blocks": 2, "mlp_ratio": 1.0},
    "earthfarseer": {
        "patch": 4,
        "fourier_width": 8,
        "fourier_depth": 1,
        "spatial_width": 4,
        "temporal_width": 8,
        "temporal_depth": 1,
        "shortcut_width": 4,
    },
    "triton": {"spatial_width": 4, "temporal_width": 8, "temporal_blocks": 2, "heads": 2},
}
NAMES = list(SIZES)


def problem(**changes: Any) -> Problem:
    base = {"t_in": 2, "t_out": 2, "variables": 2, "height": 8, "width": 16, "periodic": True}
    return Problem.model_validate(base | changes)


def teacher(name: str, sizes: dict[str, Any] | None = None, text: int | None = TEXT, **changes: Any) -> Teacher:
    """A teacher of fixed weights; `changes` to its problem."""
    torch.manual_seed(0)
    return build(name, problem(**changes), SIZES[name] | (sizes or {}), text_width=text, layers=2, heads=2)


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
    text_free = model.alignment.text_projection is None
    for seed in range(3):
        model(inputs_of(model, 4, seed), None if text_free else words(4))
    return model.eval()


def dead(model: Teacher) -> list[str]:
    """The parameters that a forecast's gradient does not reach."""
    text = None if model.alignment.text_projection is None else words(4)
    model(inputs_of(model, 4), text).forecast.square().sum().backward()
    return [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
