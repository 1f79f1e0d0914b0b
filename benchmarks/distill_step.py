"""An S2-KD training step with cached features against the same step with the teacher run online, and the baseline's.

    python -m benchmarks.distill_step
    python -m benchmarks.distill_step --overlay experiments/paper_scale.yaml --frames 12 --batch 4 --repeats 3

A step reads a shuffled batch, runs forward and backward and updates the student by Adam. Online, the teacher's
forward pass takes the place of reading its features; the baseline's step has neither features nor projection. Sizes
are those of params.yaml, or of params.yaml with an overlay, on a synthetic record. Steps alternate; medians and their
ratios are printed, of wall time and of the process's CPU time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.ingest import opened, write_record
from pipeline import embeddings, overlay, params
from pipeline.batch import Batch
from pipeline.distillation import DistilledStudent, StudentObjective, distillation_loss
from pipeline.embeddings import Embeddings
from pipeline.feature_dump import dump
from pipeline.features import Features
from pipeline.ingest import STORE, ingest
from pipeline.models import Problem, parameter_count
from pipeline.params import Ingest, Params, Runtime
from pipeline.store import Store
from pipeline.students import base as students
from pipeline.teachers import base as teachers
from pipeline.windows import WindowDataset

TEXT_WIDTH, TOKENS = 384, 120  # as MiniLM embeds the narrator's captions
CACHED, ONLINE, BASELINE = "s2kd, cached features", "s2kd, teacher online", "baseline"
CPU = Runtime(accelerator="cpu")


def settings_with(path: Path | None) -> Params:
    """params.yaml, with an overlay merged into a copy of it."""
    if path is None:
        return params.load()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copy(params.PARAMS_FILE, temporary))
        overlay.apply(path, copy)
        return params.load(copy)


def write_text(path: Path, windows: int) -> Embeddings:
    """Random embeddings, one caption a window."""
    texts, of_window = embeddings.distinct([str(window) for window in range(windows)])
    embeddings.create(path, np.full(windows, TOKENS), TEXT_WIDTH, of_window, {})
    rng = np.random.default_rng(0)

    def encode(batch: object) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(batch), TOKENS)  # type: ignore[arg-type]
        return rng.normal(size=(*shape, TEXT_WIDTH)).astype(np.float32), np.ones(shape, dtype=bool)

    for _ in embeddings.fill(path, texts, encode, 32):
        pass
    return Embeddings(path)


class Setup:
    """A store, its captions, a teacher and its features, in the working directory."""

    def __init__(self, settings: Params, rows: int, columns: int, windows: int = 20) -> None:
        self.settings = settings
        asked = settings.ingest
        span = (asked.t_in + asked.t_out) * asked.step
        write_record(Path("record.nc"), 9 * span + 3 * windows * asked.stride // 2, rows, columns)
        layout: dict[str, Any] = {"t_in": asked.t_in, "t_out": asked.t_out, "step": asked.step, "stride": asked.stride}
        Path("ingest").mkdir()
        ingest(opened(Path("record.nc")), Ingest(variables=("z500", "t850"), **layout), Path("ingest"))
        self.store = Store(Path("ingest") / STORE)
        self.text = write_text(Path("embeddings.zarr"), len(self.store.windows))
        teaching = settings.train_teacher
        torch.manual_seed(0)
        self.teacher = teachers.build(
            settings.teacher,
            Problem.of(self.store),
            teaching.sizes.get(settings.teacher, {}),
            TEXT_WIDTH,
            teaching.fusion_layers,
            teaching.fusion_heads,
        ).eval()
        self.statistics = self.store.description.statistics
        self.teacher.normaliser.set(self.statistics.mean, self.statistics.std)
        self.limit = 2 * settings.distill.batch_size  # windows that have features: at paper sizes each takes seconds
        sets = [WindowDataset(self.store, split, text=self.text, limit=self.limit) for split in ("train", "validation")]
        dump(self.teacher, sets[0], sets[1], Path("features.zarr"), settings.dump_features, CPU, {})
        self.features = Features(Path("features.zarr"))

    def stepper(self, method: str, batch_of: Callable[[list[int]], Batch]) -> Callable[[list[int]], None]:
        """One training step of a student of its own, on the windows at given positions."""
        name, settings = self.settings.students[0], self.settings
        loss = distillation_loss(method, settings.beta, settings.lambda_, settings.distill)
        features = self.features if loss.uses_features else None
        sizes = self.settings.distill.sizes.get(name, {})
        model = DistilledStudent(students.build(name, Problem.of(self.store), sizes), features, loss)
        model.student.normaliser.set(self.statistics.mean, self.statistics.std)
        objective = StudentObjective(self.statistics, loss, features, self.settings.distill.target_scale)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.settings.distill.learning_rate)

        def step(positions: list[int]) -> None:
            optimizer.zero_grad()
            objective(model, batch_of(positions)).total.backward()
            optimizer.step()

        return step

    def online(self, positions: list[int]) -> Batch:
        """A batch whose features the teacher computes now."""
        batch = WindowDataset.__getitems__(self.captioned, positions)
        assert batch.text is not None
        with torch.no_grad():
            return replace(batch, features=self.teacher(batch.inputs, batch.text).fused)

    @property
    def captioned(self) -> WindowDataset:
        return WindowDataset(self.store, "train", text=self.text, limit=self.limit)


class Clocks(NamedTuple):
    """Seconds of a step."""

    wall: float
    cpu: float


def measure(setup: Setup, repeats: int, ways: tuple[str, ...] = (CACHED, ONLINE, BASELINE)) -> dict[str, Clocks]:
    """Medians by way."""
    cached = WindowDataset(setup.store, "train", features=setup.features, limit=setup.limit)
    plain = WindowDataset(setup.store, "train", limit=setup.limit)
    batches = {CACHED: cached.__getitems__, ONLINE: setup.online, BASELINE: plain.__getitems__}
    steps = {way: setup.stepper("baseline" if way == BASELINE else "s2kd", batches[way]) for way in ways}
    seconds: dict[str, list[Clocks]] = {way: [] for way in ways}
    rng = np.random.default_rng(0)
    size = min(setup.settings.distill.batch_size, len(plain))
    for _ in range(repeats + 1):  # the first is a warm-up
        positions = rng.choice(len(plain), size, replace=False).tolist()
        for way, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(positions)
            seconds[way].append(Clocks(time.perf_counter() - wall, time.process_time() - cpu))
    return {way: Clocks(*map(statistics.median, zip(*times[1:], strict=True))) for way, times in seconds.items()}


def sized(settings: Params, frames: int | None, batch: int | None) -> Params:
    """With another number of frames in and out, and of windows in a batch, where they are given."""
    ingest = settings.ingest.model_copy(update={"t_in": frames, "t_out": frames} if frames else {})
    distill = settings.distill.model_copy(update={"batch_size": batch} if batch else {})
    return settings.model_copy(update={"ingest": ingest, "distill": distill})


def print_steps(setup: Setup, medians: dict[str, Clocks]) -> None:
    student = students.build(
        setup.settings.students[0], Problem.of(setup.store), setup.settings.distill.sizes.get("unet", {})
    )
    print(
        f"teacher {parameter_count(setup.teacher) / 1e6:.2f} M, student {parameter_count(student) / 1e6:.2f} M, "
        f"batches of {setup.settings.distill.batch_size}, {torch.get_num_threads()} threads"
    )
    for way, (wall, cpu) in medians.items():
        print(f"{way:22} {1e3 * wall:8.1f} ms a step, {1e3 * cpu:8.1f} ms of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, help="an overlay of experiments/; default: params.yaml as it is")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--frames", type=int, help="in and out of a window; default: as the settings have it")
    parser.add_argument("--batch", type=int, help="windows; default: as the settings have it")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--without-online", action="store_true", help="leave out the step with the teacher run online")
    options = parser.parse_args()
    settings = sized(settings_with(options.overlay), options.frames, options.batch)
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        setup = Setup(settings, options.rows, options.columns)
        ways = (CACHED, BASELINE) if options.without_online else (CACHED, ONLINE, BASELINE)
        medians = measure(setup, options.repeats, ways)
        print_steps(setup, medians)
    for way in ways[1:]:
        wall, cpu = (medians[CACHED][i] / medians[way][i] for i in range(2))
        print(f"ratio {CACHED} / {way}: {wall:.2f}, of CPU time {cpu:.2f}")


if __name__ == "__main__":
    main()
