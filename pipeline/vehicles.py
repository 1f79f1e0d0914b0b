"""Errors of traffic in vehicles, where the truth reaches a threshold: a share of an empty street says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batch import Batch
from pipeline.store import Variable

LEGENDS = {
    "mae_above": "mean absolute error where the truth is at least {threshold:g} vehicles, in vehicles",
    "rmse_above": "root mean squared error where the truth is at least {threshold:g} vehicles, in vehicles",
    "mape_above": "mean of |error| / truth where the truth is at least {threshold:g} vehicles, in per cent",
}


def counts_vehicles(variables: Sequence[Variable]) -> bool:
    """Whether every field counts vehicles, by its units or its name for people."""
    return all("vehicles" in f"{variable.units} {variable.long_name}".split() for variable in variables)


@dataclass(frozen=True)
class Above:
    """The tally of errors where the truth is at least `threshold`; see `Tally`."""

    threshold: float

    def __call__(self, forecast: Tensor, batch: Batch) -> Tensor:
        """(T_out, C, 4): how many values, sums of absolute, squared and relative errors."""
        truth = batch.targets.double()
        inside = (truth >= self.threshold).double()
        error = (forecast.double() - truth).abs() * inside
        sums = (inside, error, error.square(), error / truth.clamp(min=self.threshold))
        return torch.stack([values.sum((0, 3, 4)) for values in sums], dim=-1)


def scores(sums: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
    """Name -> (T_out, C) from a tally's (T_out, C, 4), pooled over windows and grid points; NaN without a value."""
    count, absolute, squared, relative = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mae_above": absolute / count,
            "rmse_above": np.sqrt(squared / count),
            "mape_above": 100 * relative / count,
        }
