"""What a metric must offer: a value per window, lead time and variable, averaged and finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Description, Grid


class Metric(ABC):
    """A score that is a mean over windows, then possibly a function of that mean (such as a root).

    Keeping a value per window makes metrics stream over a split and lets intervals be bootstrapped.
    """

    title: ClassVar[str]  # a table's head
    label: ClassVar[str]  # the same with its reduction and units, for the note below the table
    smaller_is_better: ClassVar[bool] = True
    across_variables: ClassVar[bool] = True  # False: variables keep their own units and are never averaged
    sums_variables: ClassVar[bool] = False  # one number is the sum over variables, whatever their units
    of_anomalies: ClassVar[bool] = False  # `per_window` is given fields less the climatology of their day and hour

    def __init__(self, description: Description) -> None:
        self.description = description

    @abstractmethod
    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        """(B, T_out, C) from fields (B, T_out, C, H, W) in physical units."""

    def finish(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is reported, from means over windows (and possibly lead times and variables)."""
        return mean

    def units(self, variable: str) -> str:
        """Of the score of a field in units `variable`; "1" where it has none."""
        return "1"

    def normalised(self, fields: Tensor) -> Tensor:
        """Fields as z-scores by the training split's mean and standard deviation of each variable."""
        statistics = self.description.statistics
        mean = torch.as_tensor(statistics.mean, dtype=fields.dtype, device=fields.device)[:, None, None]
        std = torch.as_tensor(statistics.std, dtype=fields.dtype, device=fields.device)[:, None, None]
        return (fields - mean) / std


def area_weights(grid: Grid) -> NDArray[np.float64]:
    """(H,) area of a row's cells, scaled to mean 1; all ones on a plane.

    WeatherBench 2 (Rasp et al. 2024, J. Adv. Model. Earth Syst. 16): the sine of a cell's upper bound less that of
    its lower one, bounds lying half way between rows and, next to a pole, at it. A region ends half a row outside.
    """
    if not grid.geographic or len(grid.y) < 2:
        return np.ones(len(grid.y))
    inner = (grid.y[1:] + grid.y[:-1]) / 2
    first, last = 2 * grid.y[0] - inner[0], 2 * grid.y[-1] - inner[-1]
    spacing = grid.y[1] - grid.y[0]
    bounds = np.concatenate(
        [[-90 if first - spacing / 2 < -90 else first], inner, [90 if last + spacing / 2 > 90 else last]]
    )
    weights = np.diff(np.sin(np.deg2rad(bounds)))
    return weights / weights.mean()
