"""Any encoder from a folder: its embeddings against the library's own, and mistakes as sentences."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.embedders.huggingface import HuggingFace
from pipeline.errors import UserError
from pipeline.params import Embed
from tests.embedders.tiny import save_tiny_bert

TEXTS = ["warm front moving east .", "cold , colder", "west"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_bert(tmp_path / "tiny-bert")


def settings(folder: Path, **others: object) -> Embed:
    return Embed.model_validate({"model": str(folder), "max_tokens": 24, **others})


def test_a_local_folder_gives_its_last_hidden_state(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = HuggingFace(settings(folder))
    tokens, mask = encoder.embed(TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(tokens[row, mask[row]], alone, atol=1e-6)
    assert (tokens[~mask] == 0).all()
    assert encoder.lengths(TEXTS).tolist() == [7, 6, 3]
    assert encoder.dimension == 16


def test_the_name_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    name = HuggingFace(settings(folder)).name
    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    assert HuggingFace(settings(moved)).name == name
    assert name.startswith("tiny-bert@sha256:")
    other = save_tiny_bert(tmp_path / "other" / folder.name, seed=1)
    assert HuggingFace(settings(other)).name != name


def test_the_key_must_be_set() -> None:
    with pytest.raises(UserError, match=r"embed\.model is null; embedder 'huggingface' needs"):
        HuggingFace(Embed())


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"embed\.model = 'nobody/nothing': this hub model .* cannot be loaded"):
        HuggingFace(Embed(model="nobody/nothing"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty': this folder cannot be loaded"):
        HuggingFace(settings(empty))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this folder cannot be loaded: .*safetensors"):
        HuggingFace(settings(save_tiny_bert(tmp_path / "pickled", safe=False)))


def test_more_tokens_than_the_model_takes_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"embed\.max_tokens = 25 is not allowed: .* takes at most 24"):
        HuggingFace(settings(folder, max_tokens=25))


def test_the_encoder_of_an_encoder_decoder_is_used(tmp_path: Path) -> None:
    from transformers import BertTokenizer, T5Config, T5Model

    folder = save_tiny_bert(tmp_path / "tokenizer")
    target = tmp_path / "t5"
    BertTokenizer.from_pretrained(folder).save_pretrained(target)
    torch.manual_seed(0)
    config = T5Config(vocab_size=14, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)
    T5Model(config).save_pretrained(target)
    encoder = HuggingFace(settings(target))
    tokens, mask = encoder.embed(TEXTS)
    assert tokens.shape == (3, 7, 16)
    assert encoder.dimension == 16
    assert np.isfinite(tokens).all()
    assert mask.sum() == 16


def test_a_model_of_images_is_refused(tmp_path: Path) -> None:
    from transformers import BertTokenizer, ViTConfig, ViTModel

    folder = save_tiny_bert(tmp_path / "tokenizer")
    target = tmp_path / "vit"
    BertTokenizer.from_pretrained(folder).save_pretrained(target)
    config = ViTConfig(image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    ViTModel(config).save_pretrained(target)
    with pytest.raises(UserError, match="is a ViTModel; a text encoder is needed"):
        HuggingFace(settings(target))


def test_an_empty_text_has_a_token_even_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "warm": 2, "front": 3}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", unk_token="<unk>").save_pretrained(tmp_path)
    GPT2Model(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2, n_positions=32)).save_pretrained(tmp_path)
    encoder = HuggingFace(settings(tmp_path))
    assert encoder.lengths(["", "warm front"]).tolist() == [1, 2]
    for texts in ([""], ["", "warm front"]):
        tokens, mask = encoder.embed(texts)
        assert mask.sum(axis=1).tolist() == encoder.lengths(texts).tolist()
        assert np.isfinite(tokens).all()
