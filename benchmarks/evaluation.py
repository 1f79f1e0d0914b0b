"""Scoring of a forecast by all metrics and tallies, against its mean squared error alone.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --memory

The forecast is persistence, which costs nothing: what is timed is reading, metrics and tallies. Two variables on a
32 x 64 globe, 4 -> 4 frames, by threads and windows a batch. Ways alternate; medians are printed, of the processor's
time on all threads, which other work on the machine disturbs less than the clock's. `--memory` scores splits of one,
two and four times as many windows, each in a process of its own, and prints how far the resident memory rose.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.ingest import opened, write_record
from pipeline import climatology, diagnostics, extremes
from pipeline.evaluation import Run, Yardsticks, persistence, score, score_all
from pipeline.ingest import STORE, ingest
from pipeline.params import Evaluate, Ingest, Splits
from pipeline.store import Store
from pipeline.windows import WindowDataset, loader
from pipeline.work import Work

THREADS = (1, 2)
BATCHES = (8, 32, 128)
SPLITS = Splits(train=0.1, validation=0.05, test=0.85)


def ingested(frames: int) -> Store:
    folder = Path(f"record-{frames}")
    folder.mkdir()
    write_record(folder / "record.nc", frames, 32, 64)
    settings = Ingest(variables=("z500", "t850"), step=1, stride=1, splits=SPLITS)
    ingest(opened(folder / "record.nc"), settings, folder, "calendar", "A record for the benchmark.")
    return Store(folder / STORE)


def seconds(dataset: WindowDataset, gauges: Yardsticks, batch_size: int) -> float:
    batches = loader(dataset, batch_size)
    shape = (len(gauges.metrics), len(dataset), dataset.store.windows.t_out, 2)
    start = time.process_time()
    score(Run("persistence"), persistence, batches, len(batches), gauges, np.empty(shape))
    return time.process_time() - start


def by_threads_and_batch(frames: int, repeats: int) -> None:
    dataset = WindowDataset(ingested(frames), "test")
    whole = diagnostics.yardsticks(dataset, Evaluate())
    ways = {
        "MSE": Yardsticks({"mse": whole.metrics["mse"]}, whole.climate),
        "metrics": Yardsticks(whole.metrics, whole.climate),
        "all": whole,
    }
    print(f"{len(dataset)} windows, milliseconds of the processor a window, median of {repeats}")
    print(f"{'threads':>8} {'batch':>6} " + " ".join(f"{name:>9}" for name in ways) + "  all / MSE")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for batch_size in BATCHES:
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(repeats):
                for name, gauges in ways.items():
                    times[name].append(1000 * seconds(dataset, gauges, batch_size) / len(dataset))
            medians = {name: statistics.median(found) for name, found in times.items()}
            figures = " ".join(f"{median:9.3f}" for median in medians.values())
            print(f"{threads:>8} {batch_size:>6} {figures}  {medians['all'] / medians['MSE']:9.1f}")


def preparation(frames: int) -> None:
    """Once for all forecasters: the climatology and the thresholds of the training split."""
    store = ingested(frames)
    dataset = WindowDataset(store, "test")
    chosen = np.arange(len(store.times))
    start = time.process_time()
    climatology.fit(dataset.fields, store.times, chosen, "calendar")
    fitted = time.process_time()
    extremes.thresholds(dataset.fields, chosen)
    print(f"{frames} frames: climatology {fitted - start:.2f} s, thresholds {time.process_time() - fitted:.2f} s")


def risen(path: Path, batch_size: int) -> float:
    """MB by which the resident memory of this process rose at most, without pages of files."""
    dataset = WindowDataset(Store(path), "test")
    process = psutil.Process()
    gauges = diagnostics.yardsticks(dataset, Evaluate())
    highest = before = 0

    def watched(batch: object) -> torch.Tensor:
        nonlocal highest, before
        memory = process.memory_info()
        private = memory.rss - memory.shared
        before = before or private
        highest = max(highest, private)
        return persistence(batch)  # type: ignore[arg-type]

    with Work(f"evaluate-{path.parent.name}") as work:
        score_all({Run("persistence"): watched}, dataset, batch_size, work, yardsticks=gauges)
    return (highest - before) / 1e6


def memory(frames: int) -> None:
    context = multiprocessing.get_context("spawn")
    for times in (1, 2, 4):
        store = ingested(times * frames)
        with context.Pool(1) as pool:
            print(f"{len(store.windows.of('test'))} windows: {pool.apply(risen, (store.path, 32)):.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if arguments.memory:
            memory(arguments.frames)
        else:
            by_threads_and_batch(arguments.frames, arguments.repeats)
            preparation(4 * arguments.frames)


if __name__ == "__main__":
    main()
