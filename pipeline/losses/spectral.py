"""The spectral alignment of S2-KD alone, eq. 11: the row of its Table 4 without the semantic term.

Its weight is that in S2-KD, lambda * beta, so that S2-KD is this method and `semantic` added up. Magnitudes say
nothing of where on the grid a pattern lies, so alone it leaves the student free to put it anywhere.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.losses.base import DistillationLoss
from pipeline.losses.spectrum import spectral_alignment


class Spectral(DistillationLoss):
    options = ("spectral_axes",)

    def __init__(self, beta: float, lambda_: float, spectral_axes: str = "grid") -> None:
        super().__init__(beta, lambda_)
        self.spectral_axes = spectral_axes

    @property
    def weights(self) -> dict[str, float]:
        return {"spectral": self.lambda_ * self.beta}

    def terms(self, projected: Tensor, target: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {"spectral": spectral_alignment(projected.float(), target.float(), grid, self.spectral_axes)}
