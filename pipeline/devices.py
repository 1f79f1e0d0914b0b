"""Work on several devices of one machine, or of several: a process for each, started by the stage's own.

The stage's process keeps the lock of its work and writes what comes out; of several machines ("nodes", each of which
runs the stage) the first one's does. A batch is that of one device, cut in equal shares, so that the number of devices
changes results by rounding alone - but for batch norm, which sees its share, and for dropout and drop path, which
each process draws for itself.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from pipeline.errors import UserError
from pipeline.params import Runtime, Training
from pipeline.windows import WindowDataset, WindowLoader, loader
from pipeline.work import replacing

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of malloc.h
HOW = "docs/training.md tells how several machines are started"


def on_devices(runtime: Runtime, precision: Any, folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(fabric, *arguments)` in a process for each device, or here if there is one; what the first returns.

    `folder`: all machines see it; it takes the message of a UserError, which ends all processes and is raised here.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()
    if runtime.devices * runtime.nodes == 1:
        fabric = _fabric(runtime, precision, devices=1)
        fabric.launch()
        return function(fabric, *arguments)
    _check_nodes(runtime)
    told = [folder / f"error-{node}.txt" for node in range(runtime.nodes)]  # each node reads and removes its own
    own = told[runtime.node]
    own.unlink(missing_ok=True)
    try:
        process: Any = _process
        return _several(runtime, precision).launch(process, told, function, *arguments)
    except (ProcessExitedException, ProcessRaisedException):
        if not own.exists():
            raise
        raise UserError(own.read_text()) from None
    finally:
        own.unlink(missing_ok=True)


def keep_freed_memory() -> None:
    """Has glibc keep what one training step frees for the next, which would fault every page in again.

    A student's step on a CPU takes about an eighth less time. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _several(runtime: Runtime, precision: Any) -> Fabric:
    """Fabric whose processes are yet to be started: always here, whatever scheduler this process runs under."""
    where: dict[str, Any] = {
        "devices": runtime.devices,
        "num_nodes": runtime.nodes,
        "plugins": [LightningEnvironment()],
    }
    return _fabric(runtime, precision, strategy="ddp_spawn", **where)


def _fabric(runtime: Runtime, precision: Any, **options: Any) -> Fabric:
    """Raises UserError for devices that are not there, and for a precision that they do not have."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")  # refused below
            fabric = Fabric(accelerator=runtime.accelerator, precision=precision, **options)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        asked = (
            f"runtime.accelerator = {runtime.accelerator} and runtime.devices = {runtime.devices} cannot be had here"
        )
        raise UserError(f"{asked}: {error} With accelerator: auto, devices: 1 the stage runs on any machine") from None
    had = getattr(fabric.strategy.precision, "precision", precision)
    if had != precision:
        raise UserError(f"precision = {precision} needs a GPU; here it can be 32-true or {had}")
    return fabric


def _check_nodes(runtime: Runtime) -> None:
    """Raises UserError if the environment does not tell the nodes how to find each other."""
    if runtime.nodes == 1:
        return
    asked = f"runtime.nodes = {runtime.nodes}"
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    missing += [] if {"NODE_RANK", "GROUP_RANK"} & set(os.environ) else ["NODE_RANK"]
    if missing:
        raise UserError(f"{asked} and the environment lacks {', '.join(missing)}; {HOW}")
    if runtime.node >= runtime.nodes:
        raise UserError(f"{asked} and NODE_RANK = {runtime.node}; it must be below it: 0 on the first machine, then 1")
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(f"the stage starts a process for each device itself: torchrun --nproc-per-node=1; {HOW}")
    if runtime.node > 0:
        log.info("node %d of %d: at work; the first one reports and writes", runtime.node, runtime.nodes)


def _process(fabric: Fabric, told: list[Path], function: Callable[..., Any], *arguments: Any) -> Any:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what torch has sent when the stage's process dies, its lock with it
    if fabric.global_rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return function(fabric, *arguments)
    except UserError as error:
        for path in told:
            with replacing(path) as temporary:
                temporary.write_text(str(error))
        raise SystemExit(1) from None


def share_of_batch(settings: Training, runtime: Runtime) -> int:
    """Windows of a batch for each process; raises UserError if they do not get equally many."""
    ranks = runtime.devices * runtime.nodes
    if settings.batch_size % ranks:
        key = f"{settings.section}.batch_size = {settings.batch_size}"
        nodes = f" * runtime.nodes = {runtime.devices} * {runtime.nodes}" if runtime.nodes > 1 else f" = {ranks}"
        raise UserError(f"{key} cannot be shared by runtime.devices{nodes}; a multiple of it can")
    return settings.batch_size // ranks


def share_of_windows(windows: WindowDataset, batch_size: int, rank: int, ranks: int, workers: int) -> WindowLoader:
    """A process's share of all windows, each of which is in one share alone."""
    if ranks == 1:
        return loader(windows, batch_size, workers)
    if len(windows) < ranks:
        raise UserError(f"{len(windows)} windows cannot be shared by {ranks} devices; lower runtime.devices")
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
