"""Structural similarity of each forecast frame with the true one."""

from __future__ import annotations

from torch import Tensor

from pipeline.metrics.base import Metric
from pipeline.store import Description

WINDOW = 11  # cells
SIGMA = 1.5  # cells
HALF_RANGE = 3.0  # standard deviations


class SSIM(Metric):
    """Wang et al. 2004: Gaussian window of 11 cells, sigma 1.5, K1 = 0.01, K2 = 0.03, per frame and variable.

    Fields are shifted to z-score + 3 with a data range of 6 (mean -3 to +3 standard deviations), since the
    luminance term presumes values that start at zero. On a grid under 11 cells wide or high the window and
    its sigma shrink together to the largest odd number of cells that fits.
    """

    title = "SSIM"
    label = (
        "structural similarity (Wang et al. 2004) of z-scores with a data range of -3 to 3, "
        "mean over windows, lead times, variables and grid points"
    )
    smaller_is_better = False

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        smallest_side = min(description.grid.shape)
        self.window = min(WINDOW, smallest_side - (smallest_side + 1) % 2)

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        similarity = structural_similarity_index_measure(
            self._images(forecast),
            self._images(target),
            sigma=SIGMA * self.window / WINDOW,
            reduction="none",
            data_range=2 * HALF_RANGE,
        )
        assert isinstance(similarity, Tensor)  # a pair only if the full image is asked for
        return similarity.reshape(forecast.shape[:3])

    def _images(self, fields: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B * T * C, 1, H, W), a standard deviation being a sixth of the data range."""
        return (self.normalised(fields) + HALF_RANGE).flatten(0, 2).unsqueeze(1)
