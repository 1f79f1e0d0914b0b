"""Training on several devices of one machine: a process for each, started by the stage's own.

The stage's process keeps the lock of its work and writes what comes out. A batch is that of one device, cut in equal
shares, so that the number of devices changes results by rounding alone - but for batch norm, which sees its share.
"""

from __future__ import annotations

import copy
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from pipeline.errors import UserError
from pipeline.params import Training
from pipeline.windows import WindowDataset, WindowLoader, loader


def on_devices(fabric: Fabric, function: Callable[..., Any], model: nn.Module, task: Any) -> Any:
    """`function(fabric, model, task)` in a process for each device; what it returns in the first.

    A UserError in any of them ends all, and is raised here.
    """
    work = copy.copy(task.work)
    work._lock = None  # stays with this process
    told = work.path("error.txt")
    told.unlink(missing_ok=True)
    try:
        process: Any = _process
        return fabric.launch(process, function, model, task._replace(work=work))
    except (ProcessExitedException, ProcessRaisedException):
        if not told.exists():
            raise
        raise UserError(told.read_text()) from None
    finally:
        told.unlink(missing_ok=True)


def _process(fabric: Fabric, function: Callable[..., Any], model: nn.Module, task: Any) -> Any:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what torch has sent when the stage's process dies, its lock with it
    if fabric.global_rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return function(fabric, model, task)
    except UserError as error:
        with task.work.part("error.txt") as path:
            path.write_text(str(error))
        raise SystemExit(1) from None


def share_of_batch(settings: Training, ranks: int) -> int:
    """Windows of a batch for each process; raises UserError if they do not get equally many."""
    if settings.batch_size % ranks:
        key = f"{settings.section}.batch_size = {settings.batch_size}"
        raise UserError(f"{key} cannot be shared by runtime.devices = {ranks}; a multiple of it can")
    return settings.batch_size // ranks


def share_of_windows(windows: WindowDataset, batch_size: int, rank: int, ranks: int, workers: int) -> WindowLoader:
    """A process's share of all windows, each of which is in one share alone."""
    if ranks == 1:
        return loader(windows, batch_size, workers)
    if len(windows) < ranks:
        raise UserError(f"{len(windows)} windows cannot be shared by runtime.devices = {ranks}")
    own, size = range(rank, len(windows), ranks), batch_size // ranks
    batches: Any = [list(own[start : start + size]) for start in range(0, len(own), size)]
    whole = loader(windows, batch_size, workers)
    return WindowLoader(windows, batch_sampler=batches, collate_fn=whole.collate_fn, num_workers=workers)


def mean_over_ranks(fabric: Fabric, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor's mean over all processes, by one exchange."""
    if fabric.world_size == 1 or not values:
        return dict(values)
    flat = torch.cat([value.detach().float().flatten() for value in values.values()])
    mean: Any = fabric.all_reduce(flat, reduce_op="mean")
    parts = mean.split([value.numel() for value in values.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
