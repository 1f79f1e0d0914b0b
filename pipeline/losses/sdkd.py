"""SDKD: the high band of the teacher's features, and alpha times the low band.

Source: Li et al. 2025, "Frequency-Aligned Knowledge Distillation for Lightweight Spatiotemporal Forecasting":
||H(S) - H(T)||^2 + alpha ||L(S) - L(T)||^2. There, H and L are what the convolutions and the attention of its own
teacher let through; Z_fused of any teacher is parted here by complementary radial masks over the token grid's
spectrum, at `frequency_cutoff`, and alpha is `low_band_weight`. With alpha = 1 the two bands add up to FitNet's hint.
The paper's own teacher and its weighting of several teachers are left out.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.losses.base import DistillationLoss
from pipeline.losses.spectrum import band_errors


class SDKD(DistillationLoss):
    teacher = "vision"
    options = ("frequency_cutoff", "low_band_weight")

    def __init__(
        self, beta: float, lambda_: float, frequency_cutoff: float = 0.5, low_band_weight: float = 0.5
    ) -> None:
        super().__init__(beta, lambda_)
        self.cutoff = frequency_cutoff
        self.alpha = low_band_weight

    @property
    def weights(self) -> dict[str, float]:
        return {"high_band": self.lambda_, "low_band": self.lambda_ * self.alpha}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        high, low = band_errors(projected.float(), target.float(), grid, self.cutoff)
        return {"high_band": high, "low_band": low}
