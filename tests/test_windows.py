from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.batch import Batch
from pipeline.store import SPLITS, Split, Store
from pipeline.windows import WindowDataset, loader, shuffled_loader
from tests.core import features_of, tokens_of, write_embeddings, write_features
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
        assert (batch.text, batch.features) == (None, None)


def test_an_item_is_a_batch_of_one_window() -> None:
    store = make_store(Path("store.zarr"), shape=(4, 8))
    item = WindowDataset(store, "validation")[2]
    assert item.windows.tolist() == [store.windows.of("validation")[2]]
    check_fields(store, item)


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
