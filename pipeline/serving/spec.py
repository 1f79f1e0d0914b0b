"""What an exported student was made for: `config.json` beside `model.onnx`. Needs neither PyTorch nor params.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UserError
from pipeline.params import TimeStamps
from pipeline.store import Grid, Variable

FORMAT: Literal["s2kd-model/1"] = "s2kd-model/1"
CONFIG, ONNX, ONNX_INT8, TORCH = "config.json", "model.onnx", "model_int8.onnx", "model.pt2"
PRECISION = {"float32": ONNX, "int8": ONNX_INT8}


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldSpec(Part):
    """One variable, with the training statistics that the model's own normalisation holds; physical units."""

    name: str
    units: str
    long_name: str
    standard_name: str = ""
    mean: float
    std: float

    @property
    def variable(self) -> Variable:
        return Variable(self.name, self.units, self.long_name, self.standard_name)


class GridSpec(Part):
    """Coordinates of the grid, ascending; `units` are those of a plane's y and x, where they are known."""

    dims: tuple[Literal["latitude", "y"], Literal["longitude", "x"]]
    y: tuple[float, ...]
    x: tuple[float, ...]
    units: str = ""

    @property
    def grid(self) -> Grid:
        return Grid(self.dims, np.array(self.y), np.array(self.x), self.units)


class Reader(Part):
    """How raw files of the training data are read, for input in their layout."""

    dataset: str
    variables: tuple[str, ...]
    dimensions: dict[Literal["time", "latitude", "longitude", "y", "x"], str] = {}


class Spec(Part):
    """Shapes, names and units at the model's door: (B, t_in, C, H, W) in, (B, t_out, C, H, W) out, float32."""

    format: Literal["s2kd-model/1"] = FORMAT
    student: str
    method: str
    seed: int
    parameters: int
    description: str  # of the data, in words
    time_stamps: TimeStamps
    t_in: int = Field(gt=0)
    t_out: int = Field(gt=0)
    step_seconds: float = Field(gt=0)  # between two frames of a window
    variables: tuple[FieldSpec, ...] = Field(min_length=1)
    grid: GridSpec
    reader: Reader

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.variables), len(self.grid.y), len(self.grid.x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.t_in, *self.frame_shape

    @property
    def step(self) -> np.timedelta64:
        return np.timedelta64(round(self.step_seconds * 1000), "ms")

    @property
    def lead_times(self) -> NDArray[np.timedelta64]:
        """(t_out,) after the last input frame."""
        return np.arange(1, self.t_out + 1) * self.step

    @property
    def title(self) -> str:
        return f"{self.student} by {self.method}, seed {self.seed}"


def in_words(seconds: float) -> str:
    """A duration with its unit, as people write it."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    unit, each = next((pair for pair in units if seconds >= 2 * pair[1]), ("seconds", 1))
    return f"{seconds / each:g} {unit}"


def read(folder: Path) -> Spec:
    """The description of the model in `folder`; raises UserError if there is none, or a damaged one."""
    path = folder / CONFIG
    try:
        tree: Any = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no exported model ({CONFIG} is missing); the stage export makes one") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(all of it)"
        raise UserError(f"{path} does not describe a model of format {FORMAT}: {key}: {first['msg']}") from None
