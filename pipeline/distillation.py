"""What teacher and student learn from: their objectives (eq. 13 and 14), and the student's training harness."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.batch import Batch
from pipeline.features import Features
from pipeline.losses.base import DistillationLoss
from pipeline.store import Statistics
from pipeline.students.base import Projection, Student
from pipeline.training import Terms


class PredictionLoss:
    """L_pred of eq. 1: mean squared error of z-scored fields, over batch, frames, variables and grid."""

    def __init__(self, statistics: Statistics) -> None:
        self.std = torch.as_tensor(statistics.std, dtype=torch.float32)[:, None, None]

    def __call__(self, forecast: Tensor, targets: Tensor) -> Tensor:
        """(B, T_out, C, H, W), physical units, twice -> scalar."""
        std = self.std.to(forecast.device)
        return F.mse_loss(forecast.float() / std, targets / std)


class TeacherObjective:
    """L_Teacher of eq. 13."""

    def __init__(self, statistics: Statistics) -> None:
        self.prediction = PredictionLoss(statistics)

    def __call__(self, teacher: Any, batch: Batch) -> Terms:
        forecast = teacher(batch.inputs, batch.text).forecast
        return Terms({"prediction": self.prediction(forecast, batch.targets)}, {"prediction": 1.0})


class Distilled(NamedTuple):
    """forecast: (B, T_out, C, H, W), physical units. projected: (B, L, D) or None without a teacher."""

    forecast: Tensor
    projected: Tensor | None


class DistilledStudent(nn.Module):
    """A student with its projection P while it trains; `student` alone is what is kept."""

    def __init__(self, student: Student, features: Features | None) -> None:
        super().__init__()
        self.student = student
        self.projection = None
        if features is not None:
            self.projection = Projection(student.latent_width, student.latent_grid, features.width, features.grid)

    def forward(self, inputs: Tensor) -> Distilled:
        output = self.student(inputs)
        return Distilled(output.forecast, None if self.projection is None else self.projection(output.latent))


class StudentObjective:
    """L_Student of eq. 14: L_pred plus the method's weighted terms against the teacher's features.

    `scale` "raw" takes Z_fused as it is, as the paper does. Most of that is one pattern that does not change
    with the sample, on which a student can only waste capacity. "centred" takes the training mean away per
    token and channel and divides by one number, so that the terms measure what changes, in its own
    proportions. "standardised" divides by each token's and channel's own deviation, small ones included.
    """

    def __init__(self, statistics: Statistics, loss: DistillationLoss, features: Features | None, scale: str) -> None:
        self.prediction = PredictionLoss(statistics)
        self.loss = loss
        self.grid = features.grid if features else (0, 0)
        self.mean, self.reciprocal = _target_scale(features, scale)

    def __call__(self, model: Any, batch: Batch) -> Terms:
        output: Distilled = model(batch.inputs)
        values = {"prediction": self.prediction(output.forecast, batch.targets)}
        weights = {"prediction": 1.0}
        if output.projected is not None and batch.features is not None:
            device = batch.features.device
            target = (batch.features - self.mean.to(device)) * self.reciprocal.to(device)
            values |= self.loss.terms(output.projected, target, self.grid)
            weights |= self.loss.weights
        return Terms(values, weights)


def _target_scale(features: Features | None, scale: str) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation, (L, D) or scalars, that bring the target on its scale.

    A token's own deviation has a floor of a hundredth of their mean: a channel that never changes carries no
    knowledge, and must not be blown up to carry rounding noise.
    """
    if features is None or scale == "raw":
        return torch.zeros(()), torch.ones(())
    mean, std = torch.from_numpy(features.mean), torch.from_numpy(features.std)
    if scale == "centred":
        return mean, 1 / std.square().mean().sqrt()
    return mean, 1 / std.clamp(min=0.01 * float(std.mean()))


def distillation_loss(method: str, beta: float, lambda_: float) -> DistillationLoss:
    """The method's loss by name; raises UserError for an unknown one."""
    from pipeline.losses import LOSSES

    loss: DistillationLoss = LOSSES.load(method)(beta, lambda_)
    return loss
