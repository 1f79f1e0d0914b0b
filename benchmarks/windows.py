"""Shuffled reads of `WindowDataset` batches against a plain memory-mapped copy of the same bytes.

    python -m benchmarks.windows --frames 4000 --batch 16

The plain copy is one NumPy memory map, indexed by the same frames in the same order and given to torch. Both read
every window once per repeat, for 4 -> 4 and 12 -> 12 frames of two variables on a 32 x 64 grid. Repeats alternate;
medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def compare(dataset: WindowDataset, plain: NDArray[np.float32], batch_size: int, repeats: int) -> dict[str, float]:
    """Median seconds of one pass over all windows, by way."""
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
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def run(options: argparse.Namespace, frames: int) -> None:
    settings = Ingest(variables=("z500", "t850"), t_in=frames, t_out=frames, step=1, stride=1)
    folder = Path(f"{frames}-frames")
    folder.mkdir()
    ingest(opened(Path("record.nc")), settings, folder)
    store = Store(folder / STORE)
    dataset = WindowDataset(store, "train")
    copy = np.memmap(folder / "plain", dtype="float32", mode="w+", shape=dataset.fields.shape)
    copy[:] = map_fields(store)
    copy.flush()
    plain = np.memmap(folder / "plain", dtype="float32", mode="r", shape=dataset.fields.shape)
    medians = compare(dataset, plain, options.batch, options.repeats)
    megabytes = len(dataset) * 2 * frames * plain[0].nbytes / 1e6
    print(f"{frames} -> {frames} frames, {len(dataset)} windows, batches of {options.batch}")
    for name, median in medians.items():
        print(f"  {name:14} {1e6 * median / len(dataset):7.1f} us/window  {megabytes / median:6.0f} MB/s")
    print(f"  ratio WindowDataset / plain memmap: {medians['WindowDataset'] / medians['plain memmap']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        write_record(Path("record.nc"), options.frames, rows=32, columns=64)
        for frames in (4, 12):
            run(options, frames)


if __name__ == "__main__":
    main()
