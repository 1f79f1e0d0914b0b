"""Ingest against `xarray.Dataset.to_zarr` on the same record, chunks, shards and codecs.

    python -m benchmarks.ingest --frames 6000 --repeats 5

Both read one NetCDF file through Dask and write a sharded Zarr v3 store. Ingest also checks every value, gathers
the training statistics and keeps a checkpoint after each shard. Runs alternate; medians and their ratio are
printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline import splits, store
from pipeline.datasets.base import combine, field, join, open_file
from pipeline.ingest import STORE, ingest
from pipeline.params import Ingest


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
    chunks = {name: {"chunksizes": (min(500, frames), rows, columns)} for name in ("z500", "t850")}
    data.to_netcdf(path, encoding=chunks)


def opened(path: Path) -> xr.Dataset:
    dataset = open_file(path)
    return combine([join(name, {path.name: field(dataset[name], {}, path)}) for name in ("z500", "t850")])


def with_ingest(path: Path, folder: Path, settings: Ingest) -> None:
    ingest(opened(path), settings, folder)


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
    """Both hold the same values in the same chunks and shards."""
    for name in ("z500", "t850"):
        mine, theirs = (store.array(store.open_group(path / STORE), name) for path in (first, second))
        if (mine.chunks, mine.shards) != (theirs.chunks, theirs.shards) or not np.array_equal(mine[:50], theirs[:50]):
            raise SystemExit(f"{name}: {mine.chunks}, {mine.shards} against {theirs.chunks}, {theirs.shards}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shard-megabytes", type=float, default=10)
    options = parser.parse_args()
    settings = Ingest(variables=("z500", "t850"), shard_megabytes=options.shard_megabytes)
    ways: dict[str, Callable[[Path, Path, Ingest], None]] = {"ingest": with_ingest, "to_zarr": with_to_zarr}
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
            check_same(root / f"ingest-{repeat}", root / f"to_zarr-{repeat}")
    megabytes = options.frames * options.rows * options.columns * 8 / 1e6
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:6.2f} s  {megabytes / median:6.0f} MB/s  (median of {options.repeats})")
    print(f"ratio ingest / to_zarr: {medians['ingest'] / medians['to_zarr']:.2f}")


if __name__ == "__main__":
    main()
