from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pipeline import paths
from pipeline.mapped import map_array, mapped, release
from pipeline.store import create_array
from pipeline.windows import map_fields
from tests.helpers import make_store

VALUES = np.arange(60, dtype=np.float32).reshape(10, 2, 3)


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(
    path: Path, values: NDArray[np.float32], megabytes: float = 50
) -> zarr.Array[zarr.core.metadata.ArrayV3Metadata]:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = create_array(group, "values", values.shape, "float32", ["a", "b", "c"], 1, megabytes)
    array[:] = values
    return array


@pytest.mark.parametrize("megabytes", [50, 7e-5])  # one shard, or shards of two and three rows
def test_a_copy_equals_the_array_and_cannot_be_written(megabytes: float) -> None:
    array = write(Path("store"), VALUES, megabytes)
    copy = map_array("values", Path("store"), array)
    assert np.array_equal(copy, VALUES)
    assert copy.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 0


def test_it_is_made_once_and_again_when_the_source_changes() -> None:
    array = write(Path("store"), VALUES)
    asked: list[int] = []

    def parts() -> Iterator[tuple[int, NDArray[np.float32]]]:
        asked.append(len(asked))
        yield 0, np.asarray(array[:])

    for _ in range(3):
        mapped("values", Path("store"), VALUES.shape, "float32", parts)
    assert asked == [0]
    array[3] = -1
    again = mapped("values", Path("store"), VALUES.shape, "float32", parts)
    assert asked == [0, 1]
    assert (again[3] == -1).all()
    assert len(list((paths.WORK / "mapped").iterdir())) == 1  # the outdated copy is gone


def test_a_copy_that_could_not_be_finished_is_not_taken_for_whole() -> None:
    write(Path("store"), VALUES)

    def broken() -> Iterator[tuple[int, NDArray[np.float32]]]:
        yield 0, VALUES[:5]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        mapped("values", Path("store"), VALUES.shape, "float32", broken)
    whole = mapped("values", Path("store"), VALUES.shape, "float32", lambda: iter([(0, VALUES)]))
    assert np.array_equal(whole, VALUES)
    assert len(list((paths.WORK / "mapped").iterdir())) == 1


def test_fields_are_those_of_the_store_and_follow_it_when_it_is_written_again() -> None:
    first = make_store(Path("store.zarr"), frames=60)
    before = np.array(map_fields(first))
    assert np.array_equal(before, first.frames(0, 60))
    Path("store.zarr").rename("old.zarr")
    second = make_store(Path("store.zarr"), frames=60, seed=5)
    assert np.array_equal(map_fields(second), second.frames(0, 60))
    assert not np.array_equal(map_fields(second), before)


def test_it_is_pickled_as_the_name_of_its_file() -> None:
    values = np.arange(100_000, dtype=np.float32).reshape(1000, 100)
    write(Path("store"), VALUES)
    copy = mapped("values", Path("store"), values.shape, "float32", whole(values))
    pickled = pickle.dumps(copy)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert np.array_equal(again, values)
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0


@pytest.mark.parametrize("part", [slice(3, 5), (slice(None), slice(2, None, 3)), slice(None, None, -1)])
def test_a_part_of_it_is_pickled_as_that_part(part: Any) -> None:
    write(Path("store"), VALUES)
    copy = mapped("values", Path("store"), VALUES.shape, "float32", whole(VALUES))[part]
    assert np.array_equal(pickle.loads(pickle.dumps(copy)), VALUES[part])


def whole(values: NDArray[np.float32]) -> Any:
    return lambda: iter([(0, values)])


def mapped_memory(path: Path) -> int:
    """kB of a file that this process holds mapped and has touched."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1]) for at in lines if path.name in at
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is mapped is read from /proc")
def test_released_pages_do_not_count_and_are_there_when_they_are_read_again() -> None:
    values = np.random.default_rng(0).normal(size=(64, 128, 128)).astype(np.float32)
    copy = map_array("values", Path("store"), write(Path("store"), values))
    (file,) = (paths.WORK / "mapped").iterdir()
    assert np.array_equal(copy, values)
    assert mapped_memory(file) > 0.9 * values.nbytes / 1024
    release(copy)
    assert mapped_memory(file) == 0
    assert np.array_equal(copy, values)
    release(values)  # nothing to do
