"""Anomaly correlation coefficient: how alike forecast and truth depart from the time of the year and the day."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.metrics.base import Metric, area_weights


class ACC(Metric):
    """WeatherBench 2's convention: uncentred, rows weighted by area, one coefficient a window, then their mean.

    It is 0 where forecast or truth is the climatology itself, which has no pattern to be alike.
    """

    title = "ACC"
    label = (
        "anomaly correlation against the training split's climatology by day of the year and hour (by its mean map "
        "where time stamps are nominal), uncentred, latitude-weighted on a globe, no units, mean over windows"
    )
    smaller_is_better = False
    across_variables = False
    of_anomalies = True

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        weights = torch.as_tensor(area_weights(self.description.grid), dtype=forecast.dtype, device=forecast.device)
        product, of_forecast, of_target = (
            (pair * weights[:, None]).mean((-2, -1)) for pair in (forecast * target, forecast**2, target**2)
        )
        norm = (of_forecast * of_target).sqrt()
        return torch.where(norm > 0, product / norm, torch.zeros_like(norm))
