"""ResNet over frames stacked in channels, at half the grid's resolution.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition": basic blocks of two 3x3 convolutions with
batch norm around a shortcut. Its pooling and classes are left out: a 3x3 stem, one step of stride 2, all blocks on
that grid, and back up by a 3x3 convolution and PixelShuffle (Shi et al. 2016). SiLU instead of ReLU, as in the U-Net.
With `width` 128 and 14 `blocks` it has the paper's 4.5 million parameters.

The latent that P projects is what the last block gives, `width` channels on half the grid. A method of several levels
gets it, the output of half of the blocks, and the stem's, which is `width` / 2 channels on the whole grid.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import models
from pipeline.layers import GridConv2d, pad_to_multiple, padded_size
from pipeline.models import Problem
from pipeline.students.base import Level, Student

STRIDE = 2


class ResNet(Student):
    class Sizes(models.Sizes):
        width: int = Field(128, gt=0, multiple_of=2)  # channels of the blocks; the stem has half as many
        blocks: int = Field(14, gt=0)

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        width, narrow, periodic = sizes.width, sizes.width // 2, problem.periodic
        channels_in, channels_out = problem.t_in * problem.variables, problem.t_out * problem.variables
        height, columns = padded_size((problem.height, problem.width), STRIDE)
        inner = Level(width, (height // STRIDE, columns // STRIDE))
        self.levels = (inner, inner, Level(narrow, (height, columns)))
        self.stem = nn.Sequential(*_normed(channels_in, narrow, periodic), nn.SiLU(inplace=True))
        self.down = nn.Sequential(*_normed(narrow, width, periodic, STRIDE), nn.SiLU(inplace=True))
        blocks = [BasicBlock(width, periodic) for _ in range(sizes.blocks)]
        self.first, self.second = nn.Sequential(*blocks[: len(blocks) // 2]), nn.Sequential(*blocks[len(blocks) // 2 :])
        self.up = nn.Sequential(
            GridConv2d(width, narrow * STRIDE**2, 3, periodic=periodic), nn.PixelShuffle(STRIDE), nn.SiLU(inplace=True)
        )
        self.readout = GridConv2d(narrow, channels_out, 3, periodic=periodic)

    def predict(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        height, width = images.shape[-2:]
        shallow = self.stem(pad_to_multiple(images, STRIDE, self.problem.periodic))
        middle = self.first(self.down(shallow))
        latent = self.second(middle)
        return self.readout(self.up(latent))[..., :height, :width], (latent, middle, shallow)


class BasicBlock(nn.Module):
    def __init__(self, width: int, periodic: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_normed(width, width, periodic), nn.SiLU(inplace=True), *_normed(width, width, periodic)
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.silu(images + self.residual(images))


def _normed(width_in: int, width: int, periodic: bool, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return GridConv2d(width_in, width, 3, periodic=periodic, bias=False, stride=stride), nn.BatchNorm2d(width)
