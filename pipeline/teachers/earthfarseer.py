"""EarthFarseer: Fourier and local features of each frame (FoTF), then TeDev over time; cut at TeDev's LayerNorm.

Source: Wu et al. 2024, "Earthfarsser: Versatile Spatio-Temporal Dynamical Systems Modeling in One Model", and its
public code; Guibas et al. 2021, "Adaptive Fourier Neural Operators". Frames pass the exchange of a Fourier transformer
with a local branch, then an encoder, are stacked in channels for TeDev (inception blocks down, AFNO blocks,
LayerNorm, inception blocks up) and are decoded; a SimVP of the first kind beside it all adds its own forecast.
Z_v is what TeDev's LayerNorm gives.

Quirks that are kept: the second layer of the AFNO blocks' MLP is a mean over neighbouring hidden units; the Fourier
transformer runs 2 * `interactions` + 1 times with the same weights; the local branch is a 1x1 convolution; positions
are learnt per patch, and AFNO's ReLU acts on real and imaginary parts, so turning the globe does not turn the
forecast; three kinds of skip (encoder, TeDev, the SimVP) bypass Z_fused.

Not kept: what never receives a gradient (the MLPs' declared but unused second layer, a second encoder: 38.6 M
parameters), and the spectral filter's imaginary part computed from the real part that was already updated: here it is
a complex product, as in AFNO. Grids of any shape are padded to whole patches; on a grid of 2 x 2 patches every Fourier
coefficient is real, and the imaginary part of the filters' last bias has no effect.

`PAPER_SIZES` on `PAPER_PROBLEM` are the public code's sizes (122.8 M parameters) with 16 instead of 12 AFNO blocks in
TeDev, which brings it with the alignment (N = 2, 8 heads, text of width 384) to 125.3 M, as the 125.8 M of S2-KD's
Table 2, which states no sizes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import models
from pipeline.layers import GridConv2d, Recomputable, StridedDecoder, StridedEncoder, pad_to_multiple, padded_size
from pipeline.models import Problem
from pipeline.teachers.base import Teacher

KERNELS = (3, 5, 7, 11)  # of an inception block
GROUPS = 8  # of its convolutions
SPECTRAL_BLOCKS = 2  # a spectral filter's matrices are block-diagonal
MLP_RATIO = 4

PAPER_PROBLEM = Problem(t_in=12, t_out=12, variables=2, height=32, width=32, periodic=False)  # TaxiBJ's grid
PAPER_SIZES: dict[str, Any] = {
    "patch": 16,
    "fourier_width": 768,
    "fourier_depth": 12,
    "interactions": 3,
    "spatial_width": 512,
    "spatial_blocks": 4,
    "temporal_width": 256,
    "temporal_blocks": 8,
    "temporal_depth": 16,
    "shortcut_width": 16,
}


class Skips(NamedTuple):
    """What bypasses Z_fused. shape: of the unpadded fields."""

    shape: torch.Size
    forecast: Tensor  # of the SimVP beside it all
    frames: Tensor  # of the encoder
    latent: Tensor  # TeDev's input
    levels: list[Tensor]  # of TeDev's inception blocks


class EarthFarseer(Teacher):
    """The default sizes suit a CPU; `PAPER_SIZES` are the paper's."""

    class Sizes(models.Sizes):
        patch: int = Field(8, gt=0, multiple_of=4)  # pixels along a side of a patch of the Fourier transformer
        fourier_width: int = Field(64, gt=0, multiple_of=SPECTRAL_BLOCKS)  # of the Fourier transformer
        fourier_depth: int = Field(2, gt=0)  # its AFNO blocks
        interactions: int = Field(1, ge=0)  # rounds of exchange with the local branch
        spatial_width: int = Field(32, gt=0, multiple_of=2)  # hid_S
        spatial_blocks: int = Field(4, gt=0, multiple_of=2)  # N_S; every second one halves the grid
        temporal_width: int = Field(64, gt=0, multiple_of=SPECTRAL_BLOCKS)  # hid_T, D
        temporal_blocks: int = Field(2, ge=2)  # N_T, inception blocks down, and up
        temporal_depth: int = Field(2, gt=0)  # AFNO blocks between them
        shortcut_width: int = Field(8, gt=0, multiple_of=2)  # hid_S of the SimVP beside it all

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        stride = 2 ** (sizes.spatial_blocks // 2)
        self.multiple = math.lcm(sizes.patch, stride)
        height, width = padded_size((problem.height, problem.width), self.multiple)
        self.latent_grid = (height // stride, width // stride)
        self.latent_width = sizes.temporal_width
        frame = (problem.variables, sizes.spatial_width, sizes.spatial_blocks)
        periodic = problem.periodic
        self.shortcut = FirstSimVP(problem, sizes)
        self.exchange = FourierLocalExchange(problem, sizes, (height // sizes.patch, width // sizes.patch))
        self.encoder = StridedEncoder(*frame, periodic=periodic)
        stacked = problem.t_in * sizes.spatial_width
        self.inception = InceptionUNet(stacked, sizes.temporal_width, sizes.temporal_blocks, periodic)
        self.blocks = nn.Sequential(*(FourierBlock(sizes.temporal_width) for _ in range(sizes.temporal_depth)))
        self.norm = nn.LayerNorm(sizes.temporal_width, eps=1e-6)
        self.decoder = StridedDecoder(*frame, periodic=periodic)

    def encode(self, scores: Tensor) -> tuple[Tensor, Skips]:
        frames = pad_to_multiple(scores.flatten(0, 1), self.multiple, self.problem.periodic)
        spatial, skip = self.encoder(self.exchange(frames))
        latent = spatial.unflatten(0, scores.shape[:2]).flatten(1, 2)
        deep, levels = self.inception.down(latent)
        tokens = self.norm(self.blocks(deep.permute(0, 2, 3, 1)))
        return tokens.permute(0, 3, 1, 2), Skips(scores.shape, self.shortcut(frames), skip, latent, levels)

    def decode(self, fused: Tensor, skip: Skips) -> Tensor:
        latent = self.inception.up(fused, skip.levels) + skip.latent
        frames = self.decoder(latent.unflatten(1, (skip.shape[1], -1)).flatten(0, 1), skip.frames) + skip.forecast
        return frames[..., : skip.shape[-2], : skip.shape[-1]].unflatten(0, skip.shape[:2])


class FourierLocalExchange(nn.Module):
    """FoTF: a Fourier transformer and a local branch that read each other's features in turns."""

    def __init__(self, problem: Problem, sizes: EarthFarseer.Sizes, grid: tuple[int, int]) -> None:
        super().__init__()
        variables = problem.variables
        self.distant = FourierTransformer(variables, sizes, grid)
        self.near = nn.Conv2d(variables, variables, 1)
        self.mix = nn.Conv2d(variables, variables, 1)
        self.turns = nn.ModuleList(GridConv2d(variables, variables, 3, periodic=problem.periodic) for _ in range(2))
        self.interactions = sizes.interactions

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        distant, near = self.distant(frames), self.near(frames)
        for _ in range(self.interactions):
            for turn in self.turns:
                frames = turn(distant) + self.mix(near)
                distant, near = self.distant(frames), self.near(frames)
        features: Tensor = distant + near
        return features


class FourierTransformer(nn.Module):
    """Patches, learnt positions, AFNO blocks, and three transposed convolutions back to pixels."""

    def __init__(self, variables: int, sizes: EarthFarseer.Sizes, grid: tuple[int, int]) -> None:
        super().__init__()
        width, patch = sizes.fourier_width, sizes.patch
        self.embed = nn.Conv2d(variables, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(*grid, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(FourierBlock(width) for _ in range(sizes.fourier_depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(width, 16 * variables, 2, stride=2),
            nn.Tanh(),
            nn.ConvTranspose2d(16 * variables, 4 * variables, 2, stride=2),
            nn.Tanh(),
            nn.ConvTranspose2d(4 * variables, variables, patch // 4, stride=patch // 4),
        )

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.embed(frames).permute(0, 2, 3, 1) + self.position  # (N, h, w, D)
        pixels: Tensor = self.upsample(self.norm(self.blocks(tokens)).permute(0, 3, 1, 2))
        return pixels


class FourierBlock(Recomputable):
    """AFNO: a spectral filter, then an MLP whose second layer is a mean over neighbouring hidden units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.LayerNorm(width, eps=1e-6), SpectralFilter(width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, MLP_RATIO * width)
        nn.init.trunc_normal_(self.expand.weight, std=0.02)
        nn.init.zeros_(self.expand.bias)

    def compute(self, images: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        images = images + self.filter(images)
        hidden = F.gelu(self.expand(self.norm(images)))
        return images + hidden.unflatten(-1, (-1, MLP_RATIO)).mean(-1)


class SpectralFilter(nn.Module):
    """A block-diagonal MLP on each Fourier coefficient, complex but for its ReLU, beside a linear map of each token.

    The transform is in float32 whatever the precision around it: in half precision it exists for few sizes, if at
    all; and autocast leaves complex numbers alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        block = width // SPECTRAL_BLOCKS
        # real and imaginary parts, (2, blocks, block, block) and (2, blocks, block)
        self.weight_1 = nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, block, block))
        self.bias_1 = nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, block))
        self.weight_2 = nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, block, block))
        self.bias_2 = nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, block))
        self.local = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        spectrum = torch.fft.rfft2(images.float(), dim=(1, 2), norm="ortho").unflatten(-1, (SPECTRAL_BLOCKS, -1))
        hidden = _affine(spectrum, self.weight_1, self.bias_1)
        hidden = torch.complex(F.relu(hidden.real), F.relu(hidden.imag))
        filtered = _affine(hidden, self.weight_2, self.bias_2).flatten(-2)
        distant = torch.fft.irfft2(filtered, s=images.shape[1:3], dim=(1, 2), norm="ortho")
        return distant + self.local(images)


