"""A description of two variables on a small grid, and fields to go with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.store import Description, Grid, Statistics, Variable

DIMS = ["window", "lead", "variable", "row", "column"]
MEAN, STD = (540.0, -10.0), (30.0, 4.0)


def describe(shape: tuple[int, int] = (16, 32), dims: tuple[str, str] = ("latitude", "longitude")) -> Description:
    """Two variables of different mean and spread; a global grid, or a plane."""
    rows, columns = shape
    climatology = np.asarray(MEAN, dtype=np.float32)[:, None, None] * np.ones((2, *shape), dtype=np.float32)
    return Description(
        variables=(Variable("height", "m", "height"), Variable("temperature", "degC", "temperature")),
        grid=Grid(dims, -90 + (np.arange(rows) + 0.5) * 180 / rows, np.arange(columns) * 360 / columns),
        statistics=Statistics(np.array(MEAN), np.array(STD), climatology, np.ones_like(climatology)),
        frame_seconds=21600,
        time_stamps="calendar",
        text="Fields for tests.",
    )


def fields(seed: int, windows: int = 3, leads: int = 2, shape: tuple[int, int] = (16, 32)) -> Tensor:
    """(windows, leads, 2, H, W) float32: noise with the description's mean and spread."""
    noise = torch.randn(windows, leads, 2, *shape, generator=torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return mean + std * noise
