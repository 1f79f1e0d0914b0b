"""Shard files against those of zarr-python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from pipeline import store
from pipeline.shard_file import PARTIAL, remove_partial, write_shard

DIMS = ("time", "y", "x")


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("frames", [5, 12, 24, 29, 41, 47])  # a part of a chunk, a shard, a shard and parts of one
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_shards_are_the_bytes_that_zarr_writes(tmp_path: Path, frames: int, dtype: str) -> None:
    values = np.random.default_rng(frames).normal(0, 1000, (frames, 6, 7)).astype(dtype)
    arrays = []
    for name in ("zarr", "ours"):
        group = zarr.create_group(tmp_path / name, zarr_format=3)
        row_bytes = 6 * 7 * values.itemsize
        arrays.append(store.create_array(group, "t", values.shape, dtype, DIMS, 4, 12.5 * row_bytes / 1e6))
    rows = store.rows_per_shard(arrays[0])
    assert rows == min(12, -(-frames // 4) * 4)
    for index, start in enumerate(range(0, frames, rows)):
        part = values[start : start + rows]
        arrays[0][start : start + rows] = part
        write_shard(arrays[1], tmp_path / "ours", index, part)
    assert files(tmp_path / "ours") == files(tmp_path / "zarr")


def test_missing_values_strided_views_and_zeros_are_written_as_they_are(tmp_path: Path) -> None:
    values = np.zeros((8, 6, 4), np.float32).transpose(0, 2, 1)
    values[2, 1, 1], values[3, 2, 2], values[4, 0, 0] = np.nan, -np.inf, -0.0
    group = zarr.create_group(tmp_path / "s", zarr_format=3)
    array = store.create_array(group, "t", values.shape, "float32", DIMS, 4)
    write_shard(array, tmp_path / "s", 0, values)
    assert np.asarray(array[:]).tobytes() == values.tobytes()


def test_an_array_of_another_codec_is_not_written(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s", zarr_format=3)
    array = group.create_array("t", shape=(8,), dtype="float32", chunks=(4,), shards=(8,), compressors=[BloscCodec()])
    with pytest.raises(ValueError, match="not by zstd with crc32c"):
        write_shard(array, tmp_path / "s", 0, np.zeros(8, np.float32))


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "t" / "c" / "0").mkdir(parents=True)
    (tmp_path / "t" / "c" / "0" / "0").write_bytes(b"whole")
    (tmp_path / "t" / "c" / "0" / f"1.1234{PARTIAL}").write_bytes(b"ha")
    remove_partial(tmp_path)
    assert files(tmp_path) == {"t/c/0/0": b"whole"}
