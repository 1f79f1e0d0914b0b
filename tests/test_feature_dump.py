from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch.multiprocessing import ProcessRaisedException

from pipeline import feature_dump
from pipeline.embeddings import Embeddings
from pipeline.errors import UserError
from pipeline.feature_dump import dump
from pipeline.features import Features, Forecasts
from pipeline.models import Problem
from pipeline.params import DumpFeatures, Runtime
from pipeline.shard_file import PARTIAL
from pipeline.store import Store
from pipeline.teachers.base import Teacher, build
from pipeline.windows import WindowDataset
from tests.core import TEXT_WIDTH, write_embeddings
from tests.helpers import make_store
from tests.teachers.test_simvp import SIZES

CPU = Runtime(accelerator="cpu")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    store = make_store(Path("store.zarr"), frames=70, shape=(4, 8))
    write_embeddings(Path("embeddings.zarr"), len(store.windows))
    return store


def teacher_for(store: Store) -> Teacher:
    torch.manual_seed(0)
    teacher = build("simvp", Problem.of(store), SIZES | {"drop_path": 0.5}, text_width=TEXT_WIDTH, layers=2, heads=2)
    teacher.normaliser.set(store.description.statistics.mean, store.description.statistics.std)
    return teacher


def datasets(store: Store) -> tuple[WindowDataset, WindowDataset]:
    text = Embeddings(Path("embeddings.zarr"))
    return WindowDataset(store, "train", text=text), WindowDataset(store, "validation", text=text)


def run(store: Store, path: Path, teacher: Teacher | None = None, runtime: Runtime = CPU, **settings: Any) -> Features:
    values = DumpFeatures.model_validate({"batch_size": 4, "shard_megabytes": 0.002} | settings)
    dump(teacher or teacher_for(store), *datasets(store), path, values, runtime, origin={"teacher": "simvp"})
    return Features(path)


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@torch.no_grad()
def direct(store: Store) -> np.ndarray:
    """Z_fused window by window, in eval mode."""
    teacher = teacher_for(store).eval()
    outputs = [
        teacher(item.inputs, item.text).fused
        for part in datasets(store)
        for item in map(part.__getitem__, range(len(part)))
    ]
    return torch.cat(outputs).numpy()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_features_are_those_of_a_direct_forward_of_both_splits(store: Store, dtype: str) -> None:
    features = run(store, Path("features.zarr"), dtype=dtype)
    expected = direct(store)
    numbers = np.concatenate([store.windows.of("train"), store.windows.of("validation")])
    assert features.values.dtype == dtype
    tolerance = 6e-4 if dtype == "float16" else 1e-5  # half a unit in the last place of values up to 1, or rounding
    np.testing.assert_allclose(features.of(numbers).astype(np.float32), expected, rtol=tolerance, atol=tolerance)
    assert features.grid == (2, 4)
    assert zarr.open_group("features.zarr", mode="r").attrs["teacher"] == "simvp"


