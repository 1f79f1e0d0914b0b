"""Fields on a grid coarse enough to be read as a chart, and what of a plane's field stands out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS = 64  # a chart has at most so many rows and columns
WORTH_A_WORD = 0.05  # of the cells that stand out: so many more or fewer are a change


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


def standing_out(mean: float, std: float) -> float:
    """The value above which a plane's field is called high (hot, busy, full of smoke): one standard deviation over
    the training mean, to two digits, so that it can be said in words.
    """
    value = mean + std
    return round(value, 1 - int(np.floor(np.log10(abs(value))))) if value else 0.0


def reach(mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The outermost cells of a (H, W) mask: how far it reaches left, right, down and up, larger being further.

    None if the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([-columns[0], columns[-1], -rows[0], rows[-1]]) if len(rows) else None


def spread(first: NDArray[np.bool_], last: NDArray[np.bool_]) -> int:
    """+1 if `last` covers clearly more cells than `first`, -1 if clearly fewer, else 0."""
    before, after = int(first.sum()), int(last.sum())
    return int(np.sign(after - before)) * (abs(after - before) >= max(1.0, WORTH_A_WORD * before))
