from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.errors import UserError
from pipeline.features import Forecasts
from pipeline.store import SPLITS, Split, Store
from pipeline.windows import WindowDataset, WindowLoader, loader, shown, shuffled_loader
from tests.core import features_of, forecast_of, tokens_of, write_embeddings, write_features
from tests.helpers import make_store


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check_fields(store: Store, batch: Batch) -> None:
    """Against frames read one by one, variable by variable, from the Zarr arrays."""
    for row, window in enumerate(batch.windows.tolist()):
        for frames, values in (
            (store.windows.input_frames(window), batch.inputs[row]),
            (store.windows.target_frames(window), batch.targets[row]),
        ):
            assert len(frames) == len(values)
            for frame, fields in zip(frames, values, strict=True):
                for name, field in zip(("z500", "t850"), fields, strict=True):
                    assert np.array_equal(field.numpy(), store.array(name)[int(frame)])


@pytest.mark.parametrize("layout", [{}, {"t_in": 3, "t_out": 1, "step": 2, "stride": 3}, {"t_in": 1, "t_out": 4}])
@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_holds_the_frames_of_its_windows(split: Split, layout: Any) -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8), **layout)
    dataset = WindowDataset(store, split)
    assert dataset.numbers.tolist() == store.windows.of(split).tolist()
    batches = list(loader(dataset, 4))
    assert torch.cat([batch.windows for batch in batches]).tolist() == dataset.numbers.tolist()
    for batch in batches:
        check_fields(store, batch)
        assert batch.inputs.dtype == torch.float32
        assert (batch.text, batch.features, batch.forecasts) == (None, None, None)


def test_an_item_is_a_batch_of_one_window() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    item = WindowDataset(store, "validation")[2]
    assert item.windows.tolist() == [store.windows.of("validation")[2]]
    check_fields(store, item)


def test_forecasts_land_with_their_window_however_it_is_shuffled() -> None:
    store, shape = make_store(Path("store.zarr"), shape=(4, 8)), (2, 2, 4, 8)
    write_features(Path("features.zarr"), store.windows.of("train"), forecast=shape)
    dataset = WindowDataset(store, "train", forecasts=Forecasts(Path("features.zarr")))
    for batch in shuffled_loader(dataset, 7, seed=3, rank=0, ranks=1):
        assert batch.forecasts is not None
        assert batch.forecasts.dtype == torch.float32
        assert batch.features is None
        for row, window in enumerate(batch.windows.tolist()):
            assert np.array_equal(batch.forecasts[row].numpy(), forecast_of(window, shape).astype(np.float32))


def test_text_and_features_land_with_their_window_however_it_is_shuffled() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    text = write_embeddings(Path("embeddings.zarr"), len(store.windows))
    features = write_features(Path("features.zarr"), store.windows.of("train"))
    dataset = WindowDataset(store, "train", text=text, features=features)
    order = []
    for batch in shuffled_loader(dataset, 7, seed=3, rank=0, ranks=1):
        assert batch.text is not None
        assert batch.features is not None
        check_fields(store, batch)
        for row, window in enumerate(batch.windows.tolist()):
            mask = batch.text.mask[row].numpy()
            assert np.array_equal(batch.text.tokens[row].numpy()[mask], tokens_of(window).astype(np.float32))
            assert np.array_equal(batch.features[row].numpy(), features_of(window, (2, 4), 6).astype(np.float32))
            order.append(window)
    assert order != sorted(order)
    assert sorted(order) == dataset.numbers.tolist()


@pytest.mark.parametrize("limit", [1, 2, 7, 20])
def test_a_limit_takes_evenly_spaced_windows_from_end_to_end(limit: int) -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    every = store.windows.of("train")
    numbers = WindowDataset(store, "train", limit=limit).numbers
    assert len(set(numbers.tolist())) == limit
    assert set(numbers.tolist()) <= set(every.tolist())
    if limit > 1:
        assert (numbers[0], numbers[-1]) == (every[0], every[-1])
        assert np.ptp(np.diff(numbers)) <= 1


@pytest.mark.parametrize("limit", [None, 10_000])
def test_without_a_limit_or_with_a_large_one_all_windows_are_there(limit: int | None) -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    assert np.array_equal(WindowDataset(store, "train", limit=limit).numbers, store.windows.of("train"))


def test_a_taught_student_is_shown_every_window_once_and_as_many_with_targets() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    every, own = store.windows.of("train"), WindowDataset(store, "train", limit=7).numbers
    numbers, labelled = shown(every, 7, taught=True)
    assert np.array_equal(np.unique(numbers), every)
    assert np.array_equal(labelled[: len(every)], np.isin(every, own))
    assert labelled[len(every) :].all()
    times = np.unique(numbers[len(every) :], return_counts=True)
    assert np.array_equal(times[0], own)
    assert np.ptp(times[1]) <= 1
    assert sum(times[1]) == len(every)


