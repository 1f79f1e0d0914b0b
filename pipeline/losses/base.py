"""What a distillation method must offer: weighted terms between the student's latent and the teacher's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class DistillationLoss(ABC):
    """lambda * L_distill of eq. 14, as named terms, so that each can be weighted, logged and tested alone."""

    uses_features: ClassVar[bool] = True  # False: trained without a teacher

    def __init__(self, beta: float, lambda_: float) -> None:
        self.beta = beta
        self.lambda_ = lambda_

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weight of each term in the student's objective."""

    @abstractmethod
    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Unweighted terms, each a scalar.

        projected: (B, L, D), P(Z_v^G). target: (B, L, D), Z_fused, without gradient. grid: (h, w), L = h * w.
        """