def test_statistics_are_over_the_training_windows_alone(store: Store) -> None:
    features = run(store, Path("features.zarr"))
    train = features.of(store.windows.of("train")).astype(np.float64)
    np.testing.assert_allclose(features.mean, train.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(features.std, train.std(axis=0), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def direct_forecasts(store: Store) -> np.ndarray:
    """Forecasts as z-scores by the record's statistics, window by window."""
    teacher, statistics = teacher_for(store).eval(), store.description.statistics
    items = [item for part in datasets(store) for item in map(part.__getitem__, range(len(part)))]
    fields = torch.cat([teacher(item.inputs, item.text).forecast for item in items]).double().numpy()
    return np.asarray((fields - statistics.mean[:, None, None]) / statistics.std[:, None, None])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_forecasts_are_stored_beside_the_features_when_asked_for(store: Store, dtype: str) -> None:
    run(store, Path("plain.zarr"), dtype=dtype)
    run(store, Path("features.zarr"), dtype=dtype, forecasts=True)
    numbers = np.concatenate([store.windows.of("train"), store.windows.of("validation")])
    stored = Forecasts(Path("features.zarr")).of(numbers)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.astype(np.float64), direct_forecasts(store), rtol=1e-3, atol=1e-4)
    plain, beside = Features(Path("plain.zarr")), Features(Path("features.zarr"))
    assert np.array_equal(plain.of(numbers), beside.of(numbers))
    assert np.array_equal(plain.mean, beside.mean)
    with pytest.raises(UserError, match="holds no forecasts"):
        Forecasts(Path("plain.zarr"))


def test_without_forecasts_a_shard_is_as_large_as_it_was_asked_to_be(store: Store) -> None:
    run(store, Path("features.zarr"), shard_megabytes=0.002)
    row = 2 * 8 * 8  # float16, tokens, features
    array: Any = zarr.open_group("features.zarr", mode="r")["features"]
    assert array.shards[0] == 2000 // row


class KilledError(Exception):
    pass


def kill_after(teacher: Teacher, batches: int) -> list[int]:
    """Lets `teacher` forward that many batches; returns a list that counts them."""
    calls: list[int] = []

    def hook(*_: object) -> None:
        if len(calls) == batches:
            raise KilledError
        calls.append(1)

    teacher.register_forward_pre_hook(hook)
    return calls


@pytest.mark.parametrize("forecasts", [False, True])
def test_a_killed_dump_goes_on_at_its_shard_and_ends_in_the_same_bytes(store: Store, forecasts: bool) -> None:
    # both ways 15 windows are a shard: a window's forecast takes twice what its features take
    settings: dict[str, Any] = {
        "checked_windows": 1,
        "forecasts": forecasts,
        "shard_megabytes": 0.004 if forecasts else 0.002,
    }
    teacher = teacher_for(store)
    whole = kill_after(teacher, 10**6)
    run(store, Path("whole.zarr"), teacher, **settings)
    teacher = teacher_for(store)
    kill_after(teacher, 6)  # within the second shard of four
    with pytest.raises(KilledError):
        run(store, Path("killed.zarr"), teacher, **settings)
    half = Path(f"killed.zarr/features/c/1/0/0.1234{PARTIAL}")  # as `kill -9` leaves a shard
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half a shard")
    teacher = teacher_for(store)
    resumed = kill_after(teacher, 10**6)
    run(store, Path("killed.zarr"), teacher, **settings)
    assert content(Path("killed.zarr")) == content(Path("whole.zarr"))
    assert len(resumed) == len(whole) - 4  # the first shard's batches


def test_a_dump_killed_before_its_first_array_is_whole_can_begin_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(feature_dump, "create_array", killed)
        with pytest.raises(KilledError):
            run(store, Path("killed.zarr"))
    run(store, Path("killed.zarr"))
    run(store, Path("whole.zarr"))
    assert content(Path("killed.zarr")) == content(Path("whole.zarr"))


def test_a_finished_dump_is_left_as_it_is(store: Store) -> None:
    run(store, Path("features.zarr"))
    first = content(Path("features.zarr"))
    run(store, Path("features.zarr"))
    assert content(Path("features.zarr")) == first


@pytest.mark.parametrize("name", ["features", "forecast"])
@pytest.mark.parametrize("change", [0.05, -1.0])
def test_a_stored_value_that_differs_from_a_computed_one_stops_the_stage(
    store: Store, change: float, name: str
) -> None:
    run(store, Path("features.zarr"), forecasts=True)
    array: Any = zarr.open_group("features.zarr", mode="r+", use_consolidated=False)[name]
    last = array.shape[0] - 1  # among the checked ones
    array[last, 1, 1] = array[last, 1, 1] + np.float16(change)
    number = store.windows.of("validation")[-1]
    with pytest.raises(RuntimeError, match=f"stored {name} of window {number} differ by"):
        run(store, Path("features.zarr"), forecasts=True)


class Counter:
    """A hook that leaves a line for each forward pass in a file of its process, and breaks after some."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.calls = 0

    def __call__(self, *_: object) -> None:
        if self.calls == self.last:
            raise KilledError
        self.calls += 1
        with Path(f"calls-{os.getpid()}").open("a") as file:
            file.write("x")


@pytest.mark.slow
def test_two_processes_share_the_shards_and_end_in_the_bytes_of_one_even_if_killed(store: Store) -> None:
    settings: dict[str, Any] = {"checked_windows": 1, "forecasts": True, "shard_megabytes": 0.004}
    two = Runtime(accelerator="cpu", devices=2)
    teacher = teacher_for(store)
    whole = kill_after(teacher, 10**6)
    run(store, Path("whole.zarr"), teacher, **settings)
    for path, last in (("killed.zarr", 6), ("killed.zarr", 10**6), ("shared.zarr", 10**6)):
        for file in Path().glob("calls-*"):
            file.unlink()
        teacher = teacher_for(store)
        teacher.register_forward_pre_hook(Counter(last))
        if last == 6:  # within the second of two shards that are a process's
            with pytest.raises(ProcessRaisedException, match="KilledError"):
                run(store, Path(path), teacher, two, **settings)
        else:
            run(store, Path(path), teacher, two, **settings)
    batches = [len(file.read_text()) for file in Path().glob("calls-*")]
    assert len(batches) == 2
    assert sum(batches) == len(whole)  # each shard once, and the window that the first process checks
    assert content(Path("shared.zarr")) == content(Path("killed.zarr")) == content(Path("whole.zarr"))


def test_a_broken_writer_stops_the_dump(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(feature_dump, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        run(store, Path("features.zarr"))


def test_memory_that_runs_out_names_the_batch_to_make_smaller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr(Teacher, "forward", too_large)
    with pytest.raises(
        UserError, match=r"features: out of memory .* Lower dump_features.batch_size = 4. Finished shards"
    ):
        run(store, Path("features.zarr"))
