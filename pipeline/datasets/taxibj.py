"""TaxiBJ (Zhang, Zheng and Qi 2017, AAAI 31): taxi flows of Beijing on 32 x 32 cells, in two layouts.

`BJ{13..16}_M32x32_T30_InOut.h5`: `data` (T, 2, H, W), inflow before outflow (in `*NewEnd.h5` of BikeNYC, trips that
begin before trips that end), and `date`, text YYYYMMDDSS with the slot SS of the day. The customs are DeepST's: days
that lack a slot are left out, negative counts become 0. `*_Meteorology.h5` and `*_Holiday.txt` beside them are
context. Times are local, each slot named by its start.

`dataset.npz`: windows cut in advance, `X_train, Y_train, X_test, Y_test` (N, 4, 2, 32, 32), min-max scaled to
[-1, 1]. The stage fetch unpacks it, so that it can be memory-mapped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline import transfer
from pipeline.context import lines
from pipeline.datasets.base import DataSource, combine, join, mark
from pipeline.datasets.files.arrays import hdf5_array, unpack_npz
from pipeline.datasets.traffic.context import HOLIDAYS, METEOROLOGY, holidays, weather
from pipeline.datasets.traffic.flows import CHANNELS, check_variables, packed, with_cells
from pipeline.datasets.traffic.slots import Slots, complete_days, slot_times
from pipeline.errors import UserError
from pipeline.params import TimeStamps

PACKED = {"train": ("X_train.npy", "Y_train.npy"), "test": ("X_test.npy", "Y_test.npy")}
BY_HAND = (
    "TaxiBJ must be downloaded by hand: get BJ{13,14,15,16}_M32x32_T30_InOut.h5, BJ_Meteorology.h5 and BJ_Holiday.txt "
    "by the OneDrive or Baidu link in https://github.com/amirkhango/DeepST/tree/master/data/TaxiBJ, put them into "
    "raw/taxibj and set fetch.source to that folder; or likewise the packed dataset.npz"
)


class TaxiBJ(DataSource):
    """TaxiBJ's files, others of their layout such as TaxiNYC's and BikeNYC's, or the packed dataset.npz."""

    time_stamps: ClassVar[TimeStamps] = "local"
    description: ClassVar[str] = (
        "Traffic in a city on a grid of cells: vehicles that entered each cell (inflow) and left it (outflow) within a "
        "time slot."
    )

    def fetch(self, folder: Path) -> None:
        """Copies flows, weather and holidays, of the years chosen; unpacks .npz files."""
        source = transfer.Source.of(self.settings, BY_HAND)
        chosen = source.renamed(lambda name: name if self._wanted(Path(name).name) else None)
        if not chosen.files:
            years = f" of the years {self.settings.years}" if self.settings.years else ""
            raise UserError(f"fetch.source: '{source.address}' holds no .h5 or .npz file{years}; {BY_HAND}")
        transfer.copy(chosen, folder)
        for path in sorted(folder.rglob("*.npz")):
            unpack_npz(path, path.with_suffix(""))
            path.unlink()

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen flows with what is known of weather and holidays; raises UserError, naming the file."""
        check_variables(self.ingest)
        files = [path for path in sorted(folder.rglob("*")) if path.relative_to(folder).parts[0] != transfer.CONTEXT]
        flows = [path for path in files if path.suffix == ".h5" and not path.name.endswith(METEOROLOGY)]
        windows = [path.parent for path in files if path.name == PACKED["train"][0]]
        if len(windows) + bool(flows) != 1:
            found = [str(path.relative_to(folder)) for path in (*flows, *windows)]
            raise UserError(
                f"{folder} holds {', '.join(found) or 'no flows'}; needed are files such as BJ16_M32x32_T30_InOut.h5, "
                "or one unpacked dataset.npz"
            )
        return self._unpacked(windows[0]) if windows else self._record(folder, flows, files)

    def _wanted(self, name: str) -> bool:
        """Whether a file is fetched: flows and windows of the years chosen (of any, if the name tells none)."""
        if name.endswith((METEOROLOGY, HOLIDAYS)):
            return True
        year = re.match(r"[A-Za-z]+(\d\d)_", name)
        first, last = self.settings.years or (0, 9999)
        return name.endswith((".h5", ".npz")) and (not year or first <= 2000 + int(year[1]) <= last)

    def _unpacked(self, folder: Path) -> xr.Dataset:
        pairs = {split: (folder / inputs, folder / targets) for split, (inputs, targets) in PACKED.items()}
        return mark(packed(pairs, self.ingest), notes=["dataset.npz holds counts that are min-max scaled to [-1, 1]"])

    def _record(self, folder: Path, flows: list[Path], files: list[Path]) -> xr.Dataset:
        opened = {str(path.relative_to(folder)): _Flows.of(path) for path in flows}
        minutes = {file: part.slots.minutes for file, part in opened.items()}
        if len(set(minutes.values())) > 1:
            raise UserError(f"slots differ in their minutes: {minutes}; all files need the same")
        data = combine(
            [join(name, {file: part.field(name) for file, part in opened.items()}) for name in self.ingest.variables]
        )
        notes = [note for part in opened.values() for note in part.notes]
        facts = [*weather(files), *holidays(files)]
        if not facts:
            return mark(data, notes=notes)
        words, told = lines(data["time"].values, facts)
        return mark(data, context=words.tolist(), notes=[*notes, *told])


# ---- flows


@dataclass(frozen=True)
class _Flows:
    """One file's complete days: `data` (time, 2, H, W), no count below 0."""

    path: Path
    slots: Slots
    times: NDArray[np.datetime64]
    data: Any  # a Dask array
    notes: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> _Flows:
        data = hdf5_array(path, "data", rank=4)
        times, slots = slot_times(path)
        if data.shape[1] != len(CHANNELS) or len(data) != len(times):
            raise UserError(
                f"{path}: 'data' has the shape {data.shape}; needed is ({len(times)} as 'date', 2, rows, columns)"
            )
        kept, notes = complete_days(times, slots, path)
        data, negative = data[kept], 0
        if data.dtype.kind != "u":
            negative = int((data < 0).sum().compute())
            data = data.clip(0, None) if negative else data
        if negative:
            notes.append(f"{path.name}: {negative} negative counts were set to 0")
        return cls(path, slots, times[kept], data, tuple(notes))

    def field(self, name: str) -> xr.DataArray:
        order = CHANNELS[::-1] if self.path.stem.endswith("NewEnd") else CHANNELS
        return with_cells(self.data[:, order.index(name)], self.times, name, "vehicles per slot")
