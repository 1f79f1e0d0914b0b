"""One simulation in an HDF5 or .npy file.

HDF5: data sets `time` (T,) in seconds, `y` (H,) and `x` (W,) in metres, under other names by ingest.dimensions, and
either one data set (T, H, W) for each of ingest.variables, or one (T, C, H, W) or (T, H, W, C) for all fields.
`units` and `long_name` are attributes of a data set. The channels of one for all fields are named, in their order, by
its attribute `fields`, `channels`, `variables` or `names` (a list, or words between commas), or by `fields.csv`.

npy: one array (T, C, H, W) or (T, H, W, C). Its channels are named by `fields.csv`; without that table they are
ingest.variables in their order. `axes.csv` gives its coordinates.

The tables lie beside the simulations, in the source's own folder, and hold for all of them:

    fields.csv   field,units[,long_name]    a row for each channel, in order; for HDF5, units that a file lacks
    axes.csv     axis,first,spacing         a row each for time (s), y and x (m)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.files.arrays import hdf5_array, hdf5_values, npy_array, opened
from pipeline.datasets.fire.environments import rows
from pipeline.datasets.fire.simulations import Field, Simulation, known_units
from pipeline.errors import UserError

if TYPE_CHECKING:
    import dask.array
    import h5py

FIELDS, AXES = "fields.csv", "axes.csv"
ROLES = ("time", "y", "x")
CHANNEL_NAMES = ("fields", "channels", "variables", "names")
UNITS_OF = {"time": ("s", "sec", "second", "seconds"), "y": ("m", "metre", "meter"), "x": ("m", "metre", "meter")}


@dataclass(frozen=True)
class Label:
    units: str = ""
    long_name: str = ""


Labels = Mapping[str, Label]


def open_hdf5(
    name: str, path: Path, variables: Sequence[str], labels: Labels, dimensions: Mapping[Any, str]
) -> Simulation:
    """`dimensions`: the file's own names of time, y and x. Raises UserError, naming the file and what is wrong."""
    seconds, y, x = (_coordinate(path, role, dimensions.get(role, role)) for role in ROLES)
    shape = (len(seconds), len(y), len(x))
    with opened(path) as file:
        alone = any(variable in file for variable in variables)
    fields = _alone(path, variables, labels, shape) if alone else _packed(path, variables, labels, shape)
    return Simulation(name, path, fields, seconds, y, x)


def open_npy(
    name: str, path: Path, variables: Sequence[str], labels: Labels, axes: Mapping[str, tuple[float, float]]
) -> Simulation:
    """`axes`: first value and spacing of time, y and x. Raises UserError, naming the file and what is wrong in it."""
    values = npy_array(path, 4)
    own = labels or dict.fromkeys(variables, Label())
    values = _channels_second(path, values, len(own))
    frames, _, height, width = values.shape
    seconds, y, x = (
        axes[role][0] + axes[role][1] * np.arange(size)
        for role, size in zip(ROLES, (frames, height, width), strict=True)
    )
    return Simulation(name, path, _chosen(path, values, variables, own), seconds, y, x)


def attributes(path: Path) -> dict[str, Any]:
    """The root attributes of an HDF5 file: text, numbers and arrays; none of another file."""
    if path.suffix not in (".h5", ".hdf5"):
        return {}
    with opened(path) as file:
        return {key: _plain(value) for key, value in file.attrs.items()}


def labels(folder: Path) -> dict[str, Label]:
    """What `fields.csv` says of each channel, in order; empty without that table."""
    path = folder / FIELDS
    if not path.exists():
        return {}
    found = {}
    for line, row in rows(path, ("field", "units")):
        if row["field"] in found:
            raise UserError(f"{path}, line {line}: field '{row['field']}' is listed twice")
        units = known_units(row["units"], f"{path}, line {line}: '{row['field']}'")
        found[row["field"]] = Label(units, row.get("long_name", ""))
    return found


def axes(folder: Path) -> dict[str, tuple[float, float]]:
    """First value and spacing of time, y and x from `axes.csv`; raises UserError unless all three are there."""
    path = folder / AXES
    if not path.exists():
        raise UserError(f"{path} is missing: .npy files hold no coordinates, so it must give axis, first and spacing")
    found = {}
    for line, row in rows(path, ("axis", "first", "spacing")):
        try:
            found[row["axis"]] = float(row["first"]), float(row["spacing"])
        except ValueError:
            raise UserError(f"{path}, line {line}: '{row['first']}' and '{row['spacing']}' must be numbers") from None
        if not (math.isfinite(found[row["axis"]][0]) and 0 < found[row["axis"]][1] < math.inf):
            raise UserError(f"{path}, line {line}: spacing is {row['spacing']}; a finite number above 0 is needed")
    if sorted(found) != sorted(ROLES):
        raise UserError(f"{path} has rows for {', '.join(found) or 'no axis'}; needed are {', '.join(ROLES)}")
    return found


