"""The colours of the fields: one scale a variable from the training statistics, and the palette of a picture."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from pipeline.render import FIELD_COLOURS, Scale
from pipeline.store import Description, Grid, Variable

SPREADS = 2  # standard deviations about the climatology that a colour scale covers
LEVELS = 224  # colours of the fields
GREYS = 256 - LEVELS
SIGNED_UNITS = re.compile(r"(deg(rees?)?_?(c|f|celsius|fahrenheit)|celsius|°[cf]|m|h?pa|[wj].*|.*s-[12]|.*/s[2²]?)")
NEVER_NEGATIVE = re.compile(r"rain|precipit|speed|smoke|soot|count|density|concentration|visibility|humidity|cloud")
Levels = NDArray[np.uint8]


def scales(description: Description) -> tuple[Scale, ...]:
    """Each variable's colour scale: the climatology of the training frames, two standard deviations either way.

    Its ends are those of the cell that reaches furthest, rounded outwards to about a twentieth of the span, so
    that they are round numbers and small changes of the statistics leave them alone. What cannot be negative
    (counts, smoke, rain) has no colours below 0. Values beyond them take the end's colour: 0.1 % of the values of
    the weather twin.
    """
    statistics = description.statistics
    return tuple(
        _rounded_scale(_low_end(variable, description.grid, mean, std), float((mean + SPREADS * std).max()))
        for variable, mean, std in zip(
            description.variables, statistics.climatology, statistics.climatology_std, strict=True
        )
    )


def _low_end(variable: Variable, grid: Grid, mean: NDArray[np.float32], std: NDArray[np.float32]) -> float:
    """Two standard deviations below the climatology, unless the values cannot lie there.

    On a plane, what cannot be negative is often quiet but for bursts (flames, rush hours); then nothing falls below
    the quietest cell, though it would where bursts are frequent if they went either way.
    """
    low = float((mean - SPREADS * std).min())
    words = f"{variable.long_name} {variable.name} {variable.standard_name}".lower()
    signed = SIGNED_UNITS.fullmatch(re.sub(r"[*^ .]", "", variable.units.lower())) and not NEVER_NEGATIVE.search(words)
    if signed or float(mean.min()) < 0:
        return low
    calm = int(mean.argmin())
    bound = 0.0 if grid.geographic else float(mean.flat[calm] - SPREADS * std.flat[calm])
    return max(low, bound, 0.0)


def _rounded_scale(low: float, high: float) -> Scale:
    """With ends on multiples of 1, 2 or 5 times a power of ten; a field that never changed gets some width."""
    margin = 0.0 if high > low else max(abs(high), 1.0) * 1e-3
    low, high = low - margin, high + margin
    power = 10 ** math.floor(math.log10((high - low) / 20))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 20 * (1 - 1e-9))
    return Scale(round(math.floor(low / step) * step, 12), round(math.ceil(high / step) * step, 12), FIELD_COLOURS)


def low_and_factor(description: Description) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C, 1, 1) each: the colour scales' low ends, and levels per unit."""
    found = scales(description)
    low = np.array([scale.low for scale in found], dtype=np.float32)
    factor = np.array([LEVELS / (scale.high - scale.low) for scale in found], dtype=np.float32)
    return low[:, None, None], factor[:, None, None]


def palette() -> bytes:
    """(256 x red, green, blue): the fields' colours, then greys."""
    from matplotlib import colormaps

    colours = colormaps[FIELD_COLOURS](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    greys = np.linspace(0, 255, GREYS).round().astype(np.uint8)
    return bytes(np.concatenate([colours, np.repeat(greys[:, None], 3, axis=1)]).tobytes())
