"""S2-KD: semantic alignment plus beta times spectral alignment (eq. 10-12)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss
from pipeline.losses.spectrum import spectral_alignment


class S2KD(DistillationLoss):
    options = ("spectral_axes",)

    def __init__(self, beta: float, lambda_: float, spectral_axes: str = "grid") -> None:
        super().__init__(beta, lambda_)
        self.spectral_axes = spectral_axes

    @property
    def weights(self) -> dict[str, float]:
        return {"semantic": self.lambda_, "spectral": self.lambda_ * self.beta}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        projected, target = projected.float(), target.float()
        return {
            "semantic": F.mse_loss(projected.mT, target.mT),  # eq. 10; as they lie in memory
            "spectral": spectral_alignment(projected, target, grid, self.spectral_axes),  # eq. 11
        }
