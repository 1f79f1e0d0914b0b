"""Input files -> the frames that an exported student reads, in its order, refused where it was not made for them.

Fields are opened lazily by the data sets' own helpers, so memory holds the frames of one batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline import ingest, transfer
from pipeline.datasets import DATASETS
from pipeline.datasets.base import check_same_grid, combine, field, join, open_file
from pipeline.errors import UserError
from pipeline.params import Fetch, Ingest
from pipeline.serving.spec import Spec, in_words


@dataclass(frozen=True)
class Windows:
    """The windows of one input that a model can start from.

    times: (frames,) time stamps. last: (N,) each window's last input frame, the initial time of its forecast.
    frames: (N, t_in) positions along time.
    """

    spec: Spec
    source: str
    fields: dict[str, xr.DataArray]  # each (time, H, W), lazy
    times: NDArray[np.datetime64]
    frames: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def init_times(self) -> NDArray[np.datetime64]:
        return self.times[self.frames[:, -1]]

    def inputs(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, t_in, C, H, W), physical units; raises UserError where a value is missing."""
        frames = self.frames[start:stop]
        needed, place = np.unique(frames, return_inverse=True)
        values = self.read(needed)
        finite = np.isfinite(values).all(axis=(2, 3))
        if not finite.all():
            frame, variable = np.argwhere(~finite)[0]
            name = self.spec.variables[variable].name
            raise UserError(
                f"{self.source}: {name} has NaN or infinite values at {self.times[needed[frame]]}; "
                "the model needs a value at every point"
            )
        return values[place.reshape(frames.shape)]

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(len(frames), C, H, W), as they are."""
        try:
            parts = [self.fields[each.name].isel(time=frames).values for each in self.spec.variables]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.source} cannot be read: {error}") from None
        return np.stack(parts, axis=1).astype(np.float32, copy=False)

    def truth(self, window: int) -> NDArray[np.float32] | None:
        """(t_out, C, H, W): what came to be, where the input holds it all."""
        wanted = self.init_times[window] + self.spec.lead_times
        found = np.searchsorted(self.times, wanted)
        if found[-1] >= len(self.times) or (self.times[found] != wanted).any():
            return None
        return self.read(found)


def open_windows(source: str, spec: Spec, raw: bool = False) -> Windows:
    """Opens a file, a Zarr store (at any address), a folder of files or a glob.

    `raw`: a folder of raw files, read as the model's own data set was. Raises UserError, naming what does not fit.
    """
    opened = _raw(source, spec) if raw else _by_name(source, spec)
    record = ingest.checked(opened)
    _check_grid(record, spec, source)
    _check_units(record, spec, source)
    return Windows(spec, source, record.fields, record.times, _window_frames(record.times, spec, source))


# ---- opening


def _raw(source: str, spec: Spec) -> xr.Dataset:
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"{source} is no folder; with --raw, a folder of raw files is expected")
    settings = Ingest.model_validate({"variables": spec.reader.variables, "dimensions": spec.reader.dimensions})
    opened: xr.Dataset = DATASETS.load(spec.reader.dataset)(Fetch(), settings, 0).open(folder)
    missing = [each.name for each in spec.variables if each.name not in opened]
    if missing:
        raise UserError(f"{source} has no '{missing[0]}'; it holds {', '.join(map(str, opened.data_vars))}")
    return opened[[each.name for each in spec.variables]]


def _by_name(source: str, spec: Spec) -> xr.Dataset:
    datasets = _opened(source)
    return combine([_field(source, each.name, datasets, spec) for each in spec.variables])


def _opened(source: str) -> dict[str, xr.Dataset]:
    if transfer.is_remote(source):
        if not source.rstrip("/").endswith(".zarr"):
            raise UserError(f"{transfer.shown(source)}: a Zarr store can be read at an address; copy other files")
        return {transfer.shown(source): transfer.zarr_opened(source, {})}
    return {str(path): open_file(path) for path in _files(source)}


def _files(source: str) -> list[Path]:
    """Files and Zarr stores."""
    path = Path(source)
    if path.is_dir() and not any((path / name).exists() for name in transfer.ZARR_FILES):
        found = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    else:
        found = [path] if path.exists() else [Path(name) for name in sorted(fsspec.filesystem("file").glob(source))]
    if not found:
        raise UserError(f"{source} is not there; a NetCDF, GRIB or Zarr file, a folder of such or a glob is expected")
    return found


def _field(source: str, name: str, datasets: dict[str, xr.Dataset], spec: Spec) -> xr.DataArray:
    pieces = {
        path: field(dataset[name], spec.reader.dimensions, Path(path))
        for path, dataset in datasets.items()
        if name in dataset.data_vars
    }
    if not pieces:
        present = sorted({str(key) for dataset in datasets.values() for key in dataset.data_vars})
        wanted = ", ".join(each.name for each in spec.variables)
        raise UserError(f"{source} has no variable '{name}': the model reads {wanted}; there are {', '.join(present)}")
    return join(name, pieces)


# ---- does it fit?


def _check_grid(record: ingest.Record, spec: Spec, source: str) -> None:
    own = spec.grid.grid
    if record.grid.dims != own.dims:
        raise UserError(
            f"{source} lies on {' x '.join(record.grid.dims)}; the model was made for {' x '.join(own.dims)}"
        )
    first = next(iter(record.fields.values()))
    made_for = xr.DataArray(np.zeros(own.shape), coords=dict(zip(own.dims, (own.y, own.x), strict=True)), dims=own.dims)
    check_same_grid(made_for, first, "the model", source)


def _check_units(record: ingest.Record, spec: Spec, source: str) -> None:
    """A field without units is taken on trust; other units would be read as if they were the model's."""
    given = {variable.name: variable.units for variable in record.variables}
    for each in spec.variables:
        units = given[each.name]
        if units != "1" and each.units != "1" and _plain(units) != _plain(each.units):
            raise UserError(f"{source}: {each.name} is in {units}; the model was made for {each.units}")


def _plain(units: str) -> str:
    """`m**2 s**-2`, `m2 s-2` and `m^2 s^-2` are one."""
    return re.sub(r"[\s*^.]", "", units)


def _window_frames(times: NDArray[np.datetime64], spec: Spec, source: str) -> NDArray[np.int64]:
    """(N, t_in) frames of every window whose input frames are all there, whatever lies between or is missing."""
    stamps = times.astype("datetime64[ms]")
    wanted = stamps[:, None] - spec.step * np.arange(spec.t_in - 1, -1, -1)
    found = np.searchsorted(stamps, wanted)
    frames = found[(stamps[np.minimum(found, len(stamps) - 1)] == wanted).all(axis=1)]
    if not len(frames):
        raise UserError(
            f"{source}: {_spacing(stamps)}, and the model reads {spec.t_in} frames that are "
            f"{in_words(spec.step_seconds)} apart, which it nowhere has"
        )
    return frames.astype(np.int64)


def _spacing(stamps: NDArray[np.datetime64]) -> str:
    if len(stamps) < 2:
        return "it has one frame"
    usual = float(np.median(np.diff(stamps).astype(np.int64))) / 1000
    return f"it has {len(stamps)} frames, mostly {in_words(usual)} apart"
