"""WeatherBench 2 (Rasp et al. 2024, J. Adv. Model. Earth Syst. 16): ERA5 as public Zarr stores.

Variables are named as WeatherBench 1's, `geopotential_500` or `2m_temperature`, and short in the store, `z500`, `t2m`.
Of a store, only the chosen variables, levels and years are read, in blocks of time that hold whole chunks of it,
several at a time. What is fetched is one local Zarr store, an array (time, latitude, longitude) for each variable.
"""

from __future__ import annotations

import itertools
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline import transfer
from pipeline.datasets import weatherbench
from pipeline.datasets.base import CHUNK_BYTES, DataSource, combine, field, join, open_file
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.work import Work

SOURCE = "gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"
PUBLIC = "gs://weatherbench2/"
ANONYMOUS = {"token": "anon"}
RECORD = "record.zarr"

VARIABLES = {  # name, without a level -> short name, CF standard name
    **weatherbench.VARIABLES,
    "vertical_velocity": ("w", "lagrangian_tendency_of_air_pressure"),
    "wind_speed": ("ws", "wind_speed"),
    "10m_wind_speed": ("ws10", "wind_speed"),
    "mean_sea_level_pressure": ("msl", "air_pressure_at_mean_sea_level"),
    "surface_pressure": ("sp", "surface_air_pressure"),
    "sea_surface_temperature": ("sst", "sea_surface_temperature"),
    "total_column_water_vapour": ("tcwv", "atmosphere_mass_content_of_water_vapor"),
    "total_precipitation_6hr": ("tp6h", "lwe_thickness_of_precipitation_amount"),
    "total_precipitation_24hr": ("tp24h", "lwe_thickness_of_precipitation_amount"),
}
LEVELS = ("level", "pressure_level", "isobaricInhPa")

AT_ONCE = 4  # blocks that are read at a time
DECODED_BYTES = 128e6  # of the source's chunks in memory
MOST_REQUESTS = 64  # under way


class Block(NamedTuple):
    name: str
    start: int  # frame
    stop: int


class WeatherBench2(DataSource):
    """A Zarr store in WeatherBench 2's layout, at any resolution; without fetch.source the public 64x32 one."""

    description: ClassVar[str] = "Weather on the globe: ERA5 reanalysis regridded by WeatherBench 2."

    def fetch(self, folder: Path) -> None:
        """Reads the chosen variables, levels and years; a killed run goes on with the next block."""
        address = self.settings.source or SOURCE
        label = transfer.shown(address)
        source = _opened(address, self.settings.storage)
        fields = {name: self._chosen(source, name, label) for name in self.ingest.variables}
        identity = {name: [data.shape, str(data["time"].values[[0, -1]])] for name, data in fields.items()}
        with Work("fetch", params=[label, self.settings.years, identity], code=[__name__]) as work:
            if not work.has(RECORD):
                with work.part(RECORD) as path:
                    _create(fields, path)
            with transfer.named(address):
                _fill(work, fields, source)
            shutil.move(work.path(RECORD), folder / RECORD)

    def open(self, folder: Path) -> xr.Dataset:
        """The chosen variables under their short names; raises UserError, naming what was not fetched."""
        path = folder / RECORD
        if not path.is_dir():
            raise UserError(f"{path} is missing; run the stage fetch first")
        record = open_file(path)
        return combine([self._field(record, name, path) for name in self.ingest.variables])

    def _field(self, record: xr.Dataset, name: str, path: Path) -> xr.DataArray:
        if name not in record:
            fetched = ", ".join(map(str, record.data_vars))
            raise UserError(f"{path} has no '{name}'; fetched were {fetched}: run the stage fetch again")
        stem, level = _parsed(name)
        key, standard_name = VARIABLES.get(stem, (stem, ""))
        words = stem.replace("_", " ")
        data = join(key if level is None else f"{key}{level}", {RECORD: field(record[name], {}, path)})
        long_name = words if level is None else f"{words} at {level} hPa"
        return data.assign_attrs(long_name=long_name, standard_name=standard_name)

    def _chosen(self, source: xr.Dataset, name: str, label: str) -> xr.DataArray:
        """One variable on one level for the chosen years, lazily, as (time, latitude, longitude) float32."""
        data = _on_level(source, name, label)
        if data.dtype.kind not in "fiu":
            raise UserError(f"{label}: '{name}' has the dtype {data.dtype}; numbers are expected")
        data = field(data, self.ingest.dimensions, Path(label.rpartition("/")[2]))
        if "latitude" not in data.dims:
            raise UserError(f"{label}: '{name}' lies on {data.dims}; needed are time, latitude and longitude")
        data = data.transpose("time", "latitude", "longitude").rename(name)
        return _of_years(data, self.settings.years, label)


def _opened(address: str, storage: Mapping[str, Any]) -> xr.Dataset:
    if address.startswith(PUBLIC):
        storage = {**ANONYMOUS, **storage}
    dataset: xr.Dataset = transfer.zarr_opened(address, storage)
    return dataset


def _parsed(name: str) -> tuple[str, int | None]:
    """`geopotential_500` -> geopotential, 500."""
    stem, _, level = name.rpartition("_")
    return (stem, int(level)) if stem and level.isdigit() else (name, None)


