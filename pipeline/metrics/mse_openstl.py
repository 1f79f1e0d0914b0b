"""Mean squared error as OpenSTL sums it, for comparison with numbers printed by that library."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.base import Metric


class MSEOpenSTL(Metric):
    """OpenSTL's `metric` without spatial_norm (Tan et al. 2023): mean over windows and frames, *sum* over the rest.

    It grows with the grid and adds squares of unlike units; it is here because TaxiBJ's tables are in it.
    """

    title = "MSE (OpenSTL)"
    label = (
        "squared error in physical units, summed over variables and grid points, mean over windows and lead times, "
        "no latitude weights"
    )
    across_variables = False
    sums_variables = True

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).square().sum((-2, -1))

    def units(self, variable: str) -> str:
        return f"({variable})^2"
