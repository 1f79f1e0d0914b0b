"""The environment of every simulation and its physical parameters.

They stand in `environments.csv` beside the simulations, with the columns `simulation`, `environment` and one for
each parameter, its units in its name:

    simulation,environment,heat_release_rate_MW,ventilation_m_s
    run001,hrr5_v1,5,1.0

or, without that table, in each HDF5 file's root attributes: `environment`, and every attribute that is a number.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

TABLE = "environments.csv"
COLUMNS = ("simulation", "environment")


@dataclass(frozen=True)
class Environments:
    of: dict[str, str]  # simulation -> environment
    parameters: dict[str, dict[str, float]]  # environment -> parameter -> value

    def among(self, simulations: Collection[str]) -> Environments:
        """Those of these simulations alone."""
        of = {name: environment for name, environment in self.of.items() if name in simulations}
        return Environments(of, {name: self.parameters[name] for name in dict.fromkeys(of.values())})


def from_table(path: Path) -> Environments:
    """Raises UserError, naming the line, for what is missing, given twice or no number."""
    of: dict[str, str] = {}
    parameters: dict[str, dict[str, float]] = {}
    for line, row in rows(path, COLUMNS):
        where = f"{path}, line {line}"
        simulation, environment = (row.pop(column) for column in COLUMNS)
        if simulation in of:
            raise UserError(f"{where}: simulation '{simulation}' is listed twice; each has one environment")
        of[simulation] = environment
        _add(parameters, environment, {name: _number(value, name, where) for name, value in row.items()}, where)
    return Environments(of, parameters)


def from_attributes(attributes: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> Environments:
    """By simulation: its file and that file's root attributes. Raises UserError if they name no environment."""
    of: dict[str, str] = {}
    parameters: dict[str, dict[str, float]] = {}
    for simulation, (path, found) in attributes.items():
        if not isinstance(found.get("environment"), str) or not found["environment"]:
            raise UserError(
                f"nothing tells the environment of {path}; list it in {TABLE} beside the simulations, or (HDF5) give "
                f"the file a root attribute 'environment'; its attributes are {', '.join(found) or 'none'}"
            )
        of[simulation] = found["environment"]
        numbers = {name: value for name, value in found.items() if isinstance(value, Real)}
        _add(parameters, of[simulation], {k: _number(v, k, str(path)) for k, v in numbers.items()}, str(path))
    return Environments(of, parameters)


def rows(path: Path, needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """A CSV table with its line numbers; raises UserError unless it has the `needed` columns and no empty cell."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            found = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV table in UTF-8: {error}") from None
    if lacking := [column for column in needed if column not in columns]:
        raise UserError(f"{path} has no column '{lacking[0]}'; it has {', '.join(columns) or 'none'}")
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} has a column twice: {', '.join(columns)}")
    for line, row in found:
        if None in row or not all((value or "").strip() for value in row.values()):
            raise UserError(f"{path}, line {line} needs {len(columns)} values: {', '.join(columns)}; none may be empty")
    return [(line, {column: value.strip() for column, value in row.items()}) for line, row in found]


def _add(parameters: dict[str, dict[str, float]], environment: str, values: dict[str, float], where: str) -> None:
    known = parameters.setdefault(environment, values)
    for name in {**known, **values}:
        if known.get(name) != values.get(name):
            raise UserError(
                f"{where}: environment '{environment}' has {name} = {values.get(name)}, elsewhere {known.get(name)}; "
                "the simulations of an environment have the same parameters"
            )


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {name} is '{value}'; a parameter of an environment is a finite number")
    return number
