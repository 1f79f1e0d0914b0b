"""TaxiBJ+ (Wu et al. 2024, EarthFarseer, AAAI 38): windows of Beijing's taxi flows on 128 x 128 cells, 12 -> 12.

`{train,val,test}_{input,output}_data_reshaped.npy`, each (N, 12, 2, 128, 128), inflow before outflow. They are
memory-mapped and never in memory as a whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import DataSource, mark
from pipeline.datasets.traffic.flows import Pair, packed
from pipeline.errors import UserError
from pipeline.params import TimeStamps

SPLITS = {"train": "train", "validation": "val", "test": "test"}
FILES = re.compile(r"(train|val|test)_(input|output)_data_reshaped\.npy")
BY_HAND = (
    "TaxiBJ+ must be downloaded by hand: get {train,val,test}_{input,output}_data_reshaped.npy from the authors "
    "of EarthFarseer (https://github.com/easylearningscores/EarthFarseer), put them into raw/taxibj_plus and set "
    "fetch.source to that folder"
)


class TaxiBJPlus(DataSource):
    """The windows and splits as published; without `val` files, validation is the end of train."""

    time_stamps: ClassVar[TimeStamps] = "nominal"
    description: ClassVar[str] = (
        "Traffic in Beijing on a grid of cells: taxis that entered each cell (inflow) and left it (outflow) within a "
        "time slot."
    )

    def fetch(self, folder: Path) -> None:
        """Copies the six files from the folder that fetch.source names."""
        source = transfer.Source.of(self.settings, BY_HAND)
        chosen = source.renamed(lambda name: Path(name).name if FILES.fullmatch(Path(name).name) else None)
        if not chosen.files:
            raise UserError(f"fetch.source: '{source.address}' holds none of the files; {BY_HAND}")
        transfer.copy(chosen, folder)

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen flows, a segment for each window; raises UserError, naming the file."""
        pairs = {split: _pair(folder, short) for split, short in SPLITS.items()}
        if not any(path.exists() for path in pairs["validation"]):
            del pairs["validation"]
        note = "TaxiBJ+ states no units; values are taken as they are"
        return mark(packed(pairs, self.ingest), notes=[note])


def _pair(folder: Path, split: str) -> Pair:
    return folder / f"{split}_input_data_reshaped.npy", folder / f"{split}_output_data_reshaped.npy"
