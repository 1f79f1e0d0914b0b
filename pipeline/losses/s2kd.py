"""S2-KD: semantic alignment plus beta times spectral alignment (eq. 10-12)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss


class S2KD(DistillationLoss):
    @property
    def weights(self) -> dict[str, float]:
        return {"semantic": self.lambda_, "spectral": self.lambda_ * self.beta}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        projected, target = projected.float(), target.float()
        return {
            "semantic": F.mse_loss(projected, target),  # eq. 10
            "spectral": spectral_alignment(projected, target, grid),
        }


def spectral_alignment(projected: Tensor, target: Tensor, grid: tuple[int, int]) -> Tensor:
    """Eq. 11: mean absolute difference of the magnitudes of the two-dimensional spectra.

    The transform runs over the token grid, channel by channel, in float32 and orthonormal, so that the term
    does not grow with the grid. (B, L, D), (B, L, D) -> scalar.
    """
    with torch.autocast(device_type=projected.device.type, enabled=False):
        difference = (_magnitudes(projected, grid) - _magnitudes(target, grid)).abs()
        return (difference * _column_weights(grid[1], difference)[None, None, :, None]).mean(
            dim=(0, 1, 3)
        ).sum() / grid[1]


def _magnitudes(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, L, D) -> (B, h, w // 2 + 1, D)."""
    return torch.fft.rfft2(tokens.unflatten(1, grid), dim=(1, 2), norm="ortho").abs()


def _column_weights(width: int, like: Tensor) -> Tensor:
    """How often each column of the half spectrum stands in the full one, so that the mean is the full mean."""
    weights = torch.full((width // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights
