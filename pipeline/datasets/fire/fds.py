"""Raw output of the Fire Dynamics Simulator (FDS): slice files, found by `fdsreader` and read frame by frame.

A simulation is a folder with one .smv file and its slice files (.sf). A variable is named by its FDS quantity, in
any case and with _ for spaces, and where it is put out in several planes also by the plane:

    TEMPERATURE            the only plane of that quantity
    TEMPERATURE@y=3        the plane at y = 3 m
    soot_visibility@y~3    the plane that is nearest to y = 3 m

The rows of a slice are z in the planes of y and x, else y; its columns are x in the planes of y and z, else y. Of
several slices of a quantity in one plane, the one with the most points is taken. Meshes are put side by side; they
need cells of one size. `fdsreader` would keep pickles beside the data and load them; here it does neither.

Layout of a slice file (FDS User's Guide, "Slice Files"; Fortran records, little-endian, each between two lengths of
four bytes): three texts of 30 bytes, six indices, then for each frame its time and its values, x fastest.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.files.arrays import chunked
from pipeline.datasets.fire.simulations import Field, Simulation, known_units
from pipeline.errors import UserError

SLICE = ".sf"
TEXT_BYTES = 30
HEADER_BYTES = 3 * (TEXT_BYTES + 8) + (6 * 4 + 8)
PLACE_TOLERANCE = 1e-3  # metres between a plane that is asked for with = and the one that is there
POINT_TOLERANCE = 1e-4  # metres: .smv files give coordinates with five decimals
SAME_TIME = 1e-3  # seconds
AXES_OF = {"x": ("z", "y"), "y": ("z", "x"), "z": ("y", "x")}  # of a plane: its rows and columns
VELOCITIES = {"u": "U-VELOCITY", "v": "V-VELOCITY", "w": "W-VELOCITY"}
VARIABLE = re.compile(r"(?P<quantity>[^@]+)(?:@(?P<axis>[xyz])(?P<how>[=~])(?P<place>[-+]?\d+(?:\.\d*)?))?")


@dataclass(frozen=True)
class Piece:
    """What one mesh holds of a plane."""

    path: Path
    rows: NDArray[np.float64]  # coordinates
    columns: NDArray[np.float64]
    ghosts: int  # 1 if the first row and column are to be left out, as in cell-centred slices


@dataclass(frozen=True)
class Plane:
    """One quantity in one plane, as FDS put it out."""

    quantity: str
    short_name: str
    units: str
    axis: str
    place: float
    pieces: tuple[Piece, ...]

    @property
    def spec(self) -> str:
        return f"{self.quantity}@{self.axis}={self.place:g}"

    @property
    def points(self) -> int:
        return sum(len(piece.rows) * len(piece.columns) for piece in self.pieces)


def open_simulation(name: str, path: Path, variables: Sequence[str]) -> Simulation:
    """The chosen planes of the simulation whose .smv file is `path`.

    Raises UserError if fdsreader is not installed, the output is cut short, a plane is not there or the chosen ones
    differ in grid or times.
    """
    planes = list(_planes(path))
    chosen = {variable: _chosen(variable, planes, path) for variable in variables}
    grids = {variable: _Mosaic.of(plane) for variable, plane in chosen.items()}
    first_name, first = next(iter(grids.items()))
    for variable, grid in grids.items():
        if not first.fits(grid):
            raise UserError(
                f"{path}: {first_name} and {variable} have different grids or times; all fields need the same"
            )
    fields = {
        store_name(variable): Field(
            chunked(grid), known_units(plane.units, f"{path}: {plane.quantity}"), plane.quantity.lower()
        )
        for (variable, plane), grid in zip(chosen.items(), grids.values(), strict=True)
    }
    return Simulation(name, path, fields, first.seconds, first.rows, first.columns)


def store_name(variable: str) -> str:
    """`SOOT VISIBILITY@y=3` -> `soot_visibility`."""
    return _plain(_parsed(variable)["quantity"]).replace(" ", "_")


# ---- which slices there are


def _planes(path: Path) -> Iterator[Plane]:
    for found in _parsed_smv(path).slices:
        if found.orientation == 0:
            continue  # a box, not a plane
        axis = "xyz"[found.orientation - 1]
        place = round(float(found.extent[axis][0]), 4)
        quantity = found.quantity
        pieces = tuple(_piece(path, part.filename, part, axis) for part in found.subslices)
        yield Plane(quantity.name, quantity.short_name, quantity.unit, axis, place, pieces)
        for key, name in VELOCITIES.items():  # of a slice with VECTOR=.TRUE.
            if all(key in part.vector_filenames for part in found.subslices):
                pieces = tuple(_piece(path, part.vector_filenames[key], part, axis) for part in found.subslices)
                yield Plane(name, f"{key}-vel", "m/s", axis, place, pieces)


def _piece(path: Path, file: str, part: Any, axis: str) -> Piece:
    if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
        raise UserError(f"{path} names the slice file '{file}'; it must lie in the simulation's own folder")
    coordinates = part.get_coordinates()
    rows, columns = (np.asarray(coordinates[name], dtype=np.float64).round(4) for name in AXES_OF[axis])
    return Piece(path.parent.absolute() / file, rows, columns, int(part.cell_centered))


def _parsed_smv(path: Path) -> Any:
    """fdsreader's view of the .smv file; raises UserError if it cannot be read."""
    try:
        import fdsreader
    except ImportError:
        raise UserError(f"{path} is FDS output; reading it needs fdsreader: pip install 's2kd[fds]'") from None

    class Uncached(fdsreader.Simulation):
        """Its own `__new__` would load, or remove, a pickle that lies beside the data."""

        def __new__(cls, path: str) -> Uncached:
            return object.__new__(cls)

    try:
        with _quiet(fdsreader.settings):
            simulation = Uncached(str(path))
    except (OSError, ValueError, AttributeError, LookupError, AssertionError) as error:
        raise UserError(f"{path} is no .smv file, is cut short or damaged: {error or type(error).__name__}") from None
    for module, reason in simulation.load_errors:
        if module == "slcf":
            raise UserError(f"{path}: a slice it lists cannot be understood: {reason}")
    return simulation


@contextmanager
def _quiet(settings: Any) -> Iterator[None]:
    """No pickles, and no word about output other than slices, which is not copied."""
    before = settings.ENABLE_CACHING, settings.IGNORE_ERRORS
    settings.ENABLE_CACHING, settings.IGNORE_ERRORS = False, True
    try:
        with warnings.catch_warnings():  # fdsreader silences all of them for good
            yield
    finally:
        settings.ENABLE_CACHING, settings.IGNORE_ERRORS = before


def _chosen(variable: str, planes: Sequence[Plane], path: Path) -> Plane:
    wanted = _parsed(variable)
    name = _plain(wanted["quantity"])
    of_quantity = [plane for plane in planes if name in (_plain(plane.quantity), _plain(plane.short_name))]
    found = of_quantity
    if wanted["axis"]:
        place = float(wanted["place"])
        found = [plane for plane in of_quantity if plane.axis == wanted["axis"]]
        nearest = min((abs(plane.place - place) for plane in found), default=0.0)
        within = nearest + POINT_TOLERANCE if wanted["how"] == "~" else PLACE_TOLERANCE
        found = [plane for plane in found if abs(plane.place - place) <= within]
    if not found:
        there = ", ".join(dict.fromkeys(plane.spec for plane in of_quantity or planes)) or "no plane"
        raise UserError(f"ingest.variables: {path} has no slice '{variable}'; it has {there}")
    if len(places := {plane.spec for plane in found}) > 1:
        raise UserError(
            f"ingest.variables: '{variable}' may be {' or '.join(sorted(places))} in {path}; name the plane"
        )
    return max(found, key=lambda plane: plane.points)


def _parsed(variable: str) -> dict[str, str]:
    match = VARIABLE.fullmatch(variable)
    if not match:
        raise UserError(f"ingest.variables: '{variable}' is no FDS slice; write QUANTITY, QUANTITY@y=3 or QUANTITY@y~3")
    return match.groupdict()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().lower()


# ---- reading


