"""The store of embeddings: each distinct caption once, read by window, resumed by shard."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from pipeline import embeddings
from pipeline.embeddings import Embeddings
from pipeline.errors import UserError

CAPTIONS = ["calm", "warm front", "calm", "cold front moving east", "warm front", "x"]
DIMENSION = 8


def vector(word: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


class Encoder:
    """A token is a word; its embedding depends on the word alone."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        self.seen += texts
        words = [text.split() for text in texts]
        tokens = np.zeros((len(texts), max(map(len, words)), DIMENSION), dtype=np.float32)
        for row, caption in enumerate(words):
            tokens[row, : len(caption)] = [vector(word) for word in caption]
        return tokens, np.arange(tokens.shape[1]) < np.array([len(caption) for caption in words])[:, None]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lengths(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.array([len(text.split()) for text in texts])


def written(path: Path, captions: Sequence[str] = CAPTIONS, batch_size: int = 2) -> Encoder:
    encoder = Encoder()
    texts, of_window = embeddings.distinct(captions)
    embeddings.create(path, lengths(texts), DIMENSION, of_window, {"model": "words"})
    assert sorted(embeddings.fill(path, texts, encoder, batch_size)) == list(range(len(texts)))
    return encoder


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_captions_are_numbered_by_their_first_window() -> None:
    texts, of_window = embeddings.distinct(CAPTIONS)
    assert texts == ["calm", "warm front", "cold front moving east", "x"]
    assert of_window.tolist() == [0, 1, 0, 2, 1, 3]


def test_distinct_captions_are_embedded_once(tmp_path: Path) -> None:
    encoder = written(tmp_path / "e.zarr")
    assert sorted(encoder.seen) == sorted(set(CAPTIONS))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_window_reads_its_own_captions_tokens(tmp_path: Path, batch_size: int) -> None:
    written(tmp_path / "e.zarr", batch_size=batch_size)
    stored = Embeddings(tmp_path / "e.zarr")
    assert (len(stored), stored.dimension) == (6, DIMENSION)
    windows = np.array([5, 0, 3, 4, 0])
    tokens, mask = stored.tokens(windows), stored.mask(windows)
    assert (tokens.shape, tokens.dtype) == ((5, 4, DIMENSION), np.float16)
    assert (mask.shape, mask.dtype) == ((5, 4), np.bool_)
    for row, window in enumerate(windows):
        words = CAPTIONS[window].split()
        np.testing.assert_array_equal(tokens[row, mask[row]], np.array([vector(w) for w in words], dtype=np.float16))
    assert (tokens[~mask] == 0).all()


def test_bytes_do_not_depend_on_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SHARD_MEGABYTES", 4 * 4 * 4 * DIMENSION * 2 / 1e6)
    captions = [f"{'word ' * (1 + number % 5)}{number}" for number in range(50)]
    written(tmp_path / "a.zarr", captions)
    texts, of_window = embeddings.distinct(captions)
    encoder = Encoder()
    for stop in (20, None):  # as if killed in the middle of a shard, then to the end
        embeddings.create(tmp_path / "b.zarr", lengths(texts), DIMENSION, of_window, {"model": "words"})
        assert len(list(islice(embeddings.fill(tmp_path / "b.zarr", texts, encoder, 2), stop))) == (stop or 50)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")
    assert len(list((tmp_path / "b.zarr" / "tokens" / "c").iterdir())) > 3
    assert 50 <= len(encoder.seen) < 60  # finished shards are not encoded again


def test_xarray_opens_it_without_a_warning(tmp_path: Path) -> None:
    written(tmp_path / "e.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(tmp_path / "e.zarr")
    assert opened["tokens"].dims == ("caption", "token", "feature")
    assert opened.attrs["model"] == "words"


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    embeddings.create(tmp_path / "e.zarr", np.array([1]), DIMENSION, np.zeros(1, dtype=np.int32), {})

    def huge(texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return np.full((1, 1, DIMENSION), 1e6, dtype=np.float32), np.ones((1, 1), dtype=bool)

    with pytest.raises(UserError, match="float16 cannot hold"):
        list(embeddings.fill(tmp_path / "e.zarr", ["x"], huge, 1))


def test_an_encoder_that_contradicts_its_lengths_is_caught(tmp_path: Path) -> None:
    embeddings.create(tmp_path / "e.zarr", np.array([3]), DIMENSION, np.zeros(1, dtype=np.int32), {})
    with pytest.raises(RuntimeError, match="announced"):
        list(embeddings.fill(tmp_path / "e.zarr", ["two words"], Encoder(), 1))


def test_a_missing_or_foreign_store_is_named(tmp_path: Path) -> None:
    import zarr

    with pytest.raises(UserError, match=r"none\.zarr is missing"):
        Embeddings(tmp_path / "none.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(UserError, match=r"other\.zarr is not a store of format s2kd-embeddings/1"):
        Embeddings(tmp_path / "other.zarr")
