"""What a distillation method must offer: weighted terms between what the student has and what the teacher left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class DistillationLoss(ABC):
    """lambda * L_distill of eq. 14, as named terms, so that each can be weighted, logged and tested alone.

    Which teacher it is, the one that reads captions or the one without, is part of the method. A method learns from
    the teacher's features, by `terms`; from its forecasts, by `forecast_terms`; or from both.
    """

    teacher: ClassVar[str] = "multimodal"  # or "vision": the same without text
    uses_features: ClassVar[bool] = True  # Z_fused, against the student's projected latent
    uses_forecasts: ClassVar[bool] = False  # which dump_features stores when asked to
    options: ClassVar[tuple[str, ...]] = ()  # keys of params.yaml's `distill` that the constructor takes besides

    def __init__(self, beta: float, lambda_: float) -> None:
        self.beta = beta
        self.lambda_ = lambda_

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weight of each term in the student's objective."""

    def projection(self, widths: tuple[int, ...], width: int) -> nn.Module | None:
        """Trainable modules of the method's own, in the place of P; None for P on the student's latent.

        widths: channels of the student's levels, deep to shallow; width: D. They are trained with the student and
        thrown away. They get the student's levels on the teacher's grid, a tuple of (B, width, h, w), and return
        what `terms` gets as `projected`.
        """
        return None

    @abstractmethod
    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Unweighted terms from features, each a scalar.

        projected: (B, L, D), P(Z_v^G). target: (B, L, D), Z_fused, without gradient. grid: (h, w), L = h * w.
        """

    def forecast_terms(self, forecast: Tensor, truth: Tensor, taught: Tensor) -> dict[str, Tensor]:
        """Unweighted terms from forecasts, each a scalar; asked for only if the method `uses_forecasts`.

        The student's forecast, what came true, and the teacher's forecast, each (B, T_out, C, H, W), z-scores.
        """
        return {}