def _on_level(source: xr.Dataset, name: str, label: str) -> xr.DataArray:
    stem, level = (name, None) if name in source.data_vars else _parsed(name)
    if stem not in source.data_vars:
        known = ", ".join(map(str, source.data_vars)) or "no variable"
        raise UserError(f"ingest.variables: {label} has no '{name}'; it holds, with or without _LEVEL: {known}")
    data = source[stem]
    dim = next((dim for dim in LEVELS if dim in data.dims), None)
    if dim is None and level is None:
        return data
    levels = [] if dim is None else [int(value) for value in data[dim].values]
    if level not in levels:
        has = f"the levels {', '.join(map(str, levels))} hPa" if levels else "no levels"
        raise UserError(f"ingest.variables: '{name}' names no level of {label}; '{stem}' there has {has}")
    return data.isel({dim: levels.index(level)})


def _of_years(data: xr.DataArray, years: tuple[int, int] | None, label: str) -> xr.DataArray:
    if years is None:
        return data
    there = data["time"].dt.year.values
    missing = set(range(years[0], years[1] + 1)) - set(there.tolist())
    if missing:
        holds = weatherbench.spans(set(there.tolist()))
        raise UserError(f"fetch.years: {label} has nothing of {weatherbench.spans(missing)}; it holds {holds}")
    frames = np.flatnonzero((there >= years[0]) & (there <= years[1]))
    if frames[-1] - frames[0] + 1 != len(frames):
        raise UserError(f"{label}: the time stamps do not ascend, so that years cannot be chosen")
    return data.isel(time=slice(int(frames[0]), int(frames[-1]) + 1))


# ---- reading and writing


def _create(fields: Mapping[str, xr.DataArray], path: Path) -> None:
    """A local store with coordinates and without values, in chunks of whole maps."""
    kept = {name: data.drop_encoding() for name, data in fields.items()}
    for data in kept.values():
        data.attrs = {key: value for key, value in data.attrs.items() if key in ("units", "long_name")}
    first = next(iter(kept.values()))
    rows = max(1, min(first.sizes["time"], int(CHUNK_BYTES // (first.nbytes // first.sizes["time"]))))
    encoding = {name: {"chunks": (rows, *data.shape[1:])} for name, data in kept.items()}
    dataset = xr.Dataset(kept).drop_encoding()
    dataset.to_zarr(path, compute=False, consolidated=False, encoding=encoding, safe_chunks=False)


def _fill(work: Work, fields: Mapping[str, xr.DataArray], source: xr.Dataset) -> None:
    """Writes block after block into the side folder's store, and marks each that is done."""
    import zarr

    record = zarr.open_group(work.path(RECORD), mode="r+", use_consolidated=False)
    blocks = [block for name, data in fields.items() for block in _blocks(name, data)]
    left = [block for block in blocks if not work.has(_mark(block))]
    frames = sum(block.stop - block.start for block in blocks)
    done = frames - sum(block.stop - block.start for block in left)
    with zarr.config.set({"async.concurrency": _requests(source)}):
        for _ in progress(_written(left, fields, record, work), "read", frames, "frame", done):
            pass


def _written(blocks: Sequence[Block], fields: Mapping[str, xr.DataArray], record: Any, work: Work) -> Iterator[None]:
    """Yields for each frame. One thread writes: blocks may share a chunk of the local store."""
    for block, values in _read_ahead(blocks, fields):
        record[block.name][block.start : block.stop] = values
        with work.part(_mark(block)) as mark:
            mark.touch()
        yield from itertools.repeat(None, len(values))


def _read_ahead(
    blocks: Sequence[Block], fields: Mapping[str, xr.DataArray]
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    reading: deque[tuple[Block, Future[NDArray[np.float32]]]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for block in blocks:
            reading.append((block, pool.submit(_read, block, fields)))
            if len(reading) >= AT_ONCE:
                first, values = reading.popleft()
                yield first, values.result()
        for first, values in reading:
            yield first, values.result()


def _read(block: Block, fields: Mapping[str, xr.DataArray]) -> NDArray[np.float32]:
    data = fields[block.name].isel(time=slice(block.start, block.stop)).data
    label = f"{block.name}, frames {block.start} to {block.stop - 1},"
    try:
        return np.asarray(transfer.persistently(lambda: data.compute(scheduler="synchronous"), label))
    except RuntimeError as error:  # of codecs
        raise ValueError(f"{label} cannot be decoded: {error}") from None


def _blocks(name: str, data: xr.DataArray) -> list[Block]:
    """The Dask chunks along time, which hold whole chunks of the source but at the ends of the chosen years."""
    stops = list(itertools.accumulate(data.chunksizes["time"]))
    return [Block(name, start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _mark(block: Block) -> str:
    return f"done-{block.name}-{block.start}"


def _requests(source: xr.Dataset) -> int:
    """How many chunks one block reads at a time, so that all blocks' fit into memory and a server is kept busy."""
    sizes = [
        float(np.prod(data.encoding.get("chunks") or data.shape) * data.dtype.itemsize)
        for data in source.data_vars.values()
    ]
    at_once = min(MOST_REQUESTS, DECODED_BYTES / max(1.0, *sizes))
    return max(1, int(at_once / AT_ONCE))
