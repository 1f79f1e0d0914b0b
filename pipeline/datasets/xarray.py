"""Any files that xarray and fsspec open: NetCDF 3 and 4, Zarr, GRIB (with cfgrib).

`fetch.source` names them, `ingest.variables` the fields by their names in the files, `ingest.dimensions` the
dimensions whose names or CF attributes do not tell what they are. Files are joined along time; a variable is
looked for in every file.
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import DataSource, combine, field, join, open_file
from pipeline.errors import UserError


class XarraySource(DataSource):
    """Gridded files in any of xarray's formats."""

    def fetch(self, folder: Path) -> None:
        """Copies what fetch.source names; of a Zarr store, only the chosen variables and the coordinates."""
        source = transfer.Source.of(self.settings)
        transfer.copy(self._without_unused_arrays(source), folder)

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen variables under their names in the files; raises UserError, naming file or variable."""
        tables = folder / transfer.CONTEXT
        datasets = {path: open_file(path) for path in _data_files(folder) if not path.is_relative_to(tables)}
        if not datasets:
            raise UserError(f"{folder} holds no file; run the stage fetch first")
        return combine([self._field(folder, name, datasets) for name in self.ingest.variables])

    def _field(self, folder: Path, name: str, datasets: dict[Path, xr.Dataset]) -> xr.DataArray:
        pieces = {
            str(path.relative_to(folder)): field(dataset[name], self.ingest.dimensions, path)
            for path, dataset in datasets.items()
            if name in dataset.data_vars
        }
        if not pieces:
            present = sorted({str(key) for dataset in datasets.values() for key in dataset.data_vars})
            raise UserError(f"ingest.variables: no file has '{name}'; they hold {', '.join(present) or 'no variable'}")
        return join(name, pieces)

    def _without_unused_arrays(self, source: transfer.Source) -> transfer.Source:
        store = next(iter(source.files)).split("/")[0]
        if not any(f"{store}/{name}" in source.files for name in transfer.ZARR_FILES):
            return source
        present = set(transfer.zarr_opened(self.settings.source or "", self.settings.storage).data_vars)
        unused = present - set(self.ingest.variables)
        return source.renamed(lambda name: None if name.split("/")[1] in unused else name)


def _data_files(folder: Path) -> list[Path]:
    """Files and Zarr stores, at any depth; what lies inside a store is not looked at."""
    if not folder.is_dir() or folder.name == transfer.CONTEXT:
        return []
    if any((folder / name).exists() for name in transfer.ZARR_FILES):
        return [folder]
    found = [_data_files(path) if path.is_dir() else [path] for path in sorted(folder.iterdir())]
    return [path for paths in found for path in paths]
