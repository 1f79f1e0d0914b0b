"""One text for every window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption
from pipeline.captioners.constant import Constant
from pipeline.errors import UserError
from pipeline.guard import judged
from pipeline.params import Caption as CaptionParams
from tests.helpers import make_store


def test_every_window_gets_the_text_of_the_settings(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store.zarr", frames=60)
    captioner = Constant(CaptionParams(constant="Weather on a globe.", output="json"), 0)
    given = list(captioner.captions(caption_requests(store, np.arange(5))))
    assert given == [Caption(number, "Weather on a globe.") for number in range(5)]
    assert [judged(caption, captioner.settings) for caption in given] == given
    assert captioner.described(store.description, 3) == {}


def test_finished_captions_are_known_by_the_text_alone() -> None:
    identity = Constant(CaptionParams(), 0).identity
    assert Constant(CaptionParams(max_words=50, output="json"), 7, "weatherbench").identity == identity
    assert Constant(CaptionParams(constant="Other words."), 0).identity != identity


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("a <b>bold</b> claim", "it would be kept as 'a bold claim'"),
        ("one two three four", "4 words, 3 allowed"),
        ("warm " * 9, "repeated"),
    ],
)
def test_a_text_that_would_not_be_kept_is_a_users_error(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=rf"caption\.constant = .*{problem}"):
        Constant(CaptionParams(constant=text, max_words=3), 0)
