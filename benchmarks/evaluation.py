"""Scoring of a forecast by all metrics and tallies, against its mean squared error alone.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --memory

The forecast is persistence, which costs nothing: what is timed is reading, metrics and tallies. Two variables on a
32 x 64 globe, 4 -> 4 frames, by threads and windows a batch. All combinations alternate; medians are printed, by the
clock and of the processor's time on all threads, which other work on the machine disturbs less.

`--memory` scores test splits of one, four and sixteen times as many frames beside the same training frames, on one
thread, each in a process of its own. It prints the peak of that process's resident memory as the kernel counts it
(VmHWM), and apart from it the largest private part (RssAnon) and part in mapped files (RssFile) that a thread saw every
few milliseconds. Pages of the mapped record are counted as resident once they were read, until something else needs
their memory; and glibc keeps freed blocks. `kept` is the private memory after scoring less that before it, both once
glibc has given back what is free: what scoring itself holds on to.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
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
LENGTHS = (1, 4, 16)
TRAIN, VALIDATION, SPAN = 40, 20, 8  # frames of the first two splits and of a window
MEMORY_BATCH = 8


def ingested(frames: int) -> Store:
    """A record whose test split has `frames` frames; the other splits do not grow with it."""
    total = TRAIN + VALIDATION + frames
    shares = Splits(train=TRAIN / total, validation=VALIDATION / total, test=frames / total)
    folder = Path(f"record-{frames}")
    folder.mkdir()
    write_record(folder / "record.nc", total + 2 * SPAN, 32, 64)
    settings = Ingest(variables=("z500", "t850"), step=1, stride=1, splits=shares)
    ingest(opened(folder / "record.nc"), settings, folder, "calendar", "A record for the benchmark.")
    return Store(folder / STORE)


def seconds(dataset: WindowDataset, gauges: Yardsticks, batch_size: int) -> tuple[float, float]:
    """By the clock and of the processor."""
    batches = loader(dataset, batch_size)
    shape = (len(gauges.metrics), len(dataset), dataset.store.windows.t_out, 2)
    clock, processor = time.perf_counter(), time.process_time()
    score(Run("persistence"), persistence, batches, len(batches), gauges, np.empty(shape))
    return time.perf_counter() - clock, time.process_time() - processor


def by_threads_and_batch(frames: int, repeats: int) -> None:
    dataset = WindowDataset(ingested(frames), "test")
    whole = diagnostics.yardsticks(dataset, Evaluate())
    ways = {
        "MSE": Yardsticks({"mse": whole.metrics["mse"]}, whole.climate),
        "metrics": Yardsticks(whole.metrics, whole.climate),
        "all": whole,
    }
    cases = list(itertools.product(THREADS, BATCHES, ways))
    times: dict[tuple[int, int, str], list[tuple[float, float]]] = {case: [] for case in cases}
    for threads, batch_size, way in repeats * cases:
        torch.set_num_threads(threads)
        times[threads, batch_size, way].append(seconds(dataset, ways[way], batch_size))
    print(f"{len(dataset)} windows, milliseconds a window, median of {repeats}")
    for kind, name in enumerate(("clock", "processor")):
        medians = {
            case: 1000 * statistics.median(pair[kind] for pair in found) / len(dataset) for case, found in times.items()
        }
        print_times(name, medians)


def print_times(name: str, medians: dict[tuple[int, int, str], float]) -> None:
    """Milliseconds by (threads, windows a batch, way), and how much longer one takes than another."""
    fastest = min(medians[THREADS[0], batch_size, "all"] for batch_size in BATCHES)
    print(f"{name:>9} {'batch':>6} {'MSE':>9} {'metrics':>9} {'all':>9}  all / MSE  all / best on one thread")
    for threads, batch_size in itertools.product(THREADS, BATCHES):
        mse, metrics, whole = (medians[threads, batch_size, way] for way in ("MSE", "metrics", "all"))
        figures = f"{mse:9.3f} {metrics:9.3f} {whole:9.3f}  {whole / mse:9.1f}  {whole / fastest:9.2f}"
        print(f"{threads:>9} {batch_size:>6} {figures}")


def preparation(frames: int) -> None:
    """Once for all forecasters: the climatology and the thresholds of the training split."""
    store = ingested(frames)
    dataset = WindowDataset(store, "test")
    chosen = np.arange(len(store.times))
    start = time.process_time()
    climatology.fit(dataset.fields, store.times, chosen, "calendar")
    fitted = time.process_time()
    extremes.thresholds(dataset.fields, chosen)
    print(f"{len(chosen)} frames: climatology {fitted - start:.2f} s, thresholds {time.process_time() - fitted:.2f} s")


def resident(counter: str) -> float:
    """MB of this process, of a counter in /proc/self/status."""
    (kilobytes,) = re.findall(rf"{counter}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1000


@contextlib.contextmanager
def watched(highest: dict[str, float]) -> Iterator[None]:
    """Raises the counters in `highest` to the most that this process holds meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            highest.update({counter: max(most, resident(counter)) for counter, most in highest.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def private_in_use() -> float:
    """MB of private memory, without what glibc holds free."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident("RssAnon")


def peaks(path: Path, repeat: int) -> dict[str, float]:
    """MB of resident memory while the test split of the store `path` is scored, by counter."""
    torch.set_num_threads(1)
    os.chdir(path.parent)  # each record has a mapped copy of its own there
    dataset = WindowDataset(Store(Path(path.name)), "test")
    gauges = diagnostics.yardsticks(dataset, Evaluate())
    highest = {"RssAnon": 0.0, "RssFile": 0.0}
    before = private_in_use()
    with Work(f"evaluate-{path.parent.name}-{repeat}") as work, watched(highest):
        score_all({Run("persistence"): persistence}, dataset, MEMORY_BATCH, work, yardsticks=gauges)
    return {"VmHWM": resident("VmHWM"), **highest, "kept": private_in_use() - before}


def memory(frames: int, repeats: int) -> None:
    stores = {times: ingested(times * frames) for times in LENGTHS}
    for store in stores.values():
        with contextlib.chdir(store.path.parent):
            WindowDataset(Store(Path(store.path.name)), "test")  # makes the mapped copy, as an earlier stage has
    context = multiprocessing.get_context("spawn")
    found: dict[int, list[dict[str, float]]] = {times: [] for times in LENGTHS}
    for repeat, (times, store) in itertools.product(range(repeats), stores.items()):
        with context.Pool(1) as pool:
            found[times].append(pool.apply(peaks, (store.path, repeat)))
    counters = ("VmHWM", "RssAnon", "RssFile")
    medians = {times: [statistics.median(one[name] for one in found[times]) for name in counters] for times in LENGTHS}
    print(f"MB of resident memory, median of {repeats}, and its ratio to the shortest split's")
    print(f"{'split':>5} {'windows':>8} " + " ".join(f"{name:>14}" for name in counters) + "   kept")
    for times, values in medians.items():
        pairs = zip(values, medians[LENGTHS[0]], strict=True)
        figures = " ".join(f"{value:6.0f} ({value / first:.3f})" for value, first in pairs)
        kept = statistics.median(one["kept"] for one in found[times])
        print(f"{times:>4}x {len(stores[times].windows.of('test')):>8} {figures} {kept:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=140)  # of the test split
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if arguments.memory:
            memory(arguments.frames, arguments.repeats)
        else:
            by_threads_and_batch(arguments.frames, arguments.repeats)
            preparation(4 * arguments.frames)


if __name__ == "__main__":
    main()
