"""Shuffled reads of `WindowDataset` batches against a plain memory-mapped copy of the same bytes.

    OMP_NUM_THREADS=1 python -m benchmarks.windows
    OMP_NUM_THREADS=1 python -m benchmarks.windows --memory --frames 30500     # a record of 500 MB

The plain copy is one NumPy memory map, indexed by the same frames in the same order and given to torch. Both read
every window once per repeat, for 4 -> 4 and 12 -> 12 frames of two variables on a 32 x 64 grid, one and two record
frames apart. Repeats alternate; medians are printed, and the median of the repeats' ratios.

`--memory` reads every 12 -> 12 window once without workers, with forked and with spawned ones, and prints what all
processes hold together when the last batch is there: PSS (shared pages counted once) and USS (private pages alone).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.ingest import opened, write_record
from pipeline.ingest import STORE, ingest
from pipeline.params import Ingest
from pipeline.store import Store
from pipeline.windows import WindowDataset, map_fields, shuffled_loader

SEED = 0


def through_dataset(dataset: WindowDataset, batch_size: int, epoch: int) -> float:
    """Reads every window; returns a sum of what was read, for a check."""
    batches = shuffled_loader(dataset, batch_size, SEED, rank=0, ranks=1)
    batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return sum(float(batch.inputs[0, 0, 0, 0, 0] + batch.targets[-1, -1, -1, -1, -1]) for batch in batches)


def through_plain_map(dataset: WindowDataset, plain: NDArray[np.float32], batch_size: int, epoch: int) -> float:
    windows = dataset.store.windows
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SEED + epoch)).numpy()
    total = 0.0
    for start in range(0, len(order), batch_size):
        first = windows.start[dataset.numbers[order[start : start + batch_size]]]
        frames = first[:, None] + windows.step * np.arange(windows.t_in + windows.t_out)
        fields = torch.from_numpy(plain[frames])
        total += float(fields[0, 0, 0, 0, 0] + fields[-1, -1, -1, -1, -1])
    return total


def compare(
    dataset: WindowDataset, plain: NDArray[np.float32], batch_size: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each pass over all windows, by way."""
    ways: dict[str, Callable[[int], float]] = {
        "WindowDataset": lambda epoch: through_dataset(dataset, batch_size, epoch),
        "plain memmap": lambda epoch: through_plain_map(dataset, plain, batch_size, epoch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(repeats + 1):  # the first is a warm-up
        sums = []
        for name, way in ways.items():
            start = time.perf_counter()
            sums.append(way(epoch))
            seconds[name].append(time.perf_counter() - start)
        if sums[0] != sums[1]:
            raise SystemExit(f"the two read different values in epoch {epoch}: {sums}")
    return {name: times[1:] for name, times in seconds.items()}


def ingested(frames: int, step: int) -> Store:
    """The record in windows of `frames` -> `frames`, in a folder of its own."""
    folder = Path(f"{frames}-frames-{step}-apart")
    folder.mkdir()
    settings = Ingest(variables=("z500", "t850"), t_in=frames, t_out=frames, step=step, stride=1)
    ingest(opened(Path("record.nc")), settings, folder)
    return Store(folder / STORE)


def print_rates(store: Store, batch_size: int, repeats: int) -> None:
    dataset = WindowDataset(store, "train")
    path = store.path.with_name("plain")
    copy = np.memmap(path, dtype="float32", mode="w+", shape=dataset.fields.shape)
    copy[:] = map_fields(store)
    copy.flush()
    plain = np.memmap(path, dtype="float32", mode="r", shape=dataset.fields.shape)
    seconds = compare(dataset, plain, batch_size, repeats)
    windows = store.windows
    megabytes = len(dataset) * (windows.t_in + windows.t_out) * plain[0].nbytes / 1e6
    print(f"{windows.t_in} -> {windows.t_out} frames, step {windows.step}, {len(dataset)} windows")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"  {name:14} {1e6 * median / len(dataset):7.1f} us/window  {megabytes / median:6.0f} MB/s")
    ratios = [mine / theirs for mine, theirs in zip(*seconds.values(), strict=True)]
    print(f"  ratio WindowDataset / plain memmap: {statistics.median(ratios):.2f}")


def print_memory(store: Store, batch_size: int, workers: int) -> None:
    dataset = WindowDataset(store, "train")
    print(f"a record of {dataset.fields.nbytes / 1e6:.0f} MB, {len(dataset)} windows, after reading all of them")
    for count, method in ((0, None), (workers, "fork"), (workers, "spawn")):
        batches = shuffled_loader(dataset, batch_size, SEED, rank=0, ranks=1, workers=count)
        batches.multiprocessing_context = multiprocessing.get_context(method) if count else None
        start = time.perf_counter()
        for number, _ in enumerate(batches, start=1):
            if number == len(batches):
                seconds = time.perf_counter() - start
                pss, uss = held()
        name = f"{count} workers, {method}" if count else "no workers"
        print(f"  {name:16} PSS {pss:5.0f} MB  USS {uss:5.0f} MB  {seconds:5.1f} s")


def held() -> tuple[float, float]:
    """MB of PSS and USS, summed over this process and its children."""
    process = psutil.Process()
    memory = [each.memory_full_info() for each in (process, *process.children(recursive=True))]
    return sum(each.pss for each in memory) / 1e6, sum(each.uss for each in memory) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        write_record(Path("record.nc"), options.frames, rows=32, columns=64)
        if options.memory:
            print_memory(ingested(12, step=1), options.batch, options.workers)
            return
        for frames in (4, 12):
            for step in (1, 2):
                print_rates(ingested(frames, step), options.batch, options.repeats)


if __name__ == "__main__":
    main()
