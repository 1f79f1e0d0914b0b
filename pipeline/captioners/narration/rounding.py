"""Numbers as they are said: round ones, of few digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def round_below(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= value * (1 + 1e-9)))


def smaller(grain: float) -> float:
    """The next smaller of the numbers that `round_below` gives."""
    return round_below(grain * 0.6)


def rounded(value: float, grain: float) -> float:
    return round(round(value / grain) * grain, 6) + 0.0  # no negative zero


def number(value: float) -> str:
    """Two significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 1 - int(np.floor(np.log10(abs(value))))
    return (
        f"{round(value, digits):.{max(0, digits)}f}".rstrip("0").rstrip(".")
        if digits > 0
        else f"{round(value, digits):.0f}"
    )


def binned(value: float, edges: Sequence[float], names: Sequence[str]) -> str:
    """The name of the bin that `value` falls into; one more name than edges."""
    return names[int(np.searchsorted(edges, value))]
