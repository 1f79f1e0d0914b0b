"""Ingest against a plain copy and `xarray.Dataset.to_zarr` on the same record, chunks, shards and codecs.

    python -m benchmarks.ingest --frames 24000 --repeats 5

All read one NetCDF file and write the same arrays of a sharded Zarr v3 store:
    ingest      also checks every value, gathers the training statistics, keeps checkpoints, and writes the windows
    copy        netCDF4 to zarr-python, one shard after another on one thread, nothing else
    our copy    the same with ingest's own writer of shards, to tell its gain from that of the threads
    to_zarr     Dask's threads, zarr-python
Runs alternate; medians and ratios are printed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline import splits, store
from pipeline.datasets.base import combine, field, join, open_file
from pipeline.ingest import STORE, ingest
from pipeline.params import Ingest
from pipeline.shard_file import write_shard

FIELDS = ("z500", "t850")


def write_record(path: Path, frames: int, rows: int, columns: int) -> None:
    """Two smooth, noisy fields, as a chunked NetCDF-4 file without compression."""
    rng = np.random.default_rng(0)
    y, x = np.linspace(0, 3, rows)[:, None], np.linspace(0, 6, columns)
    time_axis = np.arange(frames)[:, None, None]
    wave = np.sin(x + y - 0.1 * time_axis)
    noise = rng.normal(0, 0.05, wave.shape)
    data = xr.Dataset(
        {
            name: (("time", "latitude", "longitude"), (mean + std * (wave + noise)).astype(np.float32), {"units": unit})
            for name, mean, std, unit in (("z500", 54000, 3000, "m2 s-2"), ("t850", 275, 15, "K"))
        },
        coords={
            "time": np.datetime64("2001-01-01", "ns") + np.arange(frames) * np.timedelta64(6, "h"),
            "latitude": ("latitude", np.linspace(-87, 87, rows), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(columns) * 360 / columns, {"units": "degrees_east"}),
        },
    )
    chunks = {name: {"chunksizes": (min(500, frames), rows, columns)} for name in FIELDS}
    data.to_netcdf(path, encoding=chunks)


def opened(path: Path) -> xr.Dataset:
    dataset = open_file(path)
    return combine([join(name, {path.name: field(dataset[name], {}, path)}) for name in FIELDS])


def with_ingest(path: Path, folder: Path, settings: Ingest) -> None:
    ingest(opened(path), settings, folder)


def with_copy(path: Path, folder: Path, settings: Ingest) -> None:
    def write(array: zarr.Array[Any], index: int, values: NDArray[np.float32]) -> None:
        rows = store.rows_per_shard(array)
        array[index * rows : index * rows + len(values)] = values

    copied(path, folder, settings, write)


def with_our_copy(path: Path, folder: Path, settings: Ingest) -> None:
    copied(path, folder, settings, lambda array, index, values: write_shard(array, folder / STORE, index, values))


def copied(path: Path, folder: Path, settings: Ingest, write: Callable[[Any, int, Any], None]) -> None:
    """Each field in order, shard by shard, in this thread."""
    group = zarr.create_group(folder / STORE, zarr_format=3)
    span = splits.span_of(settings.t_in + settings.t_out, settings.step)
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        for name in FIELDS:
            source = file[name]
            array = store.create_array(
                group, name, source.shape, "float32", source.dimensions, span, settings.shard_megabytes
            )
            rows = store.rows_per_shard(array)
            for index, start in enumerate(range(0, len(source), rows)):
                write(array, index, source[start : start + rows])


def with_to_zarr(path: Path, folder: Path, settings: Ingest) -> None:
    """The same layout; the Dask chunks are the shards, as to_zarr asks for."""
    data = opened(path)
    rows, columns = data.sizes["latitude"], data.sizes["longitude"]
    span = splits.span_of(settings.t_in + settings.t_out, settings.step)
    per_shard = max(1, int(settings.shard_megabytes * 1e6 // (4 * rows * columns * span))) * span
    encoding = {
        name: {
            "chunks": (span, rows, columns),
            "shards": (per_shard, rows, columns),
            "compressors": [ZstdCodec(level=3), Crc32cCodec()],
        }
        for name in data.data_vars
    }
    for variable in data.data_vars.values():
        variable.attrs.pop("source_files", None)
    data.chunk(time=per_shard).to_zarr(folder / STORE, zarr_format=3, encoding=encoding, consolidated=False)


def check_same(first: Path, second: Path) -> None:
    """Both hold the same shards, byte for byte."""
    for name in FIELDS:
        mine, theirs = (shards_of(folder / STORE / name) for folder in (first, second))
        if mine != theirs:
            raise SystemExit(f"{name} differs between {first.name} and {second.name}")


def shards_of(array: Path) -> dict[str, bytes]:
    return {str(file.relative_to(array)): file.read_bytes() for file in (array / "c").rglob("*") if file.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=24000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shard-megabytes", type=float, default=50)
    options = parser.parse_args()
    settings = Ingest(variables=("z500", "t850"), shard_megabytes=options.shard_megabytes)
    ways: dict[str, Callable[[Path, Path, Ingest], None]] = {
        "ingest": with_ingest,
        "copy": with_copy,
        "our copy": with_our_copy,
        "to_zarr": with_to_zarr,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_record(root / "record.nc", options.frames, options.rows, options.columns)
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for name, way in ways.items():
                folder = root / f"{name}-{repeat}"
                folder.mkdir()
                start = time.perf_counter()
                way(root / "record.nc", folder, settings)
                seconds[name].append(time.perf_counter() - start)
            for name in ways:
                check_same(root / f"ingest-{repeat}", root / f"{name}-{repeat}")
                if name != "ingest":
                    shutil.rmtree(root / f"{name}-{repeat}")
            shutil.rmtree(root / f"ingest-{repeat}")
    megabytes = options.frames * options.rows * options.columns * 8 / 1e6
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:6.2f} s  {megabytes / median:6.0f} MB/s  (median of {options.repeats})")
    for name in ("our copy", "copy", "to_zarr"):
        print(f"throughput of ingest / {name}: {medians[name] / medians['ingest']:.2f}")


if __name__ == "__main__":
    main()
