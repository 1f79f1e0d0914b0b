"""U-Net over frames stacked in channels.

Source: Ronneberger et al. 2015. Four levels, two bias-free 3x3 convolutions with batch norm and SiLU at each,
max-pooling down, 2x2 transposed convolutions up, skips concatenated. (With the original's ReLU, narrow
networks came out far worse for some seeds.) With `width` 52 it has the paper's 5.1 million parameters.

The latent that P projects is the feature map at `latent_level`: the bottom (3), where the encoder ends, with
8 * width channels on an eighth of the grid; or a level of the decoder (2, 1, 0), finer and narrower, behind
which less of the network is left untaught. All four are what a method of several levels gets, bottom first.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline import models
from pipeline.layers import GridConv2d, pad_to_multiple, padded_size
from pipeline.models import Problem
from pipeline.students.base import Level, Student

LEVELS = 4
COARSEST = 2 ** (LEVELS - 1)  # how many columns of the grid one of the bottom level covers


class UNet(Student):
    class Sizes(models.Sizes):
        width: int = Field(52, gt=0)  # channels of the top level; doubled at each level below
        latent_level: int = Field(LEVELS - 1, ge=0, lt=LEVELS)

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        widths = [sizes.width * 2**level for level in range(LEVELS)]
        height, width = padded_size((problem.height, problem.width), COARSEST)
        grids = [(height >> level, width >> level) for level in range(LEVELS)]
        self.levels = tuple(map(Level, reversed(widths), reversed(grids)))
        self.latent_level = LEVELS - 1 - sizes.latent_level
        channels_in, channels_out = problem.t_in * problem.variables, problem.t_out * problem.variables
        self.down = nn.ModuleList(
            DoubleConv(before, after, problem.periodic)
            for before, after in zip([channels_in, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.merge = nn.ModuleList(DoubleConv(2 * width, width, problem.periodic) for width in reversed(widths[:-1]))
        self.pool = nn.MaxPool2d(2)
        self.readout = nn.Conv2d(widths[0], channels_out, 1)

    def predict(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        height, width = images.shape[-2:]
        hidden = pad_to_multiple(images, COARSEST, self.problem.periodic)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            hidden = block(hidden if level == 0 else self.pool(hidden))
            skips.append(hidden)
        levels = [skips.pop()]
        for up, merge in zip(self.up, self.merge, strict=True):
            hidden = merge(torch.cat([skips.pop(), up(hidden)], dim=1))
            levels.append(hidden)
        return self.readout(hidden)[..., :height, :width], tuple(levels)


class DoubleConv(nn.Sequential):
    def __init__(self, width_in: int, width: int, periodic: bool) -> None:
        super().__init__(
            GridConv2d(width_in, width, 3, periodic=periodic, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(inplace=True),
            GridConv2d(width, width, 3, periodic=periodic, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(inplace=True),
        )
