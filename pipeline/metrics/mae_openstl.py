"""Mean absolute error as OpenSTL sums it, for comparison with numbers printed by that library."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.base import Metric


class MAEOpenSTL(Metric):
    """OpenSTL's `metric` without spatial_norm (Tan et al. 2023): mean over windows and frames, *sum* over the rest."""

    title = "MAE (OpenSTL)"
    label = (
        "absolute error in physical units, summed over variables and grid points, mean over windows and lead times, "
        "no latitude weights"
    )
    across_variables = False
    sums_variables = True

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).abs().sum((-2, -1))

    def units(self, variable: str) -> str:
        return variable
