"""The vision-only student, and the projection P that ties its latent to the teacher's while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.layers import Normaliser
from pipeline.models import Problem, Sizes, load_built, save_built


class StudentOutput(NamedTuple):
    """forecast: (B, T_out, C, H, W), physical units. latent: (B, D_student, h, w), the Z_v^G of eq. 10."""

    forecast: Tensor
    latent: Tensor


class Student(nn.Module, ABC):
    """Built for a problem; `latent_width` and `latent_grid` describe the latent that P projects.

    A student writes `predict` on normalised fields with frames stacked in channels.
    """

    Sizes: ClassVar[type[Sizes]]
    latent_width: int
    latent_grid: tuple[int, int]

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.normaliser = Normaliser(problem.variables)

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T_in * C, H, W) -> forecast (B, T_out * C, H, W) and latent (B, D_student, h, w)."""

    def forward(self, inputs: Tensor) -> StudentOutput:
        """inputs: (B, T_in, C, H, W), physical units."""
        scores = self.normaliser(inputs)
        images, latent = self.predict(scores.flatten(1, 2))
        forecast = images.unflatten(1, (self.problem.t_out, -1))
        if self.problem.residual:
            forecast = scores[:, -1:] + forecast
        return StudentOutput(self.normaliser.inverse(forecast), latent)


class Projection(nn.Module):
    """P of eq. 10: a linear map from the student's latent to the teacher's, on the teacher's grid.

    A student's latent that is coarser than the teacher's is mapped to the block of tokens it covers (a linear
    map of each latent position to `block` tokens), then brought to the exact grid; a finer one is mapped token
    by token and averaged. Training-only: never exported.
    """

    def __init__(
        self, student_width: int, student_grid: tuple[int, int], teacher_width: int, teacher_grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grid = teacher_grid
        block = (max(1, teacher_grid[0] // student_grid[0]), max(1, teacher_grid[1] // student_grid[1]))
        self.linear = nn.ConvTranspose2d(student_width, teacher_width, block, stride=block)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, D_student, h, w) -> (B, L, D), tokens in the teacher's order."""
        projected = self.linear(latent)
        if projected.shape[-2:] != self.grid:  # on its own grid, pooling would be a costly copy
            projected = self._regridded(projected)
        return projected.flatten(2).transpose(1, 2)

    def _regridded(self, projected: Tensor) -> Tensor:
        if projected.shape[-2] >= self.grid[0] and projected.shape[-1] >= self.grid[1]:
            return F.adaptive_avg_pool2d(projected, self.grid)
        return F.interpolate(projected, self.grid, mode="bilinear", align_corners=False)


def build(name: str, problem: Problem, sizes: dict[str, Any]) -> Student:
    """A fresh student by name; raises UserError for an unknown name or size."""
    from pipeline import models
    from pipeline.students import STUDENTS

    kind = STUDENTS.load(name)
    student: Student = kind(problem, models.sizes(kind, sizes, f"distill.sizes.{name}"))
    return student


def save_student(student: Student, folder: Path, **arguments: Any) -> None:
    """`arguments`: what `build` was called with, apart from the problem."""
    save_built(student, folder, arguments)


def load(folder: Path) -> Student:
    """The student in `folder`, in eval mode; raises UserError if there is none or it does not fit."""
    student: Student = load_built(folder, build)
    return student
