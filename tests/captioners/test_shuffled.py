"""Another captioner's captions, each at another window of its split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.caption_requests import caption_requests
from pipeline.captioners.narrator import Narrator
from pipeline.captioners.shuffled import Shuffled
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.splits import deranged
from tests.helpers import make_store

SPLIT = np.repeat(np.array([0, 1, 2], np.int8), (50, 1, 7))


def arranged(seed: int, split: NDArray[np.int8] = SPLIT) -> NDArray[np.int64]:
    return Shuffled(CaptionParams(), seed).arrangement(split)


@pytest.mark.parametrize("seed", range(20))
def test_captions_are_permuted_within_their_split_and_none_stays(seed: int) -> None:
    order = arranged(seed)
    assert sorted(order) == list(range(len(SPLIT)))
    np.testing.assert_array_equal(SPLIT[order], SPLIT)
    stays = order == np.arange(len(SPLIT))
    np.testing.assert_array_equal(stays, SPLIT == 1)  # a split of one window has nothing to exchange


def test_the_arrangement_depends_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(arranged(3), arranged(3))
    assert (arranged(3) != arranged(4)).mean() > 0.8


def test_every_other_window_is_as_likely() -> None:
    split = np.zeros(4, np.int8)
    found = [deranged(split, np.random.default_rng(seed))[0] for seed in range(3000)]
    counts = np.bincount(found, minlength=4)
    assert counts[0] == 0
    assert (abs(counts[1:] - 1000) < 120).all()  # about five standard deviations


def test_it_asks_the_inner_captioner_and_is_known_as_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.zarr", frames=60)
    settings = CaptionParams(max_words=40)
    shuffled, inner = Shuffled(settings, 5, "weather_twin"), Narrator(settings, 5, "weather_twin")
    (request,) = caption_requests(store, np.array([3]))
    assert list(shuffled.captions([request])) == list(inner.captions([request]))
    assert (shuffled.model, shuffled.prompt, shuffled.identity) == (inner.model, inner.prompt, inner.identity)
    assert shuffled.described(store.description, 3) == inner.described(store.description, 3)
    assert shuffled.prompt_for(request) == inner.prompt_for(request)
    assert shuffled.shown(request) == inner.shown(request)
    assert (shuffled.asks_again, shuffled.settings, shuffled.close()) == (False, inner.settings, "")


def test_no_captions_may_be_shuffled_too(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.zarr", frames=60)
    shuffled = Shuffled(CaptionParams(shuffle="none"), 0)
    assert {caption.text for caption in shuffled.captions(caption_requests(store, np.arange(3)))} == {""}


@pytest.mark.parametrize("name", ["shuffled", "nonesuch"])
def test_a_captioner_that_cannot_be_shuffled_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}'.* narrator") as error:
        Shuffled(CaptionParams(shuffle=name), 0)
    assert "shuffled, " not in str(error.value) or name == "nonesuch"
