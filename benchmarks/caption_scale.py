"""Captioning a long record: how memory grows with the number of windows, and how soon a resumed run asks again.

    python -m benchmarks.caption_scale --windows 50000

The engine is a stand-in that answers at once, several requests in flight, in another order than asked; reading the
record, drawing nothing, the log of answers and the table are real. A run of each length goes in a process of its
own: peak memory and captions a second. Then the longest run is repeated with its last window's answer missing and
all others in the log: seconds from the start of `Captioning.write` to the first request, and to the table.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.ingest import opened, write_record
from pipeline.answers import Answers
from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.multimodal import Multimodal
from pipeline.captioning import Captioning
from pipeline.ingest import STORE, ingest
from pipeline.params import Caption as CaptionParams
from pipeline.params import Ingest
from pipeline.store import Store

IN_FLIGHT = 64


class StandIn(Multimodal):
    """Knows prompts and pictures as a model's captioner does, and answers at once with a caption of usual length."""

    model = "stand-in"
    first_asked = 0.0

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        waiting: list[CaptionRequest] = []
        for request in requests:
            self.first_asked = self.first_asked or time.perf_counter()
            waiting.append(request)
            if len(waiting) == IN_FLIGHT:
                yield from (answer(waiting.pop()) for _ in range(IN_FLIGHT))
        yield from map(answer, waiting)


def answer(request: CaptionRequest) -> Caption:
    values = (f"{value:.1f} at row {row}" for row, value in enumerate(request.inputs[-1, 0, ::2, 0]))
    return Caption(request.window, f"Window {request.window}: " + ", then ".join(values) + ".")


def one_run(store: Path, log: Path) -> dict[str, float]:
    """Seconds to the first request and in all, and the process's peak memory in MB."""
    captioner = StandIn(CaptionParams(), seed=0)
    start = time.perf_counter()
    with Answers(log) as answers:
        Captioning(captioner, "stand-in", answers).write(Path("captions.parquet"), Store(store))
    end = time.perf_counter()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # getrusage counts the parent's
    return {"asked": captioner.first_asked - start, "whole": end - start, "megabytes": int(peak) / 1e3}


def in_a_process(store: Path, log: Path) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: Any = pool.apply(one_run, (store, log))
    return dict(result)


def record(windows: int) -> tuple[Path, int]:
    """A store of about so many windows, and their exact number."""
    folder = Path(f"{windows}")
    folder.mkdir()
    write_record(folder / "record.nc", windows + 25, rows=32, columns=64)
    settings = Ingest(variables=("z500", "t850"), t_in=4, t_out=4, step=1, stride=1)
    ingest(opened(folder / "record.nc"), settings, folder)
    (folder / "record.nc").unlink()
    return folder / STORE, len(Store(folder / STORE).windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        for size in (options.windows // 25, options.windows // 5, options.windows):
            store, count = record(size)
            log = store.parent / "answers.sqlite"
            figures = in_a_process(store, log)
            print(
                f"{count:6} windows: {figures['megabytes']:5.0f} MB at most, {count / figures['whole']:.0f} captions/s"
            )
        for _ in range(options.repeats):
            with contextlib.closing(sqlite3.connect(log)) as database, database:
                database.execute("DELETE FROM answer WHERE text LIKE ?", (f"Window {count - 1}:%",))
            figures = in_a_process(store, log)
            print(f"{count - 1} answered: asks after {figures['asked']:.1f} s, done after {figures['whole']:.1f} s")


if __name__ == "__main__":
    main()
