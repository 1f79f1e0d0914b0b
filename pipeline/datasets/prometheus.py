"""Prometheus: simulated tunnel and pool fires in many environments (Wu et al. 2024, ICML, PMLR 235:53870-53891).

One simulation is one HDF5 or .npy file (`pipeline.datasets.fire.layouts` tells how they are laid out) or one
folder of raw output of the Fire Dynamics Simulator (`pipeline.datasets.fire.fds`). Its name is the path of that file
without its ending, or of that folder, below fetch.source. `environments.csv` there tells the environment of each and
its physical parameters (`pipeline.datasets.fire.environments`); HDF5 files may tell it themselves.

All simulations have the same fields, grid and output interval. Windows never leave a simulation, and
ingest.environments says which environments are kept for the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import xarray as xr

from pipeline import transfer
from pipeline.datasets.base import DataSource
from pipeline.datasets.fire import environments, fds, layouts
from pipeline.datasets.fire.simulations import Simulation, joined
from pipeline.errors import UserError
from pipeline.params import TimeStamps

KINDS = {".h5": "HDF5", ".hdf5": "HDF5", ".npy": "npy", ".smv": "Fire Dynamics Simulator"}
TABLES = (environments.TABLE, layouts.FIELDS, layouts.AXES)
BY_HAND = (
    "the fires are not published as files that could be fetched: ask their authors "
    "(https://proceedings.mlr.press/v235/wu24aa.html), put a file or folder for each simulation and "
    f"{environments.TABLE} into raw/prometheus and set fetch.source to raw/prometheus"
)


class Prometheus(DataSource):
    """Fires, a file or folder for each simulation, with their environments."""

    time_stamps: ClassVar[TimeStamps] = "nominal"
    description: ClassVar[str] = "A slice through a simulated fire (Fire Dynamics Simulator)."

    def fetch(self, folder: Path) -> None:
        """Copies the simulations and the tables beside them; what else a simulator writes is left out."""
        source = transfer.Source.of(self.settings, BY_HAND).renamed(_wanted)
        if not any(Path(name).suffix in KINDS for name in source.files):
            raise UserError(f"fetch.source: '{source.address}' holds no simulation; known are {', '.join(KINDS)} files")
        transfer.copy(source, folder)

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen variables of all simulations, in order of their names; raises UserError, naming the file."""
        paths = simulation_paths(folder)
        known, notes = _environments(folder, paths)
        simulations = [self._open_one(folder, name, path) for name, path in paths.items()]
        if len(simulations[0].fields) < len(self.ingest.variables):
            variables = ", ".join(self.ingest.variables)
            raise UserError(f"ingest.variables: two of {variables} would have the same name in the store; choose one")
        return joined(simulations, known, notes)

    def _open_one(self, folder: Path, name: str, path: Path) -> Simulation:
        variables = self.ingest.variables
        if path.suffix == ".smv":
            return fds.open_simulation(name, path, variables)
        labels = layouts.labels(folder)
        if path.suffix == ".npy":
            return layouts.open_npy(name, path, variables, labels, layouts.axes(folder))
        return layouts.open_hdf5(name, path, variables, labels, self.ingest.dimensions)


def simulation_paths(folder: Path) -> dict[str, Path]:
    """The file of every simulation, by name, in order of their names; raises UserError if there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in KINDS)
    kinds = {KINDS[path.suffix]: path for path in found}
    if not found:
        raise UserError(f"{folder} holds no simulation: no {', '.join(KINDS)} file; run the stage fetch first")
    if len(kinds) > 1:
        raise UserError(f"{folder} holds simulations of several kinds: {', '.join(map(str, kinds.values()))}; keep one")
    paths: dict[str, Path] = {}
    for path in found:
        name = _name(path.relative_to(folder))
        if name in paths:
            raise UserError(f"{path} and {paths[name]} are both simulation '{name}'; each needs a name of its own")
        paths[name] = path
    return dict(sorted(paths.items()))


def _name(path: Path) -> str:
    """A folder's, where one folder is one simulation; else the file's without its ending."""
    in_folder = path.suffix == ".smv" and len(path.parts) > 1
    return (path.parent if in_folder else path.with_suffix("")).as_posix()


def _wanted(name: str) -> str | None:
    return name if Path(name).suffix in (*KINDS, fds.SLICE) or name in TABLES else None


def _environments(folder: Path, paths: Mapping[str, Path]) -> tuple[environments.Environments, list[str]]:
    """What is known of the simulations' environments, and what to note about it."""
    table = folder / environments.TABLE
    if not table.exists():
        attributes = {name: (path, layouts.attributes(path)) for name, path in paths.items()}
        return environments.from_attributes(attributes), []
    listed = environments.from_table(table)
    for name, path in paths.items():
        if name not in listed.of:
            raise UserError(f"{table} does not list the simulation '{name}' ({path}); it lists {', '.join(listed.of)}")
    absent = [name for name in listed.of if name not in paths]
    note = f"{environments.TABLE} lists {len(absent)} simulations that have no file, such as {', '.join(absent[:3])}"
    return listed.among(list(paths)), [note] if absent else []
