"""One variable's input frames as a chart: on a coarse grid, with what is normal there and how places are rounded."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.captioners.narration.rounding import round_below
from pipeline.coarse import coarse, standing_out

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
GRAINS = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # degrees or percent to which places are rounded


class Chart:
    """One variable's frames on a coarse grid, with what is needed to read them."""

    def __init__(self, fields: Array, request: CaptionRequest, variable: int) -> None:
        grid, statistics = request.description.grid, request.description.statistics
        self.fields = coarse(fields)  # (T, h, w)
        self.y = coarse(np.broadcast_to(grid.y[:, None], grid.shape))[:, 0]
        self.x = coarse(np.broadcast_to(grid.x[None, :], grid.shape))[0]
        self.weights = coarse(np.broadcast_to(grid.latitude_weights[:, None], grid.shape))
        self.geographic, self.periodic = grid.geographic, grid.periodic
        self.anomaly = self.fields - coarse(statistics.climatology[variable].astype(float))
        spread = coarse(statistics.climatology_std[variable].astype(float))
        usual = float(spread.mean()) or 1.0  # a field that never changed in training has no spread
        self.scaled = self.anomaly / np.maximum(spread, 0.05 * usual)  # in standard deviations
        self.usual = usual
        self.standing_out = standing_out(float(statistics.mean[variable]), float(statistics.std[variable]))

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Height and width of the grid, in its own coordinates, cells' rims included."""
        height, width = (abs(axis[-1] - axis[0]) * len(axis) / max(1, len(axis) - 1) for axis in (self.y, self.x))
        return float(height) or 1.0, float(width) or 1.0

    @cached_property
    def grain(self) -> float:
        """To how many degrees places are rounded."""
        return max((grain for grain in GRAINS if grain <= self.extent[0] / 20), default=GRAINS[0])

    @cached_property
    def step(self) -> float:
        """To how many degrees movements are rounded."""
        return max((grain for grain in GRAINS if grain < self.grain), default=GRAINS[0])

    @cached_property
    def grains(self) -> tuple[float, float]:
        """To how many units of a plane's rows and columns places are rounded: a round twentieth of its extents."""
        return round_below(self.extent[0] / 20), round_below(self.extent[1] / 20)

    def regions(self) -> dict[str, slice]:
        """Rows by name: two hemispheres where the grid has them, else the whole."""
        if not self.geographic or self.y[0] > -15 or self.y[-1] < 15:
            return {"Pattern": slice(0, len(self.y))}
        equator = int(np.searchsorted(self.y, 0))
        return {"North": slice(equator, len(self.y)), "South": slice(0, equator)}

    def value(self, value: float) -> str:
        """A value of the field to two digits of its usual variation: of 293.4 K, all of it may matter."""
        digits = 1 - int(np.floor(np.log10(self.usual)))
        text = f"{round(value, digits) + 0.0:.{max(0, digits)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text

    def mean(self, values: Array) -> float:
        """The area mean of a map."""
        return float((values * self.weights).sum() / self.weights.sum())
