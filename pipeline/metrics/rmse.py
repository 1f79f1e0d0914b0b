"""Latitude-weighted root mean squared error in physical units, per variable and lead time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics.base import Metric, area_weights


class RMSE(Metric):
    """WeatherBench 2's convention: rows weighted by their cells' area, the root taken after the mean over windows.

    A window's value is therefore its weighted mean *squared* error, in squared units.
    """

    title = "RMSE"
    label = (
        "root mean squared error in physical units, latitude-weighted on a globe, "
        "root after the mean over windows and grid"
    )
    across_variables = False

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        weights = torch.as_tensor(area_weights(self.description.grid), dtype=forecast.dtype, device=forecast.device)
        return ((forecast - target).square() * weights[:, None]).mean((-2, -1))

    def finish(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(mean)

    def units(self, variable: str) -> str:
        return variable
