"""`dump` against the bare forward pass of the same teacher on the same windows.

    python -m benchmarks.feature_dump
    python -m benchmarks.feature_dump --overlay experiments/paper_scale.yaml --windows 64 --repeats 3

`dump` reads windows and token embeddings, runs the teacher, compresses and writes shards, takes the statistics and
computes some windows again; the bare forward pass has its batches in memory and forgets what comes out. Sizes are those
of params.yaml, or of params.yaml with an overlay, on a synthetic record. Runs alternate; medians and the ratio of the
two rates are printed.
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

    def dump(self) -> float:
        shutil.rmtree("again.zarr", ignore_errors=True)
        start = time.perf_counter()
        dump(self.teacher, *self.sets, Path("again.zarr"), self.settings, CPU, {})
        return time.perf_counter() - start

    @torch.inference_mode()
    def forward(self) -> float:
        start = time.perf_counter()
        for batch in self.batches:
            self.teacher(batch.inputs, batch.text)
        return time.perf_counter() - start


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
        seconds = [(runs.forward(), runs.dump()) for _ in range(options.repeats + 1)][1:]  # the first is a warm-up
        megabytes = sum(file.stat().st_size for file in Path("again.zarr").rglob("*") if file.is_file()) / 1e6
    count = len(runs.sets[0])
    print(
        f"teacher {parameter_count(runs.teacher) / 1e6:.2f} M, {count} windows, {megabytes:.0f} MB, batches of "
        f"{runs.settings.batch_size}, {torch.get_num_threads()} threads"
    )
    for name, times in zip(("forward", "dump"), zip(*seconds, strict=True), strict=True):
        print(f"{name:8} {count / statistics.median(times):8.1f} windows/s  (median of {options.repeats})")
    print(f"ratio dump / forward: {statistics.median(forward / dumped for forward, dumped in seconds):.2f}")


if __name__ == "__main__":
    main()
