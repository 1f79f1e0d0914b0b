"""The student alone: the prediction loss and nothing else (eq. 1). The control of every other method."""

from __future__ import annotations

from torch import Tensor

from pipeline.losses.base import DistillationLoss


class Baseline(DistillationLoss):
    uses_features = False

    @property
    def weights(self) -> dict[str, float]:
        return {}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {}
