"""Distillation of outputs: the student learns the teacher's forecast beside the truth.

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", for regression: a mean squared error in
the place of softened classes, and no temperature, which has no meaning here. L_pred + lambda * L_output is, but for a
factor that Adam does not see, (1 - a) * MSE(truth) + a * MSE(teacher) with a = lambda / (1 + lambda).

`teacher_bounded` is the form of Chen et al. 2017, "Learning Efficient Object Detection Models with Knowledge
Distillation", section 3.3: a teacher's regression may point the wrong way, so it serves as a bound. The student's own
squared error counts once more where it is not smaller than the teacher's by more than `bound_margin`, and not at all
where it is. A vector of that paper, a box, is here the map of one variable at one lead time of one window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.losses.base import DistillationLoss


class KD(DistillationLoss):
    teacher = "vision"
    uses_features = False
    uses_forecasts = True
    options = ("teacher_bounded", "bound_margin")

    def __init__(self, beta: float, lambda_: float, teacher_bounded: bool = False, bound_margin: float = 0.0) -> None:
        super().__init__(beta, lambda_)
        self.bounded = teacher_bounded
        self.margin = bound_margin

    @property
    def weights(self) -> dict[str, float]:
        return {"output": self.lambda_}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {}

    def forecast_terms(self, forecast: Tensor, truth: Tensor, taught: Tensor) -> dict[str, Tensor]:
        forecast, truth, taught = forecast.float(), truth.float(), taught.float()
        if not self.bounded:
            return {"output": F.mse_loss(forecast, taught)}
        error, bound = ((each - truth).square().mean((-2, -1)) for each in (forecast, taught))
        return {"output": torch.where(error + self.margin > bound, error, 0.0).mean()}
