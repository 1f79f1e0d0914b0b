"""Inflow and outflow of a city's cells: their names, and windows that were cut in advance.

Such windows come as pairs of .npy files, inputs (N, T_in, 2, H, W) and targets (N, T_out, 2, H, W). A pair becomes
T_in + T_out frames, a segment of its own, so that no window of the pipeline mixes two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.datasets.base import mark, nominal_times
from pipeline.datasets.files.arrays import chunked, npy_map
from pipeline.errors import UserError
from pipeline.params import Ingest, Splits

CHANNELS = ("inflow", "outflow")
LONG_NAMES = {"inflow": "vehicles that entered the cell", "outflow": "vehicles that left the cell"}
FRAME_MILLISECONDS = 30 * 60 * 1000  # between the frames of a window; the files tell no time
RANK = 5
NOMINAL = "the windows tell no time: their time stamps are nominal, and tables of context mean nothing here"

Pair = tuple[Path, Path]  # files of inputs and of targets


def check_variables(settings: Ingest) -> None:
    """Raises UserError unless the chosen variables are flows."""
    for name in settings.variables:
        if name not in CHANNELS:
            raise UserError(f"ingest.variables: '{name}' is unknown; allowed are {' and '.join(CHANNELS)}")


def with_cells(data: Any, times: NDArray[np.datetime64], name: str, units: str) -> xr.DataArray:
    """(time, H, W) values of one flow as a field on numbered cells."""
    coordinates = {
        "time": times,
        "y": np.arange(data.shape[1], dtype=float),
        "x": np.arange(data.shape[2], dtype=float),
    }
    attributes = {"units": units, "long_name": LONG_NAMES[name]}
    return xr.DataArray(data.astype(np.float32), coordinates, ("time", "y", "x"), name, attributes)


# ---- windows cut in advance


def packed(pairs: Mapping[str, Pair], settings: Ingest) -> xr.Dataset:
    """Windows by split ("train", perhaps "validation", "test") as a data set with segments and splits.

    Where there is no validation it is the end of train, by the ratio of the fractions in `ingest.splits`. Raises
    UserError, naming the file, if shapes or types do not fit.
    """
    check_variables(settings)
    parts = {split: _Windows(*pair) for split, pair in pairs.items()}
    _check_alike(list(parts.values()))
    first = next(iter(parts.values()))
    splits = {split: [split] * part.windows for split, part in parts.items()}
    notes = [NOMINAL]
    if "validation" not in parts:
        splits["train"], note = _with_validation(first.windows, first.frames, settings.splits)
        notes.append(note)
    split = np.repeat([name for names in splits.values() for name in names], first.frames)
    windows = len(split) // first.frames
    times = nominal_times([first.frames] * windows, FRAME_MILLISECONDS)
    fields = {name: with_cells(_channel(list(parts.values()), name), times, name, "1") for name in settings.variables}
    segment = np.repeat(np.arange(windows, dtype=np.int32), first.frames)
    files = {part.inputs.name: part.shape[0] for part in parts.values()}
    data = xr.Dataset({name: field.assign_attrs(source_files=files) for name, field in fields.items()})
    return mark(data, segment=segment, split=split, notes=notes).assign_attrs(time_stamps="nominal")


class _Windows:
    """A pair of files; the checks are made once, the files are mapped again for every read."""

    def __init__(self, inputs: Path, targets: Path) -> None:
        self.inputs, self.targets = inputs.absolute(), targets.absolute()
        first, second = npy_map(inputs, RANK), npy_map(targets, RANK)
        for path, values in ((inputs, first), (targets, second)):
            if values.shape[2] != len(CHANNELS):
                raise UserError(f"{path} has the shape {values.shape}; needed is (windows, frames, 2, rows, columns)")
        if first.shape[0] != second.shape[0] or first.shape[2:] != second.shape[2:]:
            raise UserError(
                f"{inputs} has the shape {first.shape}, {targets} {second.shape}; they differ in windows or grid"
            )
        self.windows, self.t_in, self.t_out = first.shape[0], first.shape[1], second.shape[1]
        self.frames = self.t_in + self.t_out
        self.shape = (self.windows * self.frames, *first.shape[3:])
        self.dtype = np.result_type(first, second)


class _Channel:
    """(time, H, W) one flow of a pair of files, inputs and targets of a window behind one another."""

    def __init__(self, windows: _Windows, channel: int) -> None:
        self.of, self.channel = windows, channel
        self.shape, self.dtype, self.ndim = windows.shape, windows.dtype, len(windows.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        frames, *rest = index if isinstance(index, tuple) else (index,)
        wanted = np.arange(self.shape[0])[frames]
        first, last = (int(wanted.min()), int(wanted.max()) + 1) if wanted.size else (0, 0)
        windows = slice(first // self.of.frames, -(-last // self.of.frames))
        parts = [npy_map(path, RANK)[windows, :, self.channel] for path in (self.of.inputs, self.of.targets)]
        values = np.concatenate(parts, axis=1).reshape(-1, *self.shape[1:])
        return np.asarray(values[wanted - windows.start * self.of.frames][(slice(None), *rest)])


def _channel(parts: Sequence[_Windows], name: str) -> Any:
    import dask.array

    channel = CHANNELS.index(name)
    return dask.array.concatenate([chunked(_Channel(part, channel), part.frames) for part in parts])


def _check_alike(parts: Sequence[_Windows]) -> None:
    first = parts[0]
    for part in parts:
        if (part.t_in, part.t_out, part.shape[1:]) != (first.t_in, first.t_out, first.shape[1:]):
            raise UserError(
                f"{part.inputs.name} and {part.targets.name} have windows of {part.t_in} and {part.t_out} frames on "
                f"{part.shape[1:]}, {first.inputs.name} of {first.t_in} and {first.t_out} on {first.shape[1:]}; "
                "all need the same"
            )


def _with_validation(windows: int, gap: int, splits: Splits) -> tuple[list[str], str]:
    """The split of each training window where the last ones become validation, and a note.

    `gap` windows between are in none: neighbours may be one frame apart, so that those share no frame.
    """
    if splits.fractions is None:
        raise UserError("ingest.splits gives dates, but windows cut in advance have none; give fractions")
    train, validation, _ = splits.fractions
    held = max(1, round(windows * validation / (train + validation)))
    kept = windows - held - gap
    if kept < 1:
        raise UserError(f"{windows} training windows are too few: {held} for validation and {gap} between leave none")
    note = f"validation is the last {held} of {windows} training windows; the {gap} before them are in no split"
    return ["train"] * kept + [""] * gap + ["validation"] * held, note
