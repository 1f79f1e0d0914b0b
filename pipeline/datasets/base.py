"""What a data set must offer: raw files in a folder, and those files as one lazy xarray.Dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

import xarray as xr

from pipeline.params import Fetch, Ingest


class DataSource(ABC):
    """A data set. Built from the `fetch` and `ingest` sections of params.yaml and the seed."""

    time_stamps: ClassVar[Literal["calendar", "nominal"]] = "calendar"

    def __init__(self, fetch: Fetch, ingest: Ingest, seed: int) -> None:
        self.settings = fetch
        self.ingest = ingest
        self.seed = seed

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Fills `folder` with raw files. Resumes where a killed run stopped; raises UserError."""

    @abstractmethod
    def open(self, folder: Path) -> xr.Dataset:
        """The raw files as one Dask-backed data set, values in physical units.

        Each chosen variable has dims (time, latitude, longitude) or (time, y, x) in any order, the attributes
        `units` and `long_name`, and coordinates for every dim. Raises UserError, naming the file.
        """
