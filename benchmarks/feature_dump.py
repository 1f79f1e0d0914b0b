"""`dump` against the bare forward pass of the same teacher on the same windows.

    python -m benchmarks.feature_dump
    python -m benchmarks.feature_dump --overlay experiments/paper_scale.yaml --windows 64 --repeats 3

`dump` reads windows and token embeddings, runs the teacher, compresses and writes shards, takes the statistics and
computes some windows again; the bare forward pass has its batches in memory and forgets what comes out. Sizes are those
of params.yaml, or of params.yaml with an overlay, on a synthetic record. Runs alternate; medians and the ratio of the
two rates are printed: by the clock, and by the processor's time of all threads, which other work on the machine changes
less and which counts what a thread does beside the teacher as if it had no core of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.distill_step import Setup, settings_with
from pipeline.feature_dump import dump
from pipeline.models import parameter_count
from pipeline.params import Params, Runtime
from pipeline.windows import WindowDataset

CPU = Runtime(accelerator="cpu")


class Runs:
    """Both ways through the same windows."""

    def __init__(self, setup: Setup, settings: Params, windows: int) -> None:
        self.settings = settings.dump_features
        self.teacher = setup.teacher
        self.sets = (
            WindowDataset(setup.store, "train", text=setup.text, limit=windows),
            WindowDataset(setup.store, "validation", text=setup.text, limit=1),
        )
        size, count = self.settings.batch_size, len(self.sets[0])
        self.batches = [
            self.sets[0].__getitems__(list(range(start, min(start + size, count)))) for start in range(0, count, size)
        ]

    def dump(self) -> None:
        dump(self.teacher, *self.sets, Path("again.zarr"), self.settings, CPU, {})

    @torch.inference_mode()
    def forward(self) -> None:
        for batch in self.batches:
            self.teacher(batch.inputs, batch.text)


def measure(runs: Runs, repeats: int) -> list[list[tuple[float, float]]]:
    """By repeat, forward and dump: seconds by the clock and of the processor."""
    measured = []
    for _ in range(repeats + 1):  # the first is a warm-up
        shutil.rmtree("again.zarr", ignore_errors=True)
        pair = []
        for way in (runs.forward, runs.dump):
            start = time.perf_counter(), time.process_time()
            way()
            pair.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        measured.append(pair)
    return measured[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, help="an overlay of experiments/; default: params.yaml as it is")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = settings_with(options.overlay)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        setup = Setup(settings, options.rows, options.columns, options.windows)
        runs = Runs(setup, settings, options.windows)
        measured = measure(runs, options.repeats)
        megabytes = sum(file.stat().st_size for file in Path("again.zarr").rglob("*") if file.is_file()) / 1e6
    count = len(runs.sets[0])
    print(
        f"teacher {parameter_count(runs.teacher) / 1e6:.2f} M, {count} windows, {megabytes:.0f} MB, batches of "
        f"{runs.settings.batch_size}, {torch.get_num_threads()} threads"
    )
    for kind, clock in enumerate(("clock", "processor")):
        forward, dumped = ([pair[way][kind] for pair in measured] for way in (0, 1))
        rates = [count / statistics.median(times) for times in (forward, dumped)]
        ratio = statistics.median(bare / stored for bare, stored in zip(forward, dumped, strict=True))
        print(f"{clock:10} forward {rates[0]:.1f}, dump {rates[1]:.1f} windows/s; ratio dump / forward: {ratio:.2f}")


if __name__ == "__main__":
    main()
