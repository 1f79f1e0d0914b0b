"""The vision-only student, and the projection P that ties its latent to the teacher's while it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.layers import Normaliser
from pipeline.models import Problem, Sizes, load_built, save_built


class Level(NamedTuple):
    """One of a student's feature maps: (B, width, *grid)."""

    width: int
    grid: tuple[int, int]


class StudentOutput(NamedTuple):
    """forecast: (B, T_out, C, H, W), physical units. latent: (B, D_student, h, w), the Z_v^G of eq. 10.

    levels: the feature maps that `Student.levels` describes, deep to shallow; the latent is one of them.
    """

    forecast: Tensor
    latent: Tensor
    levels: tuple[Tensor, ...]


class Student(nn.Module, ABC):
    """Built for a problem; `levels` describes its feature maps, deep to shallow, and `latent_level` names by its
    place among them the latent that P projects.

    A student writes `predict` on normalised fields with frames stacked in channels.
    """

    Sizes: ClassVar[type[Sizes]]
    levels: tuple[Level, ...]
    latent_level: int = 0

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.normaliser = Normaliser(problem.variables)

    @property
    def latent_width(self) -> int:
        return self.levels[self.latent_level].width

    @property
    def latent_grid(self) -> tuple[int, int]:
        return self.levels[self.latent_level].grid

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T_in * C, H, W) -> forecast (B, T_out * C, H, W) and the feature maps of `levels`."""

    def forward(self, inputs: Tensor) -> StudentOutput:
        """inputs: (B, T_in, C, H, W), physical units."""
        scores = self.normaliser(inputs)
        images, levels = self.predict(scores.flatten(1, 2))
        forecast = images.unflatten(1, (self.problem.t_out, -1))
        if self.problem.residual:
            forecast = scores[:, -1:] + forecast
        return StudentOutput(self.normaliser.inverse(forecast), levels[self.latent_level], levels)


class Projection(nn.Module):
    """P of eq. 10: a linear map from the student's latent to the teacher's, on the teacher's grid.

    A student's latent that is coarser than the teacher's is mapped to the block of tokens it covers (a linear
    map of each latent position to `block` tokens), then brought to the exact grid; a finer one is mapped token
    by token and averaged. `periodic`: columns wrap around the globe. Training-only: never exported.
    """

    def __init__(
        self,
        student_width: int,
        student_grid: tuple[int, int],
        teacher_width: int,
        teacher_grid: tuple[int, int],
        periodic: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.periodic = teacher_grid, periodic
        block = (max(1, teacher_grid[0] // student_grid[0]), max(1, teacher_grid[1] // student_grid[1]))
        self.linear = nn.ConvTranspose2d(student_width, teacher_width, block, stride=block)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, D_student, h, w) -> (B, L, D), tokens in the teacher's order."""
        return regridded(self._mapped(latent), self.grid, self.periodic).flatten(2).transpose(1, 2)

    def _mapped(self, latent: Tensor) -> Tensor:
        """What `self.linear` gives: a matrix product, several times as fast on a CPU where blocks do not overlap."""
        samples, _, height, width = latent.shape
        block = self.linear.kernel_size
        weight = self.linear.weight.flatten(1).mT.expand(samples, -1, -1)
        tokens = torch.bmm(weight, latent.flatten(2)).unflatten(1, (-1, *block)).unflatten(4, (height, width))
        images = tokens.permute(0, 1, 4, 2, 5, 3).reshape(samples, -1, height * block[0], width * block[1])
        bias: Any = self.linear.bias
        return images + bias[:, None, None]


def regridded(images: Tensor, grid: tuple[int, int], periodic: bool) -> Tensor:
    """(N, C, h, w) on another grid: averaged along an axis that is finer, interpolated linearly along a coarser one."""
    height, width = images.shape[-2:]
    pooled = (min(height, grid[0]), min(width, grid[1]))
    if pooled != (height, width):  # on its own grid, pooling would be a costly copy
        images = F.adaptive_avg_pool2d(images, pooled)
    if pooled == grid:
        return images
    if periodic and pooled[1] < grid[1]:
        images = _interpolated_around(images, grid[1])
    return F.interpolate(images, grid, mode="bilinear", align_corners=False)


def _interpolated_around(images: Tensor, columns: int) -> Tensor:
    """Linear interpolation to `columns` columns of equal width, the last one beside the first."""
    width = images.shape[-1]
    place = (torch.arange(columns, device=images.device) + 0.5) * (width / columns) - 0.5
    west = place.floor().long()
    share = (place - west).to(images.dtype)
    return torch.lerp(images[..., west % width], images[..., (west + 1) % width], share)


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