class _Mosaic:
    """(T, H, W): the pieces of a plane side by side, read from their files whenever it is sliced."""

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, parts: Sequence[tuple[Piece, int, int]], rows: Any, columns: Any, seconds: Any) -> None:
        """`parts`: each piece with its first row and column; later ones are put over earlier ones."""
        self.parts, self.rows, self.columns, self.seconds = tuple(parts), rows, columns, seconds
        self.shape = (len(seconds), len(rows), len(columns))

    @classmethod
    def of(cls, plane: Plane) -> _Mosaic:
        """Raises UserError if the pieces do not make one grid, or differ in their times."""
        rows = _united([piece.rows for piece in plane.pieces])
        columns = _united([piece.columns for piece in plane.pieces])
        covered = np.zeros((len(rows), len(columns)), dtype=int)
        parts = []
        for piece in plane.pieces:
            top, left = _first(rows, piece.rows, piece), _first(columns, piece.columns, piece)
            covered[top : top + len(piece.rows), left : left + len(piece.columns)] += 1
            parts.append((piece, top, left))
        if not covered.all() or (plane.pieces[0].ghosts and covered.max() > 1):
            what = "leave holes in" if not covered.all() else "overlap in"
            raise UserError(
                f"{plane.pieces[0].path.parent}: the meshes {what} {plane.spec}; a whole rectangle is needed"
            )
        # on the border of two node-centred meshes both have values; the one above or to the right gives them
        return cls(sorted(parts, key=lambda part: part[1:]), rows, columns, _common_times(plane))

    def fits(self, other: _Mosaic) -> bool:
        """Whether grid and times are the same."""
        pairs = ((self.rows, other.rows), (self.columns, other.columns), (self.seconds, other.seconds))
        return self.shape == other.shape and all(np.allclose(a, b, rtol=0, atol=SAME_TIME) for a, b in pairs)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        frames, *rest = index if isinstance(index, tuple) else (index,)
        out = np.empty((*np.arange(self.shape[0])[frames].shape, *self.shape[1:]), dtype=self.dtype)
        for piece, top, left in self.parts:
            values = _records(piece)[frames]["values"][..., piece.ghosts :, piece.ghosts :]
            out[..., top : top + values.shape[-2], left : left + values.shape[-1]] = values
        return np.asarray(out[(..., *rest)]) if rest else out


def _united(axes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    values = np.unique(np.concatenate(axes))
    return values[np.concatenate([[True], np.diff(values) > POINT_TOLERANCE])]


def _first(axis: NDArray[np.float64], own: NDArray[np.float64], piece: Piece) -> int:
    """Where a piece begins on the common axis; raises UserError if that has points between the piece's own."""
    start = int(np.argmin(np.abs(axis - own[0])))
    if not np.allclose(axis[start : start + len(own)], own[: len(axis) - start], rtol=0, atol=2 * POINT_TOLERANCE):
        raise UserError(f"{piece.path}: its mesh has other cells than its neighbours; a slice needs cells of one size")
    return start


def _common_times(plane: Plane) -> NDArray[np.float64]:
    times = [np.array(_records(piece)["time"], dtype=np.float64) for piece in plane.pieces]
    for piece, other in zip(plane.pieces, times, strict=True):
        if other.shape != times[0].shape or not np.allclose(other, times[0], rtol=0, atol=SAME_TIME):
            raise UserError(
                f"{piece.path} has {len(other)} frames, {plane.pieces[0].path} has {len(times[0])}, or at other times; "
                "a run that was stopped must be finished or cut to whole frames"
            )
    return times[0]


def _records(piece: Piece) -> NDArray[Any]:
    """The frames of a slice file, memory-mapped: fields `time` and `values`. Raises UserError if it is not whole."""
    shape = len(piece.rows) + piece.ghosts, len(piece.columns) + piece.ghosts
    value_bytes = 4 * shape[0] * shape[1]
    marker = "<i4"
    record = np.dtype(
        [("a", marker), ("time", "<f4"), ("b", marker), ("c", marker), ("values", "<f4", shape), ("d", marker)]
    )
    try:
        size = piece.path.stat().st_size
        with piece.path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise UserError(f"{piece.path} cannot be read: {error.strerror}") from None
    if start != np.array(TEXT_BYTES, marker).tobytes():
        raise UserError(f"{piece.path} is no little-endian FDS slice file: it starts with {start!r}")
    frames, left_over = divmod(size - HEADER_BYTES, record.itemsize)
    if frames < 1 or left_over:
        raise UserError(f"{piece.path} is cut short: {size} bytes are no whole number of frames of {record.itemsize}")
    values = np.memmap(piece.path, dtype=record, mode="r", offset=HEADER_BYTES, shape=(frames,))
    if (values["a"] != 4).any() or (values["c"] != value_bytes).any():
        raise UserError(f"{piece.path} is damaged, or its frames have another size than {shape[0]} x {shape[1]} points")
    return values
