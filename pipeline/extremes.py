"""Forecasts of extremes: does a forecast exceed what is rare at that place when the truth does? (RQ3)

What is rare is each grid point's own quantile over the training frames, for the highest and for the lowest values.
Hits, misses and false alarms are pooled over windows, lead times and grid points (weighted by area on a globe)
before any ratio is taken: a mean of windows' ratios would be undefined where nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.batch import Batch
from pipeline.metrics.base import area_weights
from pipeline.store import Grid

BYTES_AT_ONCE = 64_000_000


@dataclass(frozen=True)
class Tail:
    """An event: above the `quantile` of the training values ("upper"), or below it ("lower")."""

    name: str
    quantile: float


TAILS = tuple(Tail("upper", quantile) for quantile in (0.90, 0.95, 0.99)) + tuple(
    Tail("lower", quantile) for quantile in (0.10, 0.05, 0.01)
)
LEGENDS = {
    "quantile": "each grid point's own quantile over the training frames; an event lies beyond it (upper: above)",
    "base_rate": "share of the truth's values that are events, no units",
    "pod": "probability of detection, hits / (hits + misses), no units, 1 is best",
    "far": "false alarm ratio, false alarms / (hits + false alarms), no units, 0 is best",
    "csi": "critical success index, hits / (hits + misses + false alarms), no units, 1 is best",
    "sedi": "symmetric extremal dependence index (Ferro and Stephenson 2011), no units, 1 is best, 0 is chance",
    "fss": "fractions skill score (Roberts and Lean 2008) of neighbourhoods, no units, 1 is best",
    "pooling": "counts are pooled over windows, lead times and grid points, weighted by area on a globe",
}


def thresholds(fields: NDArray[np.float32], frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """(tail, C, H, W) quantiles over the frames `frames` of (time, C, H, W), linear between neighbours.

    Exact, in blocks of grid points: memory is that of one block, or of all frames at one point if that is more.
    """
    points = fields.reshape(len(fields), -1)
    quantiles = [tail.quantile for tail in TAILS]
    found = np.empty((len(TAILS), points.shape[1]), dtype=np.float32)
    width = max(1, BYTES_AT_ONCE // (len(frames) * fields.itemsize))
    for start in range(0, points.shape[1], width):
        block = np.ascontiguousarray(points[frames, start : start + width].T)
        found[:, start : start + width] = np.quantile(block, quantiles, axis=1)
    return found.reshape(len(TAILS), *fields.shape[1:])


@dataclass(frozen=True)
class Extremes:
    """The tally of events; see `Tally`.

    thresholds: (tail, C, H, W). cells: side of the neighbourhood, odd or made so, and no wider than the grid.
    """

    thresholds: Tensor
    grid: Grid
    cells: int

    def __call__(self, forecast: Tensor, batch: Batch) -> Tensor:
        """(C, tail, 6): hits, false alarms, misses, correct negatives; FSS's squared differences and squares."""
        return torch.stack([self._of(number, forecast, batch.targets) for number in range(len(TAILS))], dim=1)

    def _of(self, number: int, forecast: Tensor, target: Tensor) -> Tensor:
        threshold = self.thresholds[number]
        upper = TAILS[number].name == "upper"
        said, true = (field > threshold if upper else field < threshold for field in (forecast, target))
        area = torch.from_numpy(area_weights(self.grid))
        counts = [
            (pair.sum((0, 1, 4), dtype=torch.float64) * area).sum(-1)
            for pair in (said & true, said & ~true, ~said & true, ~(said | true))
        ]
        return torch.stack([*counts, *self._neighbourhoods(said, true, area)], dim=-1)

    def _neighbourhoods(self, said: Tensor, true: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
        """(C,) sums over all whole neighbourhoods; around the globe they wrap."""
        side = min(self.cells, *self.grid.shape)
        side -= 1 - side % 2
        half = side // 2
        shares = []
        for events in (said, true):
            maps = events.flatten(0, 1).float()
            if self.grid.periodic:
                maps = F.pad(maps, (half, half, 0, 0), mode="circular")
            for axis in (-2, -1):
                maps = _running_sum(maps, side, axis)
            shares.append(maps / side**2)
        rows = area[half : len(area) - half]
        squares = (shares[0] - shares[1]).square(), shares[0].square() + shares[1].square()
        differences, both = ((each.sum((0, 3), dtype=torch.float64) * rows).sum(-1) for each in squares)
        return differences, both


def _running_sum(maps: Tensor, length: int, axis: int) -> Tensor:
    """Of so many neighbours along an axis, which shrinks by one less; exact for counts, and faster than a pooling."""
    sums = maps.cumsum(axis)
    first, rest = sums.narrow(axis, length - 1, 1), sums.narrow(axis, length, sums.shape[axis] - length)
    return torch.cat([first, rest - sums.narrow(axis, 0, rest.shape[axis])], dim=axis)


def scores(counts: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
    """Name -> (C, tail) from a tally's (C, tail, 6); NaN where a score is not defined, as for events that never are."""
    hits, false_alarms, misses, negatives, differences, squares = np.moveaxis(counts, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pod, pofd = hits / (hits + misses), false_alarms / (false_alarms + negatives)
        logs = np.log(pofd), np.log(pod), np.log(1 - pofd), np.log(1 - pod)
        sedi = (logs[0] - logs[1] - logs[2] + logs[3]) / (logs[0] + logs[1] + logs[2] + logs[3])
        return {
            "pod": pod,
            "far": false_alarms / (hits + false_alarms),
            "csi": hits / (hits + misses + false_alarms),
            "sedi": np.where(np.isfinite(sedi), sedi, np.nan),
            "fss": np.where(squares > 0, 1 - differences / squares, np.nan),
            "base_rate": (hits + misses) / counts[..., :4].sum(-1),
        }
