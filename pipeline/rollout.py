"""Forecasts beyond the lead times that a model was trained for: each is made from the one before.

Only windows are rolled out after which the record goes on long enough, without a gap and within the test split.
Forecasts take the place of frames from the first pass on; the teacher keeps the caption of the window's own input
frames, as nobody could describe frames that have not been. Errors are those of `rmse`, over the same windows at
every lead time, the first ones too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batch import Batch
from pipeline.evaluation import Forecast, Run
from pipeline.metrics.base import Metric
from pipeline.metrics.rmse import RMSE
from pipeline.progress import progress
from pipeline.windows import WindowDataset
from pipeline.work import Work

log = logging.getLogger(__name__)


def long_enough(dataset: WindowDataset, passes: int) -> list[int]:
    """Positions of the windows of `dataset` whose record goes on for `passes` times T_out frames.

    A split is one stretch of time or whole simulations: within a segment it ends where its last window does.
    """
    windows = dataset.store.windows
    starts = windows.start[dataset.numbers]
    segment = np.asarray(dataset.store.array("segment")[:])[starts]
    ends = np.full(segment.max() + 1, -1)
    np.maximum.at(ends, segment, starts + windows.step * (windows.t_in + windows.t_out - 1))
    last = starts + windows.step * (windows.t_in + passes * windows.t_out - 1)
    found: list[int] = np.flatnonzero(last <= ends[segment]).tolist()
    return found


def roll(forecast: Forecast, dataset: WindowDataset, batch: Batch, passes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Forecast and truth (B, T_out, C, H, W) of each pass over the windows of `batch`."""
    windows = dataset.store.windows
    starts = windows.start[batch.windows.numpy()]
    for number in range(passes):
        first = windows.t_in + number * windows.t_out
        frames = starts[:, None] + windows.step * np.arange(first, first + windows.t_out)
        batch = replace(batch, targets=torch.from_numpy(dataset.fields[frames]))
        fields = forecast(batch)
        yield fields, batch.targets
        batch = replace(batch, inputs=torch.cat([batch.inputs, fields], dim=1)[:, -windows.t_in :])


@torch.no_grad()
def errors(
    run: Run, forecast: Forecast, dataset: WindowDataset, positions: list[int], passes: int, batch_size: int
) -> NDArray[np.float64]:
    """(passes * T_out, C) RMSE by lead time, in physical units; infinite where a forecast has run away."""
    metric: Metric = RMSE(dataset.store.description)
    total: NDArray[np.float64] | None = None
    chunks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    for chunk in progress(chunks, f"rolling out {run}", len(chunks), "batch"):
        rolled = roll(forecast, dataset, dataset.__getitems__(chunk), passes)
        squares = torch.cat([metric.per_window(*pair).double().sum(0) for pair in rolled]).numpy()
        total = squares if total is None else total + squares
    if total is None:
        raise ValueError("no window to roll out")
    return metric.finish(np.nan_to_num(total, nan=np.inf, posinf=np.inf) / len(positions))


def errors_of_all(
    forecasters: Mapping[Run, Forecast], dataset: WindowDataset, passes: int, batch_size: int, work: Work
) -> dict[Run, NDArray[np.float64]]:
    """`errors` of every forecaster; nothing if there are no passes, or the record goes on after no test window."""
    positions = long_enough(dataset, passes) if passes else []
    if passes and not positions:
        log.warning("no test window is followed by enough frames for %d forecasts in a row: no roll-out", passes)
    found = {}
    for run in forecasters if positions else ():
        name = f"{run} rollout.npy"
        if not work.has(name):
            with work.part(name) as part, part.open("wb") as stream:
                np.save(stream, errors(run, forecasters[run], dataset, positions, passes, batch_size))
        found[run] = np.load(work.path(name), allow_pickle=False)
    return found
