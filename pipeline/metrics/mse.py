"""Mean squared error of z-scored fields: one number over variables of different units."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.base import Metric


class MSE(Metric):
    """Mean over windows, lead times, variables and grid points; no latitude weights, as in training."""

    title = "MSE"
    label = "mean squared error of z-scores, mean over windows, lead times, variables and grid points"

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (self.normalised(forecast) - self.normalised(target)).square().mean((-2, -1))
