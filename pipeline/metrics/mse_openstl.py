"""Mean squared error as OpenSTL sums it, for comparison with numbers printed by that library."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.openstl import SUMMED, OpenSTL


class MSEOpenSTL(OpenSTL):
    """The squared error. It grows with the grid and adds squares of unlike units; TaxiBJ's tables are in it."""

    title = "MSE (OpenSTL)"
    label = f"squared error {SUMMED}"

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).square().sum((-2, -1))

    def units(self, variable: str) -> str:
        return f"({variable})^2"
