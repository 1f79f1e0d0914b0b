"""Simulations as one record: every one a segment with its environment, laid one behind another in nominal time.

All have the same fields in the same units, the same grid and the same interval between two frames; their lengths
may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.datasets.base import combine, join, mark, nominal_times
from pipeline.datasets.fire.environments import Environments
from pipeline.errors import UserError

if TYPE_CHECKING:
    import dask.array

UNITS = {  # as the store writes them -> other spellings, among them those of the Fire Dynamics Simulator
    "K": ("kelvin",),
    "degC": ("C", "°C", "celsius", "degrees_celsius"),
    "m/s": ("m s-1", "m s**-1", "m.s-1"),
    "1/m": ("m-1", "m**-1", "m^-1"),
    "kg/kg": ("kg kg-1", "kg kg**-1"),
    "mol/mol": (),
    "kg/m3": ("kg m-3", "kg m**-3", "kg/m^3"),
    "mg/m3": ("mg m-3", "mg m**-3"),
    "kW/m3": ("kW m-3",),
    "kW/m2": ("kW m-2",),
    "Pa": (),
    "m": ("metre", "meter"),
    "1": ("-", "dimensionless"),
}
SPELLINGS = {spelling: units for units, others in UNITS.items() for spelling in (units, *others)}

UNEVEN = 0.25  # of an interval: how far a frame may lie off the even spacing, as adaptive time steps put it
EXACT = 1e-5  # of an interval: what rounding to float32 does to a time


@dataclass(frozen=True)
class Field:
    values: dask.array.Array  # (T, H, W)
    units: str = ""  # of `UNITS`; empty if the file does not say
    long_name: str = ""


@dataclass(frozen=True)
class Simulation:
    name: str
    path: Path
    fields: dict[str, Field]  # by their names in the store
    seconds: NDArray[np.float64]  # (T,)
    y: NDArray[np.float64]  # (H,) metres
    x: NDArray[np.float64]  # (W,) metres


def known_units(units: str, what: str) -> str:
    """`units` as the store writes them; raises UserError about `what` if they are not known."""
    if units and units not in SPELLINGS:
        raise UserError(f"{what} has the units '{units}'; known are {', '.join(UNITS)}")
    return SPELLINGS.get(units, "")


def joined(simulations: Sequence[Simulation], environments: Environments, notes: Iterable[str] = ()) -> xr.Dataset:
    """The simulations, in their order, as a data source gives them; raises UserError, naming the file that differs."""
    milliseconds, remarks = _interval_of_all(simulations)
    lengths = [len(simulation.seconds) for simulation in simulations]
    times = nominal_times(lengths, milliseconds)
    starts = np.cumsum([0, *lengths])
    fields = []
    for name in simulations[0].fields:
        pieces = {
            str(simulation.path): _piece(simulation, name, times[start : start + length])
            for simulation, start, length in zip(simulations, starts[:-1], lengths, strict=True)
        }
        _check_units(name, pieces)
        fields.append(join(name, pieces))
    names = [environments.of[run.name] for run, length in zip(simulations, lengths, strict=True) for _ in range(length)]
    return mark(
        combine(fields),
        segment=np.repeat(np.arange(len(simulations)), lengths),
        environment=names,
        environments=environments.parameters,
        notes=[*notes, *remarks],
    )


def interval(seconds: NDArray[np.float64], path: Path) -> tuple[int, float]:
    """Whole milliseconds between two frames, and how many seconds a frame lies off even times at most.

    Simulators with adaptive time steps write a frame at the first step after it is due; such times are taken as
    even, with the roundest interval that fits them. Raises UserError for times that do not ascend or are uneven.
    """
    if len(seconds) < 2:
        raise UserError(f"{path} has {len(seconds)} frame; a simulation needs at least 2")
    gaps = np.diff(seconds)
    if not (gaps > 0).all():  # NaN too
        at = int(np.argmax(~(gaps > 0)))
        raise UserError(f"{path}: frame {at} at {seconds[at]:g} s is followed by {seconds[at + 1]:g} s; times ascend")
    number = np.arange(len(seconds))
    spacing, start = np.polyfit(number, seconds, 1)
    off = float(np.abs(seconds - start - spacing * number).max())
    if off > UNEVEN * spacing:
        raise UserError(f"{path}: its frames are {gaps.min():g} to {gaps.max():g} s apart; they must be evenly spaced")
    doubt = 2 * off / (len(seconds) - 1) + EXACT * spacing
    fitting = (round(spacing, digits) for digits in range(3) if abs(round(spacing, digits) - spacing) <= doubt)
    milliseconds = round(1000 * next(fitting, spacing))
    if milliseconds < 1:
        raise UserError(f"{path}: its frames are {spacing:g} s apart; at least a millisecond is needed")
    return milliseconds, max(off, abs(1e-3 * milliseconds - spacing))


def _interval_of_all(simulations: Sequence[Simulation]) -> tuple[int, list[str]]:
    found = [interval(simulation.seconds, simulation.path) for simulation in simulations]
    milliseconds = found[0][0]
    for simulation, (other, _) in zip(simulations, found, strict=True):
        if other != milliseconds:
            raise UserError(
                f"{simulation.path} has a frame every {other / 1000:g} s, {simulations[0].path} every "
                f"{milliseconds / 1000:g} s; all simulations need the same output interval"
            )
    off = max(off for _, off in found)
    remark = f"frames lie up to {off:.2g} s off even times and are taken as {milliseconds / 1000:g} s apart"
    return milliseconds, [remark] if off > 2 * EXACT * milliseconds / 1000 else []


def _piece(simulation: Simulation, name: str, times: NDArray[np.datetime64]) -> xr.DataArray:
    field = simulation.fields[name]
    attributes = {"units": field.units, "long_name": field.long_name or name.replace("_", " ")}
    plane = {dim: (dim, values, {"units": "m"}) for dim, values in (("y", simulation.y), ("x", simulation.x))}
    values = field.values.astype(np.float32)
    return xr.DataArray(values, {"time": times, **plane}, ("time", "y", "x"), name, attributes)


def _check_units(name: str, pieces: dict[str, xr.DataArray]) -> None:
    (first_file, first), *others = pieces.items()
    for file, piece in others:
        if piece.attrs["units"] != first.attrs["units"]:
            raise UserError(
                f"{name} in {file} is in '{piece.attrs['units']}', in {first_file} in '{first.attrs['units']}'; "
                "all simulations need the same units"
            )
