"""Mean and variance over time at each grid point, gathered piece by piece in float64.

Pieces are merged by the pairwise update of Chan, Golub & LeVeque (1983, The American Statistician 37,
242-247), which is exact up to rounding; merged in one fixed order they give the same bits every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAMES_AT_ONCE = 16
POINTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Moments:
    """At each point: how many finite values, their mean, and the sum of squared deviations from it.

    count: (..., H, W) int64. mean, squares: (..., H, W) float64, in the field's units and their square.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Moments:
        return cls(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Moments:
        """Of (T, H, W) values along time; NaN and infinity do not count."""
        if len(values) == 0:
            return cls.none(values.shape[1:])
        finite = np.isfinite(values)
        if finite.all():
            mean = values.mean(axis=0, dtype=np.float64)
            return cls(np.full(mean.shape, len(values)), mean, _sum_of_squares(values, mean))
        count = finite.sum(axis=0)
        filled = np.where(finite, values, np.float32(0))
        mean = filled.sum(axis=0, dtype=np.float64) / np.maximum(count, 1)
        return cls(count, mean, _sum_of_squares(np.where(finite, values, mean), mean))

    @classmethod
    def stacked(cls, fields: Sequence[Moments]) -> Moments:
        """Of several fields: (H, W) each to (C, H, W)."""
        return cls(
            np.stack([field.count for field in fields]),
            np.stack([field.mean for field in fields]),
            np.stack([field.squares for field in fields]),
        )

    def __getitem__(self, field: int) -> Moments:
        return Moments(self.count[field], self.mean[field], self.squares[field])

    def merged(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return Moments(count, self.mean + delta * share, self.squares + other.squares + delta**2 * self.count * share)

    @property
    def std(self) -> NDArray[np.float64]:
        """(..., H, W) population standard deviation over time; 0 where no value was finite."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    def over_points(self) -> tuple[float, float]:
        """Mean and population standard deviation over all values of all points."""
        total = int(self.count.sum())
        mean = float((self.count * self.mean).sum() / max(total, 1))
        squares = float((self.squares + self.count * (self.mean - mean) ** 2).sum())
        return mean, float(np.sqrt(squares / max(total, 1)))


def _sum_of_squares(values: NDArray[np.floating], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tile by tile, so that no second copy of all values in float64 is made and a tile stays in the cache."""
    frames, points = values.reshape(len(values), -1), mean.reshape(-1)
    total = np.zeros_like(points)
    for point in range(0, len(points), POINTS_AT_ONCE):
        tile = slice(point, point + POINTS_AT_ONCE)
        for frame in range(0, len(frames), FRAMES_AT_ONCE):
            deviation = frames[frame : frame + FRAMES_AT_ONCE, tile] - points[tile]
            total[tile] += np.einsum("tp,tp->p", deviation, deviation)
    return total.reshape(mean.shape)
