"""Mean absolute error of z-scored fields."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.base import Metric


class MAE(Metric):
    """Mean over windows, lead times, variables and grid points; no latitude weights, as in training."""

    title = "MAE"
    label = "mean absolute error of z-scores, mean over windows, lead times, variables and grid points"

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (self.normalised(forecast) - self.normalised(target)).abs().mean((-2, -1))
