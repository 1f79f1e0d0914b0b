"""SimVP with gated spatiotemporal attention (gSTA), cut at the middle of its translator.

Source: Gao et al. 2022, "SimVP: Simpler yet Better Video Prediction", and Tan et al. 2022, "SimVP: Towards
Simple yet Powerful Spatiotemporal Predictive Learning" (gSTA). The encoder and decoder work on each frame,
the translator on all frames stacked in channels. Z_v is the translator's latent after half of its blocks.

`PAPER_SIZES` on `PAPER_PROBLEM` is the "SimVP-Deep" of S2-KD, 80.5 M parameters in its Table 3, which states no
sizes: 81.1 M with the alignment (N = 2, 8 heads, text of width 384).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import models
from pipeline.layers import (
    DilatedDepthwiseConv2d,
    GridConv2d,
    Recomputable,
    drop_path,
    pad_to_multiple,
    padded_size,
)
from pipeline.models import Problem
from pipeline.teachers.base import Teacher

PAPER_PROBLEM = Problem(t_in=10, t_out=10, variables=2, height=64, width=64, periodic=False)  # Prometheus
PAPER_SIZES: dict[str, Any] = {
    "spatial_width": 64,
    "translator_width": 512,
    "spatial_blocks": 4,
    "translator_blocks": 14,
}


class SimVP(Teacher):
    class Sizes(models.Sizes):
        spatial_width: int = Field(32, gt=0, multiple_of=2)  # hid_S
        translator_width: int = Field(256, gt=0)  # hid_T
        spatial_blocks: int = Field(2, gt=0, multiple_of=2)  # N_S; every second one halves the grid
        translator_blocks: int = Field(8, ge=2)  # N_T
        mlp_ratio: float = Field(8.0, gt=0)
        drop_path: float = Field(0.1, ge=0, lt=1)

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        self.multiple = 2 ** (sizes.spatial_blocks // 2)
        height, width = padded_size((problem.height, problem.width), self.multiple)
        self.latent_grid = (height // self.multiple, width // self.multiple)
        self.latent_width = sizes.translator_width
        self.encoder = FrameEncoder(problem, sizes.spatial_width, sizes.spatial_blocks)
        self.decoder = FrameDecoder(problem, sizes.spatial_width, sizes.spatial_blocks)
        stacked, wide, half = problem.t_in * sizes.spatial_width, sizes.translator_width, sizes.translator_blocks // 2
        rates = [sizes.drop_path * block / (sizes.translator_blocks - 1) for block in range(sizes.translator_blocks)]
        blocks = [
            GatedBlock(stacked if i == 0 else wide, sizes.mlp_ratio, rate, problem.periodic)
            for i, rate in enumerate(rates)
        ]
        # as in gSTA, the width changes behind the first block and behind the last
        self.translator_in = nn.Sequential(blocks[0], nn.Conv2d(stacked, wide, 1), *blocks[1:half])
        self.translator_out = nn.Sequential(*blocks[half:], nn.Conv2d(wide, stacked, 1))

    def encode(self, scores: Tensor) -> tuple[Tensor, tuple[Tensor, torch.Size]]:
        frames = pad_to_multiple(scores.flatten(0, 1), self.multiple, self.problem.periodic)
        latent, skip = self.encoder(frames)
        return self.translator_in(latent.unflatten(0, scores.shape[:2]).flatten(1, 2)), (skip, scores.shape)

    def decode(self, fused: Tensor, skip: tuple[Tensor, torch.Size]) -> Tensor:
        first, shape = skip
        hidden = self.translator_out(fused).unflatten(1, (shape[1], -1)).flatten(0, 1)
        frames = self.decoder(hidden, first)[..., : shape[-2], : shape[-1]]
        return frames.unflatten(0, shape[:2])


class FrameEncoder(nn.Module):
    """3x3 convolutions of stride 1, 2, 1, 2, ...; the first one's output is the skip."""

    def __init__(self, problem: Problem, width: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            NormedConv(problem.variables if i == 0 else width, width, problem.periodic, stride=1 + i % 2)
            for i in range(blocks)
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        skip = hidden = self.layers[0](frames)
        for layer in self.layers[1:]:
            hidden = layer(hidden)
        return hidden, skip


class FrameDecoder(nn.Module):
    """The encoder's mirror image with pixel shuffle; the skip is added before the last convolution."""

    def __init__(self, problem: Problem, width: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            NormedConv(width, width, problem.periodic, upsample=i % 2 == 0) for i in range(blocks)
        )
        self.readout = nn.Conv2d(width, problem.variables, 1)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            hidden = layer(hidden)
        frames: Tensor = self.readout(self.layers[-1](hidden + skip))
        return frames


class NormedConv(Recomputable):
    """3x3 convolution, GroupNorm(2), SiLU; with `upsample`, doubles the grid by pixel shuffle."""

    def __init__(self, width_in: int, width: int, periodic: bool, stride: int = 1, upsample: bool = False) -> None:
        super().__init__()
        self.conv = GridConv2d(width_in, width * (4 if upsample else 1), 3, periodic=periodic, stride=stride)
        self.shuffle = nn.PixelShuffle(2) if upsample else nn.Identity()
        self.norm = nn.GroupNorm(2, width)

    def compute(self, images: Tensor) -> Tensor:
        return F.silu(self.norm(self.shuffle(self.conv(images))))


class GatedBlock(Recomputable):
    """gSTA: large-kernel gated attention, then a convolutional MLP, each with layer scale and drop path."""

    def __init__(self, width: int, mlp_ratio: float, drop_path: float, periodic: bool) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.BatchNorm2d(width), GatedAttention(width, periodic))
        self.mlp = nn.Sequential(nn.BatchNorm2d(width), ConvMLP(width, int(width * mlp_ratio), periodic))
        self.attention_scale = nn.Parameter(torch.full((width, 1, 1), 1e-2))
        self.mlp_scale = nn.Parameter(torch.full((width, 1, 1), 1e-2))
        self.drop_path = drop_path

    def compute(self, images: Tensor) -> Tensor:
        images = images + drop_path(self.attention_scale * self.attention(images), self.drop_path, self.training)
        return images + drop_path(self.mlp_scale * self.mlp(images), self.drop_path, self.training)


class GatedAttention(nn.Module):
    """1x1, GELU, depthwise 5x5 and dilated 7x7 (a 21x21 reach), a sigmoid gate, and an inner shortcut."""

    def __init__(self, width: int, periodic: bool) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, width, 1)
        self.local = GridConv2d(width, width, 5, periodic=periodic, groups=width)
        self.distant = DilatedDepthwiseConv2d(width, 7, periodic=periodic, dilation=3)
        self.gate = nn.Conv2d(width, 2 * width, 1)
        self.output = nn.Conv2d(width, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.gelu(self.project(images))
        values, gate = self.gate(self.distant(self.local(hidden))).chunk(2, dim=1)
        attended: Tensor = self.output(torch.sigmoid(gate) * values)
        return attended + images


class ConvMLP(nn.Module):
    """1x1 to the hidden width, depthwise 3x3, GELU, 1x1 back."""

    def __init__(self, width: int, hidden: int, periodic: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, hidden, 1)
        self.mix = GridConv2d(hidden, hidden, 3, periodic=periodic, groups=hidden)
        self.shrink = nn.Conv2d(hidden, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        shrunk: Tensor = self.shrink(F.gelu(self.mix(self.expand(images))))
        return shrunk
