"""What is written on pictures, as text: times, names, units, degrees and numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.render import units_text
from pipeline.store import Grid, Variable

LONGEST_TITLE = 60  # letters
UNITS_OF_TIME = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def frame_labels(times: NDArray[np.datetime64], calendar: bool) -> list[str]:
    """The frames' time stamps, or if they are nominal the time before the last frame: t−12 h."""
    if calendar:
        whole_minutes = not (times.astype("datetime64[s]").astype(np.int64) % 60).any()
        whole_seconds = not (times - times.astype("datetime64[s]")).astype(np.int64).any()
        unit = "m" if whole_minutes and whole_seconds else "s" if whole_seconds else "ms"
        return [str(time).replace("T", " ") for time in times.astype(f"datetime64[{unit}]")]
    seconds = ((times[-1] - times) / np.timedelta64(1, "s")).round(3).tolist()
    size, unit = next((pair for pair in UNITS_OF_TIME if not any(s % pair[0] for s in seconds)), UNITS_OF_TIME[-1])
    return [f"t\N{MINUS SIGN}{number(second / size)} {unit}" if second else "t" for second in seconds]


def plain_name(name: str) -> str:
    """A name from a file as one short line without control characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def degrees_north(value: float) -> str:
    return f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}"


def degrees_east(value: float) -> str:
    """Whatever the grid counts from; the date line is 180°."""
    east = round((value + 180) % 360 - 180, 6)
    return f"{abs(east):g}°{'' if east in (0, -180) else 'E' if east > 0 else 'W'}"


def shown_units(variable: Variable, grid: Grid) -> str:
    """A count on a plane has units of 1, which say nothing. On the globe they stand, as they always have."""
    return "" if variable.units == "1" and not grid.geographic else variable.units


def title_of(variable: Variable, grid: Grid) -> str:
    units = units_text(shown_units(variable, grid))
    return plain_name(f"{variable.long_name or variable.name}, {units}".removesuffix(", "))


def axis_names(grid: Grid) -> tuple[str, str]:
    """What stands beside the axes of a plane, with their units; degrees speak for themselves."""
    if grid.geographic:
        return "", ""
    units = units_text(plain_name(grid.units))
    return f"y, {units}".removesuffix(", "), f"x, {units}".removesuffix(", ")


def number(value: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    return np.format_float_positional(value, precision=8, trim="-").replace("-", "\N{MINUS SIGN}")
