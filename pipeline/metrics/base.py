"""What a metric must offer: a value per window, lead time and variable, averaged and finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Description


class Metric(ABC):
    """A score that is a mean over windows, then possibly a function of that mean (such as a root).

    Keeping a value per window makes metrics stream over a split and lets intervals be bootstrapped.
    """

    title: ClassVar[str]  # a table's head
    label: ClassVar[str]  # the same with its reduction and units, for the note below the table
    smaller_is_better: ClassVar[bool] = True
    across_variables: ClassVar[bool] = True  # False: variables keep their own units and are never averaged

    def __init__(self, description: Description) -> None:
        self.description = description

    @abstractmethod
    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        """(B, T_out, C) from fields (B, T_out, C, H, W) in physical units."""

    def finish(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is reported, from means over windows (and possibly lead times and variables)."""
        return mean

    def normalised(self, fields: Tensor) -> Tensor:
        """Fields as z-scores by the training split's mean and standard deviation of each variable."""
        statistics = self.description.statistics
        mean = torch.as_tensor(statistics.mean, dtype=fields.dtype, device=fields.device)[:, None, None]
        std = torch.as_tensor(statistics.std, dtype=fields.dtype, device=fields.device)[:, None, None]
        return (fields - mean) / std
