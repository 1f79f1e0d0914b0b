"""Tiny files in the layouts of TaxiBJ and TaxiBJ+, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.traffic.context import WEATHER
from pipeline.datasets.traffic.slots import Slots, slot_names


def days(first: str, count: int, minutes: int = 30) -> NDArray[np.datetime64]:
    """The start of every slot of `count` days."""
    slots = count * 24 * 60 // minutes
    return np.datetime64(first, "ms") + np.arange(slots) * np.timedelta64(minutes * 60_000, "ms")


def counts(frames: int, shape: tuple[int, int] = (4, 5), seed: int = 0) -> NDArray[np.float32]:
    """(frames, 2, H, W) counts that follow the hour of the day."""
    rng = np.random.default_rng(seed)
    level = 20 + 15 * np.sin(2 * np.pi * np.arange(frames) / 48)
    return rng.poisson(level[:, None, None, None], (frames, 2, *shape)).astype(np.float32)


def write_flows(path: Path, times: NDArray[np.datetime64], data: NDArray[Any], slots: Slots | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = data
        file["date"] = slot_names(times, slots or Slots(30, 1))
    return path


def write_weather(path: Path, times: NDArray[np.datetime64], temperature: Any, wind: Any, kinds: Any) -> Path:
    """`kinds`: (T,) columns of the one-hot matrix."""
    with h5py.File(path, "w") as file:
        file["date"] = slot_names(times, Slots(30, 1))
        file["Temperature"] = np.asarray(temperature, np.float64)
        file["WindSpeed"] = np.asarray(wind, np.float64)
        file["Weather"] = np.eye(len(WEATHER))[np.asarray(kinds)]
    return path
