"""Fields -> coloured pictures: one pixel per cell for the report, labelled maps for slides and captioners.

Equal fields give equal bytes: pictures carry no time stamp and no version.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store import Grid, Variable

FIELD_COLOURS = "viridis"  # perceptually uniform
ERROR_COLOURS = "RdBu_r"  # diverging, white at zero
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Scale:
    """The values at both ends of a colour map of matplotlib."""

    low: float
    high: float
    colours: str


def field_scale(fields: Iterable[NDArray[np.float32]]) -> Scale:
    """From the smallest to the largest value of all `fields`."""
    arrays = list(fields)
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    margin = 0.0 if high > low else max(abs(high), 1.0) * 1e-3
    return Scale(low - margin, high + margin, FIELD_COLOURS)


def error_scale(errors: Iterable[NDArray[np.float32]]) -> Scale:
    """Symmetric about zero, up to the largest absolute value of all `errors`."""
    bound = max(float(np.abs(error).max()) for error in errors) or 1.0
    return Scale(-bound, bound, ERROR_COLOURS)


def raster_png(field: NDArray[np.float32], scale: Scale, most_pixels: int) -> bytes:
    """field: (H, W), rows from south to north -> a PNG with a pixel per cell, north up, no axes.

    Of a field with more than `most_pixels` cells only every second, third, ... row and column is drawn.
    """
    from PIL import Image

    step = math.ceil(math.sqrt(field.size / most_pixels))
    shares = (field[::-step, ::step].astype(np.float64) - scale.low) / (scale.high - scale.low)
    levels = np.clip(shares * 256, 0, 255).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.putpalette(palette(scale.colours))
    stream = io.BytesIO()
    picture.save(stream, format="png", optimize=True)
    return stream.getvalue()


def palette(colours: str) -> bytes:
    """256 colours of a colour map of matplotlib, three bytes each."""
    from matplotlib import colormaps

    values: NDArray[np.uint8] = colormaps[colours](np.arange(256), bytes=True)[:, :3]
    return values.tobytes()


def colour_stops(scale: Scale, count: int = 17) -> list[str]:
    """Evenly spaced colours of the scale, as #rrggbb, for a gradient."""
    from matplotlib import colormaps, colors

    return [colors.to_hex(colormaps[scale.colours](value)) for value in np.linspace(0, 1, count)]


def maps_png(fields: Mapping[str, NDArray[np.float32]], variable: Variable, grid: Grid, scale: Scale) -> bytes:
    """Maps side by side, each (H, W) under its title, with axes and one colour bar in the variable's units."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(fields) + 0.8, 2.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(fields), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, field) in zip(axes, fields.items(), strict=True):
        mesh = axis.pcolormesh(
            grid.x, grid.y, field, vmin=scale.low, vmax=scale.high, cmap=scale.colours, rasterized=True
        )
        axis.set_title(title)
        axis.set_xlabel("longitude, °E" if grid.geographic else _with_units("x", grid.units))
    axes[0].set_ylabel("latitude, °N" if grid.geographic else _with_units("y", grid.units))
    label = textwrap.fill(_with_units(variable.long_name, variable.units), 26)  # else it leaves the picture
    figure.colorbar(mesh, ax=axes, label=label)
    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}  # it would name a version
    figure.savefig(stream, format="png", metadata=metadata)
    return stream.getvalue()


def _with_units(name: str, units: str) -> str:
    return f"{name}, {units_text(units)}".removesuffix(", ")


def units_text(units: str) -> str:
    """CF units as people write them: m2 s-2 or m**2 s**-2 -> m² s⁻².

    >>> units_text("kg m-2")
    'kg m⁻²'
    """
    return " ".join(_unit_text(unit) for unit in units.replace("**", "").split())


def _unit_text(unit: str) -> str:
    symbol = unit.rstrip("0123456789").removesuffix("-")
    return symbol + unit[len(symbol) :].translate(SUPERSCRIPTS) if symbol.isalpha() else unit