def _affine(spectrum: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(..., blocks, block), complex, by complex matrices that are given as real and imaginary parts."""
    product = torch.einsum("...bi,bio->...bo", spectrum, torch.complex(weight[0], weight[1]))
    return product + torch.complex(bias[0], bias[1])


class InceptionUNet(nn.Module):
    """Inception blocks down and up again on one grid, with a skip from each but the deepest."""

    def __init__(self, stacked: int, width: int, blocks: int, periodic: bool) -> None:
        super().__init__()
        downwards = [(stacked if i == 0 else width, width) for i in range(blocks)]
        upwards = [(width if i == 0 else 2 * width, stacked if i == blocks - 1 else width) for i in range(blocks)]
        self.encoder = nn.ModuleList(Inception(first, width // 2, last, periodic) for first, last in downwards)
        self.decoder = nn.ModuleList(Inception(first, width // 2, last, periodic) for first, last in upwards)

    def down(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, stacked, h, w) -> (B, width, h, w), and the skips, the deepest last."""
        levels = []
        for block in self.encoder:
            images = block(images)
            levels.append(images)
        return images, levels[:-1]

    def up(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        images = self.decoder[0](images)
        for block, level in zip(self.decoder[1:], reversed(levels), strict=True):
            images = block(torch.cat([images, level], dim=1))
        return images


class Inception(Recomputable):
    """1x1 to a hidden width, then the sum of grouped convolutions of several kernels.

    Each with GroupNorm and LeakyReLU(0.2), in up to 8 groups of at least two channels.
    """

    def __init__(self, width_in: int, hidden: int, width: int, periodic: bool) -> None:
        super().__init__()
        groups = math.gcd(GROUPS, hidden, width // 2)
        self.project = nn.Conv2d(width_in, hidden, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                GridConv2d(hidden, width, kernel, periodic=periodic, groups=groups),
                nn.GroupNorm(groups, width),
                nn.LeakyReLU(0.2),
            )
            for kernel in KERNELS
        )

    def compute(self, images: Tensor) -> Tensor:
        hidden = self.project(images)
        return torch.stack([branch(hidden) for branch in self.branches]).sum(0)


class FirstSimVP(nn.Module):
    """The first SimVP (inception blocks as translator), whose forecast is added to the network's own."""

    def __init__(self, problem: Problem, sizes: EarthFarseer.Sizes) -> None:
        super().__init__()
        self.frames = problem.t_in
        frame = (problem.variables, sizes.shortcut_width, sizes.spatial_blocks)
        self.encoder = StridedEncoder(*frame, periodic=problem.periodic)
        stacked = problem.t_in * sizes.shortcut_width
        self.translator = InceptionUNet(stacked, sizes.temporal_width, sizes.temporal_blocks, problem.periodic)
        self.decoder = StridedDecoder(*frame, periodic=problem.periodic)

    def forward(self, frames: Tensor) -> Tensor:
        """(B * T, C, H, W) -> (B * T, C, H, W)."""
        latent, skip = self.encoder(frames)
        stacked = latent.unflatten(0, (-1, self.frames)).flatten(1, 2)
        translated = self.translator.up(*self.translator.down(stacked))
        forecast: Tensor = self.decoder(translated.unflatten(1, (self.frames, -1)).flatten(0, 1), skip)
        return forecast