def test_a_student_without_a_teacher_is_shown_windows_with_targets_alone_in_as_many_steps() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    dataset = WindowDataset(store, "train", targets=7)
    assert len(dataset) == 2 * len(store.windows.of("train"))
    assert np.array_equal(np.unique(dataset.numbers), WindowDataset(store, "train", limit=7).numbers)
    assert dataset.labelled is not None
    assert dataset.labelled.all()


def test_more_targets_than_windows_are_refused() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    with pytest.raises(UserError, match=r"distill.target_windows = 9, but there are 8 training windows"):
        WindowDataset(store, "train", limit=8, targets=9)


def order_of(dataset: WindowDataset, seed: int, epoch: int, rank: int = 0, ranks: int = 1) -> list[int]:
    batches = shuffled_loader(dataset, 5, seed, rank, ranks)
    batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [window for batch in batches for window in batch.windows.tolist()]


def test_the_order_is_drawn_from_seed_and_epoch_alone() -> None:
    dataset = WindowDataset(make_store(Path("store.zarr"), shape=(4, 8)), "train")
    first = order_of(dataset, seed=1, epoch=2)
    torch.manual_seed(99)
    torch.rand(10)
    assert order_of(dataset, seed=1, epoch=2) == first
    assert order_of(dataset, seed=1, epoch=3) != first
    assert order_of(dataset, seed=2, epoch=2) != first


def test_ranks_share_the_windows_between_them() -> None:
    dataset = WindowDataset(make_store(Path("store.zarr"), shape=(4, 8)), "train", limit=20)
    shares = [order_of(dataset, seed=1, epoch=0, rank=rank, ranks=2) for rank in range(2)]
    assert [len(share) for share in shares] == [10, 10]
    assert sorted(shares[0] + shares[1]) == dataset.numbers.tolist()


def tensors_of(batch: Batch) -> list[Tensor]:
    assert batch.text is not None
    assert batch.features is not None
    return [batch.windows, batch.inputs, batch.targets, batch.text.tokens, batch.text.mask, batch.features]


def complete_dataset() -> WindowDataset:
    """With text and features, which worker processes need too."""
    store = make_store(Path("store.zarr"), frames=200, shape=(32, 64), t_in=4, t_out=4)
    text = write_embeddings(Path("embeddings.zarr"), len(store.windows))
    features = write_features(Path("features.zarr"), store.windows.of("train"))
    return WindowDataset(store, "train", text=text, features=features)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_batches_and_share_one_copy_of_the_record(method: str) -> None:
    dataset = complete_dataset()
    alone, helped = (shuffled_loader(dataset, 7, seed=3, rank=0, ranks=1, workers=workers) for workers in (0, 2))
    helped.multiprocessing_context = method
    for number, (mine, theirs) in enumerate(zip(alone, helped, strict=True), start=1):
        for first, second in zip(tensors_of(mine), tensors_of(theirs), strict=True):
            assert torch.equal(first, second)
        if number == len(alone):  # the workers are still there, and have read all over the record
            maps = maps_of(dataset.fields)
    assert len(maps) == 3
    assert min(each.rss for each in maps) > 0.5 * dataset.fields.nbytes  # the training part is 0.7
    assert sum(each.pss for each in maps) <= dataset.fields.nbytes + 4096


def maps_of(fields: Any) -> list[Any]:
    """How much of the file below `fields` this process and each of its children holds in memory."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [each for process in processes for each in process.memory_maps() if each.path == str(fields.filename)]


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_in_order_come_in_order_from_workers_too(workers: int) -> None:
    dataset = WindowDataset(make_store(Path("store.zarr"), shape=(4, 8)), "validation")
    batches = loader(dataset, 3, workers)
    assert isinstance(batches, WindowLoader)
    for _ in range(2):  # a loader can be read again
        assert torch.cat([batch.windows for batch in batches]).tolist() == dataset.numbers.tolist()


def test_a_batch_is_memory_of_its_own() -> None:
    dataset = WindowDataset(make_store(Path("store.zarr"), shape=(4, 8)), "train")
    first, again = dataset.__getitems__([0, 1]), dataset.__getitems__([0, 1])
    first.inputs.zero_()
    first.targets.zero_()
    assert again.inputs.all()
    check_fields(dataset.store, dataset.__getitems__([0, 1]))


def test_a_window_beyond_the_record_is_an_error() -> None:
    store = make_store(Path("store.zarr"), frames=60, shape=(4, 8))
    dataset = WindowDataset(store, "test")
    store.windows.start[dataset.numbers[-1]] = 60 - (store.windows.t_in + store.windows.t_out) + 1
    with pytest.raises(IndexError):
        dataset[len(dataset) - 1]
