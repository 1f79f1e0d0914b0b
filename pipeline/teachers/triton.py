"""Triton in the form of its public code: a frame encoder, UniFormer blocks, a frame decoder; cut at the middle block.

Source: Wu et al. 2025, "Triton", and its public code (Triton_AI4Earth, experiment 1), whose blocks are UniFormer's
(Li et al. 2022, "UniFormer"): a depthwise 3x3 convolution tells positions, then pre-norm attention among all tokens
and an MLP, each with layer scale. Frames are encoded one by one and stacked in channels for the blocks. Z_v is their
latent after half of the blocks. The encoder's skip bypasses Z_fused.

Kept: the widths' change behind the first and the last block, layer scale from 1e-6, drop path that rises from a tenth
of its value, normal initialisation of 0.02 of linear layers. Left out: the convolutional first block of the ocean
experiment. The multigrid cycle that the article describes is not in the public code, nor here. Attention goes through
the fused kernel, so memory grows with the tokens and not with their square; heads as wide as a multiple of 8 suit it.

`PAPER_SIZES` on `PAPER_PROBLEM` has 149.6 M parameters with the alignment (N = 2, 8 heads, text of width 384), as the
150.2 M of S2-KD's Table 1, which states no sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import models
from pipeline.errors import UserError
from pipeline.layers import (
    GridConv2d,
    Recomputable,
    StridedDecoder,
    StridedEncoder,
    drop_path,
    pad_to_multiple,
    padded_size,
)
from pipeline.models import Problem
from pipeline.teachers.base import Teacher

PAPER_PROBLEM = Problem(t_in=12, t_out=12, variables=2, height=32, width=64, periodic=True)  # WeatherBench
PAPER_SIZES: dict[str, Any] = {"spatial_width": 64, "temporal_width": 960, "spatial_blocks": 4, "temporal_blocks": 13}


class Triton(Teacher):
    """The default sizes suit a CPU; `PAPER_SIZES` are the paper's."""

    class Sizes(models.Sizes):
        spatial_width: int = Field(32, gt=0, multiple_of=2)  # of a frame's latent
        temporal_width: int = Field(128, gt=0)  # of all frames' latent, D
        spatial_blocks: int = Field(2, gt=0, multiple_of=2)  # every second one halves the grid
        temporal_blocks: int = Field(4, ge=2)
        heads: int = Field(8, gt=0)
        mlp_ratio: float = Field(4.0, gt=0)
        drop_path: float = Field(0.1, ge=0, lt=1)

    def __init__(self, problem: Problem, sizes: Sizes) -> None:
        super().__init__(problem)
        self.multiple = 2 ** (sizes.spatial_blocks // 2)
        height, width = padded_size((problem.height, problem.width), self.multiple)
        self.latent_grid = (height // self.multiple, width // self.multiple)
        self.latent_width = sizes.temporal_width
        frame = (problem.variables, sizes.spatial_width, sizes.spatial_blocks)
        self.encoder = StridedEncoder(*frame, periodic=problem.periodic)
        self.decoder = StridedDecoder(*frame, periodic=problem.periodic)
        stacked, wide, half = problem.t_in * sizes.spatial_width, sizes.temporal_width, sizes.temporal_blocks // 2
        rates = torch.linspace(sizes.drop_path / 10, sizes.drop_path, sizes.temporal_blocks, device="cpu").tolist()
        blocks = [
            UniFormerBlock(wide if i else stacked, sizes.heads, sizes.mlp_ratio, rate, problem.periodic)
            for i, rate in enumerate(rates)
        ]
        self.evolution_in = nn.Sequential(blocks[0], nn.Conv2d(stacked, wide, 1), *blocks[1:half])
        self.evolution_out = nn.Sequential(*blocks[half:], nn.Conv2d(wide, stacked, 1))

    def encode(self, scores: Tensor) -> tuple[Tensor, tuple[Tensor, torch.Size]]:
        frames = pad_to_multiple(scores.flatten(0, 1), self.multiple, self.problem.periodic)
        latent, skip = self.encoder(frames)
        return self.evolution_in(latent.unflatten(0, scores.shape[:2]).flatten(1, 2)), (skip, scores.shape)

    def decode(self, fused: Tensor, skip: tuple[Tensor, torch.Size]) -> Tensor:
        first, shape = skip
        hidden = self.evolution_out(fused).unflatten(1, (shape[1], -1)).flatten(0, 1)
        frames = self.decoder(hidden, first)[..., : shape[-2], : shape[-1]]
        return frames.unflatten(0, shape[:2])


class UniFormerBlock(Recomputable):
    """A depthwise convolution for positions, then attention among all tokens and an MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float, periodic: bool) -> None:
        super().__init__()
        self.position = GridConv2d(width, width, 3, periodic=periodic, groups=width)
        self.attention = nn.Sequential(nn.LayerNorm(width), SelfAttention(width, heads))
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.attention_scale = nn.Parameter(torch.full((width,), 1e-6))
        self.mlp_scale = nn.Parameter(torch.full((width,), 1e-6))
        self.drop_path = drop_path
        self.apply(_initialise)

    def compute(self, images: Tensor) -> Tensor:
        images = images + self.position(images)
        tokens = images.flatten(2).transpose(1, 2)  # (B, L, D)
        tokens = tokens + drop_path(self.attention_scale * self.attention(tokens), self.drop_path, self.training)
        tokens = tokens + drop_path(self.mlp_scale * self.mlp(tokens), self.drop_path, self.training)
        return tokens.transpose(1, 2).reshape(images.shape)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"train_teacher.sizes.triton: heads = {heads} does not divide the blocks' width {width}")
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        query, key, value = self.project(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
