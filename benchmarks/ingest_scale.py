"""How the cost of ingest grows with the record, and the memory it takes.

    python -m benchmarks.ingest_scale --units 1 2 5 10 20 50 100
    python -m benchmarks.ingest_scale --units 100 --megabytes 200 --limit 1000      # 20 GB within 1 GB

A unit is one NetCDF file of two fields on 32 x 64. A record of n units is that file opened n times, with time stamps
that follow one another: every byte is read through HDF5, decoded, checked, compressed and written, but the raw files
need the disk once. Each record is ingested in a process of its own; its peak memory is the kernel's own count of
that process. `--limit` is a hard limit on the memory that the process may take for data (RLIMIT_DATA): beyond it an
allocation fails and so does the run.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.ingest import FIELDS, write_record
from pipeline.datasets.base import combine, field, join, open_file
from pipeline.ingest import STORE, ingest
from pipeline.params import Ingest

ROWS, COLUMNS = 32, 64
START = np.datetime64("1950-01-01", "ns")


def opened(files: Sequence[Path]) -> xr.Dataset:
    """The records of the files, all of one length, one after another."""
    with open_file(files[0]) as dataset:
        hours = np.arange(dataset.sizes["time"])
    fields = []
    for name in FIELDS:
        pieces = {}
        for unit, file in enumerate(files):
            piece = field(open_file(file)[name], {}, file)
            times = START + (unit * len(hours) + hours) * np.timedelta64(1, "h")
            pieces[f"{unit:04}"] = piece.assign_coords(time=times)
        fields.append(join(name, pieces))
    return combine(fields)


def measured(
    files: Sequence[Path], folder: Path, limit: int | None = None, shard_megabytes: float = 50
) -> tuple[float, float, float]:
    """Seconds, the seconds among them before the first shard, and the peak of resident memory in MB."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit * 1_000_000, limit * 1_000_000))
    start = time.perf_counter()
    raw = opened(files)
    ready = time.perf_counter() - start
    ingest(raw, Ingest(variables=FIELDS, shard_megabytes=shard_megabytes), folder)
    return time.perf_counter() - start, ready, peak_memory()


def peak_memory() -> float:
    """MB of resident memory at most since this program began; getrusage would count the one that started it too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--megabytes", type=float, default=50, help="of one unit, uncompressed")
    parser.add_argument("--limit", type=int, help="of memory for data, in MB")
    options = parser.parse_args()
    frames = round(options.megabytes * 1e6 / (4 * len(FIELDS) * ROWS * COLUMNS))
    print("units     record   seconds  of which opening  s a unit   MB/s  peak memory")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "record.nc"
        write_record(path, frames, ROWS, COLUMNS)
        for units in options.units:
            folder = Path(temporary) / f"{units}"
            folder.mkdir()
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                seconds, opening, peak = process.submit(measured, [path] * units, folder, options.limit).result()
            megabytes = units * frames * 4 * len(FIELDS) * ROWS * COLUMNS / 1e6
            shutil.rmtree(folder / STORE)
            print(
                f"{units:5}  {megabytes:6.0f} MB  {seconds:8.2f}  {opening:16.2f}  {seconds / units:8.3f}  "
                f"{megabytes / seconds:5.0f}  {peak:8.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
