"""What teacher and student learn from: their objectives (eq. 13 and 14), and the student's training harness."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.batch import Batch
from pipeline.features import Features
from pipeline.losses.base import DistillationLoss
from pipeline.params import Distill, MethodOptions
from pipeline.store import Statistics
from pipeline.students.base import Projection, Student, StudentOutput, regridded
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
    """forecast: (B, T_out, C, H, W), physical units.

    projected: (B, L, D), or what the method's own projection gives; None without a teacher's features.
    """

    forecast: Tensor
    projected: Tensor | None


class DistilledStudent(nn.Module):
    """A student with its projection P, or the method's own, while it trains; `student` alone is what is kept."""

    def __init__(self, student: Student, features: Features | None, loss: DistillationLoss | None = None) -> None:
        super().__init__()
        self.student = student
        self.periodic = student.problem.periodic
        self.projection: Projection | None = None
        self.review: nn.Module | None = None
        if features is None:
            return
        self.grid = features.grid
        if loss is not None:
            self.review = loss.projection(tuple(level.width for level in student.levels), features.width)
        if self.review is None:
            latent = student.latent_width, student.latent_grid
            self.projection = Projection(*latent, features.width, features.grid, self.periodic)

    def forward(self, inputs: Tensor) -> Distilled:
        output = self.student(inputs)
        return Distilled(output.forecast, self._projected(output))

    def _projected(self, output: StudentOutput) -> Tensor | None:
        projected: Tensor | None = None
        if self.projection is not None:
            projected = self.projection(output.latent)
        elif self.review is not None:
            projected = self.review(tuple(regridded(level, self.grid, self.periodic) for level in output.levels))
        return projected


class StudentObjective:
    """L_Student of eq. 14: L_pred plus the method's weighted terms against what the teacher left.

    `scale` "raw" takes Z_fused as it is, as the paper does. Most of that is one pattern that does not change
    with the sample, on which a student can only waste capacity. "centred" takes the training mean away per
    token and channel and divides by one number, so that the terms measure what changes, in its own
    proportions. "standardised" divides by each token's and channel's own deviation, small ones included.
    """

    def __init__(self, statistics: Statistics, loss: DistillationLoss, features: Features | None, scale: str) -> None:
        self.prediction = PredictionLoss(statistics)
        self.field_mean = torch.as_tensor(statistics.mean, dtype=torch.float32)[:, None, None]
        self.loss = loss
        self.grid = features.grid if features else (0, 0)
        mean, reciprocal = _target_scale(features, scale)
        self.reciprocal, self.offset = reciprocal.mT.contiguous(), (-mean * reciprocal).mT.contiguous()

    def __call__(self, model: Any, batch: Batch) -> Terms:
        output: Distilled = model(batch.inputs)
        values = {"prediction": self._prediction(output.forecast, batch)}
        if output.projected is not None and batch.features is not None:
            values |= self.loss.terms(output.projected, self._target(batch.features), self.grid)
        if batch.forecasts is not None:
            forecast, truth = self._scores(output.forecast), self._scores(batch.targets)
            if batch.labelled is not None:  # elsewhere the teacher's forecast is the only truth there is
                truth = torch.where(batch.labelled[:, None, None, None, None], truth, batch.forecasts)
            values |= self.loss.forecast_terms(forecast, truth, batch.forecasts)
        return Terms(values, {"prediction": 1.0} | self.loss.weights)

    def _prediction(self, forecast: Tensor, batch: Batch) -> Tensor:
        """Over the windows whose targets may be learnt from; 0 in a batch that happens to have none."""
        if batch.labelled is None:
            return self.prediction(forecast, batch.targets)
        if not batch.labelled.any():
            return forecast.sum() * 0.0
        return self.prediction(forecast[batch.labelled], batch.targets[batch.labelled])

    def _target(self, features: Tensor) -> Tensor:
        """(B, L, D) on the target's scale; in memory channel by channel, as P's output and the transforms have it."""
        device, channels = features.device, features.mT.contiguous()
        return torch.addcmul(self.offset.to(device), channels, self.reciprocal.to(device)).mT

    def _scores(self, fields: Tensor) -> Tensor:
        """Physical units -> z-scores, in float32 because the mean may be much larger than what varies."""
        return (fields.float() - self.field_mean.to(fields.device)) / self.prediction.std.to(fields.device)


def _target_scale(features: Features | None, scale: str) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation, (L, D) or (1, 1), that bring the target on its scale.

    A token's own deviation has a floor of a hundredth of their mean: a channel that never changes carries no
    knowledge, and must not be blown up to carry rounding noise.
    """
    if features is None or scale == "raw":
        return torch.zeros(1, 1), torch.ones(1, 1)
    mean, std = torch.from_numpy(features.mean), torch.from_numpy(features.std)
    if scale == "centred":
        return mean, 1 / std.square().mean(dim=(0, 1), keepdim=True).sqrt()
    return mean, 1 / std.clamp(min=0.01 * float(std.mean()))


def distillation_loss(method: str, beta: float, lambda_: float, settings: Distill | None = None) -> DistillationLoss:
    """The method's loss by name, with its options from `settings`, or else its own; UserError for an unknown one."""
    from pipeline.losses import LOSSES

    kind = LOSSES.load(method)
    options = {} if settings is None else settings.model_dump(include=set(kind.options))
    loss: DistillationLoss = kind(beta, lambda_, **options)
    return loss


def decisive(settings: Distill, student: str, method: str) -> dict[str, Any]:
    """What of `settings` decides what is trained: all but other students' sizes and other methods' options."""
    from pipeline.losses import LOSSES

    of_others = set(MethodOptions.model_fields) - set(LOSSES.load(method).options)
    return settings.model_dump(mode="json", exclude=of_others) | {"sizes": settings.sizes.get(student, {})}
