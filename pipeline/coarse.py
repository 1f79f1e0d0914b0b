"""Fields on a grid coarse enough to be read as a chart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS = 64  # a chart has at most so many rows and columns


def coarse(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., H, W) averaged to at most CELLS rows and columns."""
    for axis in (-2, -1):
        size = fields.shape[axis]
        if size > CELLS:
            edges = np.arange(0, size, -(-size // CELLS))
            counts = np.diff(edges, append=size)
            sums = np.add.reduceat(fields, edges, axis=axis)
            fields = sums / (counts[:, None] if axis == -2 else counts)
    return fields
