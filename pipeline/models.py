"""What teachers and students have in common: the problem they are built for, and their files on disk.

A model's folder holds `model.safetensors` and `config.json`; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import UserError
from pipeline.store import Store
from pipeline.work import write_json


class Problem(BaseModel):
    """The shapes a model is built for: frames, variables, grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    t_in: int
    t_out: int
    variables: int
    height: int
    width: int
    periodic: bool  # columns wrap around the globe
    residual: bool = False  # the model forecasts the change since the last input frame

    @classmethod
    def of(cls, store: Store, residual: bool = False) -> Problem:
        grid, windows = store.description.grid, store.windows
        height, width = grid.shape
        return cls(
            t_in=windows.t_in,
            t_out=windows.t_out,
            variables=len(store.description.variables),
            height=height,
            width=width,
            periodic=grid.periodic,
            residual=residual,
        )


class Sizes(BaseModel):
    """A model's own settings, declared beside it; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def sizes(model: Any, given: dict[str, Any], key: str) -> Any:
    """Checks `given` against the model's `Sizes`; raises UserError naming `key` in params.yaml."""
    try:
        return model.Sizes.model_validate(given)
    except ValidationError as error:
        allowed = ", ".join(model.Sizes.model_fields)
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}" for p in error.errors())
        raise UserError(f"{key}: {problems}; its keys are {allowed}") from None


def save(model: nn.Module, folder: Path, config: dict[str, Any]) -> None:
    """Writes weights and configuration into `folder`; equal models give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.state_dict().items())}
    save_file(state, folder / "model.safetensors")
    write_json(folder / "config.json", config)


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no model (config.json is missing); `dvc repro` makes it") from None
    return config


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """Loads `folder`'s weights and switches to eval mode; raises UserError if they do not fit."""
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"{folder / 'model.safetensors'} does not fit its config.json: {error}") from None
    return model.eval()


def save_built(model: Any, folder: Path, arguments: dict[str, Any]) -> None:
    """Saves a model with what it was built from: its problem, and the other `arguments` of its room's `build`."""
    save(model, folder, {"problem": model.problem.model_dump(), **arguments})


def load_built(folder: Path, build: Callable[..., Any]) -> Any:
    """Builds the model that `save_built` wrote again, in eval mode; raises UserError if it is missing or unfit."""
    config = read_config(folder)
    return load_weights(build(problem=Problem(**config.pop("problem")), **config), folder)


def parameter_count(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
