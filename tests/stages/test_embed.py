"""The stage `embed` on a real captions.parquet, with MiniLM and with an encoder from a folder."""

from __future__ import annotations

import datetime
import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import captions, paths
from pipeline.embedders.minilm import MiniLM
from pipeline.embeddings import Embeddings
from pipeline.errors import UserError
from stages import embed
from tests.embedders.tiny import save_tiny_bert
from tests.helpers import tiny_params

TEXTS = ["A ridge builds in the north.", "Calm.", "A ridge builds in the north.", "", "Cold pool moving east."]


@pytest.fixture(autouse=True)
def _captions_in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moment = datetime.datetime(2001, 1, 1)
    fixed = {"status": "ok", "reason": "", "captioner": "c", "model": "m", "prompt_hash": "p", "input_hash": "i"}
    rows = [
        {"window": window, "caption": text, **fixed, "t_start": moment, "t_end": moment}
        for window, text in enumerate(TEXTS)
    ]
    captions.write(paths.CAPTIONS, [pa.Table.from_pylist(rows, captions.SCHEMA)])


def content() -> dict[str, bytes]:
    files = (file for file in sorted(paths.EMBEDDINGS.rglob("*")) if file.is_file())
    return {str(file.relative_to(paths.EMBEDDINGS)): file.read_bytes() for file in files}


def test_windows_get_minilms_embeddings_of_their_caption() -> None:
    params = tiny_params()
    embed.main(params)
    stored = Embeddings(paths.EMBEDDINGS)
    encoder = MiniLM(params.embed)
    assert (len(stored), stored.dimension) == (5, 384)
    for window, text in enumerate(TEXTS):
        expected, _ = encoder.embed([text])
        mask = stored.mask([window])[0]
        np.testing.assert_allclose(stored.tokens([window])[0, mask], expected[0], atol=2e-3)
        assert mask.sum() == expected.shape[1] > 0  # an empty caption still has its special tokens
    assert not list(paths.WORK.glob("embed/*/*"))


def test_a_repeated_run_gives_the_same_bytes() -> None:
    embed.main(tiny_params())
    first = content()
    shutil.rmtree(paths.EMBEDDINGS.parent)
    embed.main(tiny_params())
    assert content() == first


def test_an_encoder_from_a_folder_is_used_and_cuts_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_tiny_bert(tmp_path / "tiny-bert")
    params = tiny_params(embedder="huggingface", embed={"model": str(folder), "max_tokens": 6})
    with caplog.at_level(logging.INFO):
        embed.main(params)
    assert Embeddings(paths.EMBEDDINGS).dimension == 16
    assert "4 distinct captions of up to 9 tokens; 2 cut at 6" in caplog.text
    assert not any(str(tmp_path).encode() in data for data in content().values())


def test_missing_captions_are_a_users_error() -> None:
    paths.CAPTIONS.unlink()
    with pytest.raises(UserError, match=r"captions\.parquet is missing"):
        embed.main(tiny_params())


def test_what_the_teacher_without_text_depends_on_never_changes() -> None:
    embed.main(tiny_params())
    first, rest = paths.NO_TEXT.read_bytes(), content()
    embed.main(tiny_params(embed={"max_tokens": 4}))
    assert content() != rest
    assert paths.NO_TEXT.read_bytes() == first
