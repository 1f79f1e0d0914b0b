"""Mean absolute error as OpenSTL sums it, for comparison with numbers printed by that library."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.openstl import SUMMED, OpenSTL


class MAEOpenSTL(OpenSTL):
    """The absolute error."""

    title = "MAE (OpenSTL)"
    label = f"absolute error {SUMMED}"

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).abs().sum((-2, -1))

    def units(self, variable: str) -> str:
        return variable
