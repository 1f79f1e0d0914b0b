"""Knowledge review: several levels of the student, fused from deep to shallow, learn from the teacher's features.

Source: Chen et al. 2021, "Distilling Knowledge via Knowledge Review": attention-based fusion (ABF) of each level with
what the deeper ones gave, and hierarchical context loss (HCL). Kept: the order, the residual flow, the widths (at most
512, else the deepest level's), batch norms, attention of two maps, pools of 4, 2 and 1 with weights 1/2, 1/4 and 1/8.
Otherwise: the teacher leaves one level, Z_fused, which each of the student's levels is compared with, and the mean is
taken over levels, so that lambda weighs it as it weighs FitNet's hint; levels are brought to the teacher's grid before
they are fused, and not to each other's; the weight is not warmed up over 20 epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss

WIDEST = 512  # channels in which levels are fused
POOLS = (4, 2, 1)  # rows and columns of each coarser view


class ReviewKD(DistillationLoss):
    teacher = "vision"

    @property
    def weights(self) -> dict[str, float]:
        return {"review": self.lambda_}

    def projection(self, widths: tuple[int, ...], width: int) -> nn.Module:
        return Review(widths, width)

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """projected: (B, S, L, D), of S levels."""
        difference = (projected.float() - target.float()[:, None]).flatten(0, 1)
        return {"review": hierarchical_context(difference.transpose(1, 2).unflatten(2, grid))}


class Review(nn.Module):
    """The student's levels, deep to shallow, each fused with those before it."""

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        inner = min(WIDEST, widths[0])
        self.fusions = nn.ModuleList(Fusion(each, inner, width, first=i == 0) for i, each in enumerate(widths))

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """S maps (B, width, h, w) -> (B, S, L, D)."""
        flow, outputs = None, []
        for fusion, level in zip(self.fusions, levels, strict=True):
            flow, output = fusion(level, flow)
            outputs.append(output.flatten(2).transpose(1, 2))
        return torch.stack(outputs, dim=1)


class Fusion(nn.Module):
    """ABF: a level and what flows from the deeper ones, weighed at each place by two attention maps."""

    def __init__(self, width_in: int, width: int, width_out: int, *, first: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))
        self.attention = None if first else nn.Conv2d(2 * width, 2, 1)
        self.readout = nn.Sequential(nn.Conv2d(width, width_out, 3, padding=1, bias=False), nn.BatchNorm2d(width_out))

    def forward(self, level: Tensor, flow: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, width_in, h, w), (B, width, h, w) -> what flows on (B, width, h, w), the output (B, width_out, h, w)."""
        reduced = self.reduce(level)
        if self.attention is not None and flow is not None:
            here, deeper = self.attention(torch.cat([reduced, flow], dim=1)).sigmoid().split(1, dim=1)
            reduced = here * reduced + deeper * flow
        return reduced, self.readout(reduced)


def hierarchical_context(difference: Tensor) -> Tensor:
    """HCL of (N, D, h, w): mean squares at full size and of coarser and coarser averages, weighted to 1 in all."""
    total, weights, weight = difference.square().mean(), 1.0, 1.0
    for size in POOLS:
        if size < min(difference.shape[-2:]):
            weight /= 2
            total = total + weight * F.adaptive_avg_pool2d(difference, size).square().mean()
            weights += weight
    return total / weights