# ---- parts of an HDF5 file


def _coordinate(path: Path, role: str, name: str) -> NDArray[np.float64]:
    with opened(path) as file:
        if name not in file:
            raise UserError(
                f"{path} has no coordinate '{name}'; it holds {', '.join(file) or 'nothing'}. ingest.dimensions tells "
                "what time, y and x are called there"
            )
        units = _text(file[name].attrs.get("units"))
    if units and units not in UNITS_OF[role]:
        raise UserError(f"{path}: '{name}' has the units '{units}'; allowed is {UNITS_OF[role][0]}")
    return hdf5_values(path, name, 1).astype(np.float64)


def _alone(path: Path, variables: Sequence[str], labels: Labels, shape: tuple[int, ...]) -> dict[str, Field]:
    """One data set for each variable."""
    fields = {}
    for variable in variables:
        values = hdf5_array(path, variable, 3)
        _check_shape(f"{path}: '{variable}'", values.shape, shape)
        with opened(path) as file:
            found = dict(file[variable].attrs)
        label = labels.get(variable, Label())
        units = known_units(_text(found.get("units")), f"{path}: '{variable}'") or label.units
        fields[store_name(variable)] = Field(values, units, _text(found.get("long_name")) or label.long_name)
    return fields


def _packed(path: Path, variables: Sequence[str], labels: Labels, shape: tuple[int, ...]) -> dict[str, Field]:
    """All variables from the file's one data set of four axes."""
    with opened(path) as file:
        packed = [name for name in _own_data_sets(file) if file[name].ndim == 4]
        if len(packed) != 1:
            raise UserError(
                f"{path} has neither a data set '{variables[0]}' nor one of four axes for all fields; it holds "
                f"{', '.join(file) or 'nothing'}"
            )
        found = dict(file[packed[0]].attrs)
    names = next((_words(found[key]) for key in CHANNEL_NAMES if key in found), list(labels))
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"{path}: '{packed[0]}' names the fields {', '.join(names) or 'of none of its channels'}; an attribute "
            f"'fields' or {FIELDS} must give each channel a name of its own"
        )
    units = _words(found.get("units", ""))
    units = units * len(names) if len(units) == 1 else units or [""] * len(names)
    if len(units) != len(names):
        raise UserError(f"{path}: '{packed[0]}' has units for {len(units)} of {len(names)} fields")
    own = {}
    for name, unit in zip(names, units, strict=True):
        label = labels.get(name, Label())
        own[name] = Label(known_units(unit, f"{path}: '{name}'") or label.units, label.long_name)
    values = _channels_second(path, hdf5_array(path, packed[0], 4), len(own), shape)
    return _chosen(path, values, variables, own)


def _own_data_sets(file: h5py.File) -> list[str]:
    """Without what is a link, perhaps into another file, or a group."""
    import h5py

    hard = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    return [name for name in hard if isinstance(file[name], h5py.Dataset)]


# ---- channels


def _channels_second(
    path: Path, values: dask.array.Array, channels: int, shape: tuple[int, ...] | None = None
) -> dask.array.Array:
    """(T, C, H, W) from that or (T, H, W, C); `shape` is (T, H, W), where it is known."""
    for axis in (1, 3):
        rest = values.shape[:axis] + values.shape[axis + 1 :]
        if values.shape[axis] == channels and shape in (None, rest):
            return values if axis == 1 else values.transpose(0, 3, 1, 2)
    frames, height, width = shape or ("T", "H", "W")
    raise UserError(
        f"{path} has values of the shape {values.shape}; with {channels} fields it must be "
        f"({frames}, {channels}, {height}, {width}) or ({frames}, {height}, {width}, {channels})"
    )


def _chosen(path: Path, values: dask.array.Array, variables: Sequence[str], own: Labels) -> dict[str, Field]:
    """The chosen channels of (T, C, H, W); `own` has what is known of each channel, in order."""
    names = list(own)
    for variable in variables:
        if variable not in own:
            raise UserError(f"ingest.variables: {path} has no field '{variable}'; it holds {', '.join(names)}")
    return {
        store_name(variable): Field(values[:, names.index(variable)], own[variable].units, own[variable].long_name)
        for variable in variables
    }


def store_name(variable: str) -> str:
    """A name for the store: words and figures."""
    return re.sub(r"\W+", "_", variable).strip("_")


def _check_shape(what: str, found: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if found != needed:
        raise UserError(f"{what} has the shape {found}; time, y and x make it {needed}")


# ---- attributes


def _plain(value: Any) -> Any:
    """Text and single numbers as such; anything else as it is."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _text(value: Any) -> str:
    value = _plain(value)
    return "" if value is None else str(value).strip()


def _words(value: Any) -> list[str]:
    """A list of texts, or one text with commas."""
    items = (
        _text(value).split(",") if isinstance(value, str | bytes) else [_text(item) for item in np.atleast_1d(value)]
    )
    return [item.strip() for item in items if item.strip()]
