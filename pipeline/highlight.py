"""The box of a map that a reader should look at, chosen by rule from the truth alone.

The rule knows no forecast, so it cannot favour a method: the box lies where the truth has the most detail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.store import Grid

SHARE = 4  # a box is a quarter of the map high and wide
SMOOTHING = 16  # detail is what a mean over about a sixteenth of the shorter side takes away
RULE = (
    "The dashed box, a quarter of the map high and wide, lies where the truth has the most detail: where the mean "
    "square of the truth minus its local mean, weighted by area, is largest. No forecast has a say in it."
)


@dataclass(frozen=True)
class Box:
    """Half-open ranges of rows (from the south) and columns."""

    bottom: int
    top: int
    left: int
    right: int

    def of(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        return field[self.bottom : self.top, self.left : self.right]


def detail(field: NDArray[np.float32], grid: Grid) -> NDArray[np.float64]:
    """(H, W) `field` minus its mean over a square of cells around each; on the globe the square goes round."""
    reach = max(1, round(min(field.shape) / SMOOTHING))
    padded = np.pad(field.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (reach, reach)), mode="wrap" if grid.periodic else "edge")
    return field - _window_means(padded, (2 * reach + 1, 2 * reach + 1))


def busiest_box(truth: NDArray[np.float32], grid: Grid) -> Box:
    """The box in which `truth` (H, W) has the largest mean square of detail, weighted by latitude."""
    energy = detail(truth, grid) ** 2 * grid.latitude_weights[:, None]
    height, width = (max(1, side // SHARE) for side in truth.shape)
    means = _window_means(energy, (height, width))
    bottom, left = (int(place) for place in np.unravel_index(np.argmax(means), means.shape))
    return Box(bottom, bottom + height, left, left + width)


def detail_kept(forecast: NDArray[np.float32], truth: NDArray[np.float32], box: Box, grid: Grid) -> float:
    """The mean square of a forecast's detail in the box, as a share of the truth's; nan where that has none."""
    own, true = (float((box.of(detail(field, grid).astype(np.float32)) ** 2).mean()) for field in (forecast, truth))
    return own / true if true else float("nan")


def _window_means(values: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """The mean over every window of `shape` within `values`, by differences of running sums."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows, columns = shape
    windows = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    means: NDArray[np.float64] = windows / (rows * columns)
    return means
