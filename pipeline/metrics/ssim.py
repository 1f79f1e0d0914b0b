"""Structural similarity of each forecast frame with the true one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics.base import Metric
from pipeline.store import Description

WINDOW = 11  # cells
SIGMA = 1.5  # cells
HALF_RANGE = 3.0  # standard deviations
C1, C2 = (0.01 * 2 * HALF_RANGE) ** 2, (0.03 * 2 * HALF_RANGE) ** 2


class SSIM(Metric):
    """Wang et al. 2004: Gaussian window of 11 cells, sigma 1.5, K1 = 0.01, K2 = 0.03, per frame and variable.

    Fields are shifted to z-score + 3 with a data range of 6 (mean -3 to +3 standard deviations), since the
    luminance term presumes values that start at zero. The window stays within the grid. On a grid under 11
    cells wide or high it shrinks, and its sigma with it, to the largest odd number of cells that fits.
    """

    title = "SSIM"
    label = (
        "structural similarity (Wang et al. 2004) of z-scores with a data range of 6 (mean ± 3 standard deviations), "
        "mean over windows, lead times, variables and grid points"
    )
    smaller_is_better = False

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        smallest_side = min(description.grid.shape)
        self.kernel = gaussian_kernel(min(WINDOW, smallest_side - (smallest_side + 1) % 2))

    def per_window(self, forecast: Tensor, target: Tensor) -> Tensor:
        x, y = self._images(forecast), self._images(target)
        kernel = self.kernel.to(x)
        moments = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), kernel[None, None])
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = moments.chunk(5)
        luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        structure = (2 * (mean_xy - mean_x * mean_y) + C2) / (mean_xx - mean_x**2 + mean_yy - mean_y**2 + C2)
        return (luminance * structure).mean((-2, -1)).reshape(forecast.shape[:3])

    def _images(self, fields: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B * T * C, 1, H, W), a standard deviation being a sixth of the data range."""
        return (self.normalised(fields) + HALF_RANGE).flatten(0, 2).unsqueeze(1)


def gaussian_kernel(size: int) -> Tensor:
    """(size, size) float64 weights that sum to 1, sigma in proportion to the size."""
    places = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-((places / (SIGMA * size / WINDOW)) ** 2) / 2)
    weights /= weights.sum()
    return torch.outer(weights, weights)
