"""Records on planes whose features are known: a city with two rush hours, and a fire whose smoke spreads both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.store import Description, Grid, Statistics, Store, Variable
from tests.helpers import tiny_params, write_store

TAXIS = (Variable("inflow", "1", "inflow of taxis"), Variable("outflow", "1", "outflow of taxis"))
BURNING = (Variable("temperature", "K", "temperature"), Variable("smoke", "m-1", "extinction coefficient of smoke"))
CITY = Grid(("y", "x"), np.arange(16, dtype=np.float64), np.arange(16, dtype=np.float64))
TUNNEL = Grid(("y", "x"), 0.25 + 0.5 * np.arange(12, dtype=np.float64), 1.0 + 2 * np.arange(48, dtype=np.float64), "m")


def city(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """(T, 2, 16, 16) counts, half an hour apart from midnight: to the centre at 8, to the outskirts at 18."""
    y, x = np.mgrid[0:16, 0:16]
    centre, outskirts = (
        sum(np.exp(-((y - row) ** 2 + (x - column) ** 2) / width) for row, column, width in places)
        for places in ([(8, 8, 6)], [(3, 4, 12), (13, 11, 8)])
    )
    hour = np.arange(frames)[:, None, None] % 48 / 2
    morning, evening = (np.exp(-(((hour - peak) / 1.5) ** 2)) for peak in (8, 18))
    base = np.where(hour > 6, 30, 6) * (centre + outskirts)
    inflow = base + 100 * (morning * centre + evening * outskirts)
    outflow = base + 100 * (morning * outskirts + evening * centre)
    counts = np.random.default_rng(seed).poisson(np.stack([inflow, outflow], axis=1))
    return counts.astype(np.float32)


def fire(frames: int) -> NDArray[np.float32]:
    """(T, 2, 12, 48): a fire at x = 35 m that grows and wanes; its layer reaches right fast and left slowly."""
    y, x = TUNNEL.y[:, None], TUNNEL.x[None, :]
    time = np.arange(frames)[:, None, None]
    power = 0.2 + np.sin(np.pi * time / frames)
    plume = 500 * np.exp(-(((x - 35) / 4) ** 2)) * np.exp(-y / 6)
    layer = 200 / (1 + np.exp(-3 * (y - 4))) * ((x < 40 + 0.9 * time) & (x > 33 - 0.3 * time))
    heat = power * (plume + layer)
    return np.stack([293 + heat, heat / 150], axis=1).astype(np.float32)


def described(fields: NDArray[np.float32], variables: tuple[Variable, ...], grid: Grid, seconds: float) -> Description:
    statistics = Statistics(
        fields.mean((0, 2, 3), dtype=np.float64),
        fields.std((0, 2, 3), dtype=np.float64),
        fields.mean(0),
        fields.std(0),
    )
    return Description(variables, grid, statistics, seconds, "nominal", "Simulated.")


def stored(
    path: Path, fields: NDArray[np.float32], variables: tuple[Variable, ...], grid: Grid, milliseconds: int
) -> Store:
    times = np.datetime64("2013-07-01", "ns") + np.arange(len(fields)) * np.timedelta64(milliseconds, "ms")
    raw = xr.Dataset(
        {
            variable.name: (
                ("time", "y", "x"),
                fields[:, number],
                {"units": variable.units, "long_name": variable.long_name},
            )
            for number, variable in enumerate(variables)
        },
        coords={
            "time": times,
            "y": ("y", grid.y, {"units": grid.units}),
            "x": ("x", grid.x, {"units": grid.units}),
        },
    )
    ingest = {"variables": [variable.name for variable in variables], "t_in": 4, "t_out": 2, "stride": 1}
    return write_store(path, raw, tiny_params(ingest=ingest), "nominal")
