"""No captions: empty texts that are no failures, and that a text encoder can take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption
from pipeline.captioners.none import Nothing
from pipeline.embedders.huggingface import HuggingFace
from pipeline.guard import judged
from pipeline.params import Caption as CaptionParams
from pipeline.params import Embed
from tests.embedders.tiny import save_tiny_bert
from tests.helpers import make_store


def test_every_window_gets_an_empty_text_that_counts_as_intended(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.zarr", frames=60)
    captioner = Nothing(CaptionParams(output="json"), 0)
    given = list(captioner.captions(caption_requests(store, np.arange(5))))
    assert [(caption.window, caption.text, caption.status) for caption in given] == [(n, "", "ok") for n in range(5)]
    assert [judged(caption, captioner.settings) for caption in given] == given
    assert judged(Caption(0, ""), captioner.settings).status == "empty"


def test_nothing_of_the_record_decides_an_empty_text(tmp_path: Path) -> None:
    captioner = Nothing(CaptionParams(), 0)
    description = make_store(tmp_path / "store.zarr", frames=60).description
    assert captioner.described(description, 3) == captioner.identity == {}
    assert not captioner.asks_again


def test_a_text_encoder_makes_its_special_tokens_of_it(tmp_path: Path) -> None:
    embedder = HuggingFace(Embed(model=str(save_tiny_bert(tmp_path / "bert")), max_tokens=16))
    assert embedder.lengths(["", "warm front"]).tolist() == [2, 4]
    tokens, mask = embedder.embed(["", "warm front"])
    assert mask.sum(axis=1).tolist() == [2, 4]
    assert np.isfinite(tokens).all()
    assert tokens[0, :2].any()
    assert not tokens[0, 2:].any()
