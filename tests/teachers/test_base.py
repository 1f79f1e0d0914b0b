"""What every teacher gets from its base class: the text, the horizon, physical units, its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.batch import Text
from pipeline.errors import UserError
from pipeline.models import Problem
from pipeline.teachers.base import CrossAttention, CrossModalAlignment, build, load, save_teacher
from tests.teachers.test_simvp import SIZES, TEXT, inputs_of, lively, problem, teacher, words

ARGUMENTS: dict[str, Any] = {"name": "simvp", "sizes": SIZES, "text_width": TEXT, "layers": 2, "heads": 2}


def test_cross_attention_equals_torchs_multihead_attention_with_the_same_weights() -> None:
    torch.manual_seed(0)
    block = CrossAttention(12, 3).double()
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    library = nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    library.in_proj_weight.data = torch.cat([block.query.weight, block.key.weight, block.value.weight])
    library.out_proj.weight.data = block.output.weight
    visual, semantic = torch.randn(2, 7, 12).double(), torch.randn(2, 5, 12).double()
    mask = torch.tensor([[True, True, True, False, False], [True, True, True, True, True]])
    attended, _ = library(visual, semantic, semantic, key_padding_mask=~mask)
    expected = nn.functional.layer_norm(visual + attended, (12,), block.norm.weight, block.norm.bias)  # eq. 9
    torch.testing.assert_close(block(visual, semantic, mask), expected)


def test_alignment_is_a_chain_of_blocks_over_one_projected_text() -> None:
    torch.manual_seed(0)
    alignment = CrossModalAlignment(8, TEXT, layers=3, heads=2)
    visual, text = torch.randn(2, 4, 8), words()
    expected = visual
    for block in alignment.blocks:
        expected = block(expected, alignment.text_projection(text.tokens), text.mask)
    assert len(alignment.blocks) == 3
    assert torch.equal(alignment(visual, text), expected)


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    with pytest.raises(UserError, match="fusion_heads = 3 does not divide the latent width 8"):
        CrossModalAlignment(8, TEXT, layers=1, heads=3)


def test_another_caption_gives_another_forecast_and_features_and_only_to_its_own_window() -> None:
    model = lively(teacher())
    inputs, text = inputs_of(model), words()
    tokens = text.tokens.clone()
    tokens[0] = -tokens[0]
    plain, other = model(inputs, text), model(inputs, Text(tokens, text.mask))
    for before, after in ((plain.fused, other.fused), (plain.forecast, other.forecast)):
        assert (before[0] - after[0]).abs().max() > 1e-3
        torch.testing.assert_close(before[1], after[1])


def test_padding_tokens_change_nothing() -> None:
    model = lively(teacher())
    inputs, text = inputs_of(model), words(length=4)
    padded = Text(
        torch.cat([text.tokens, 100 * torch.randn(2, 3, TEXT)], dim=1),
        torch.cat([text.mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1),
    )
    plain, other = model(inputs, text), model(inputs, padded)
    torch.testing.assert_close(other.fused, plain.fused)
    torch.testing.assert_close(other.forecast, plain.forecast)


def test_the_order_of_tokens_does_not_matter() -> None:
    model = lively(teacher())
    inputs, text = inputs_of(model), words()
    turned = Text(text.tokens.flip(1), text.mask)
    torch.testing.assert_close(model(inputs, turned).fused, model(inputs, text).fused)


def test_half_precision_text_is_taken() -> None:
    model = lively(teacher())
    text = words()
    output = model(inputs_of(model), Text(text.tokens.half(), text.mask))
    assert output.forecast.dtype == output.fused.dtype == torch.float32


def test_a_longer_horizon_feeds_the_forecast_back_and_a_shorter_one_cuts() -> None:
    model = lively(teacher())
    inputs, text = inputs_of(model), words()
    once = model(inputs, text)
    twice = model(once.forecast, text)
    for t_out, expected in ((1, once.forecast[:, :1]), (3, torch.cat([once.forecast, twice.forecast[:, :1]], dim=1))):
        other = teacher(t_out=t_out)
        other.load_state_dict(model.state_dict())
        output = other.eval()(inputs, text)
        torch.testing.assert_close(output.forecast, expected)
        torch.testing.assert_close(output.fused, once.fused)  # that of the first pass


def test_the_forecast_does_not_depend_on_units() -> None:
    model = lively(teacher(t_out=3))
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    inputs, text = 5 + inputs_of(model), words()
    plain = model(inputs, text)
    factor, offset = torch.tensor([9.81, 1.8])[:, None, None], torch.tensor([0.0, 32.0])[:, None, None]
    model.normaliser.set([10 * 9.81, -4 * 1.8 + 32], [3 * 9.81, 0.5 * 1.8])
    other = model(inputs * factor + offset, text)
    torch.testing.assert_close(other.forecast, plain.forecast * factor + offset, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(other.fused, plain.fused, rtol=1e-3, atol=1e-3)


def test_a_saved_teacher_gives_the_same_when_loaded(tmp_path: Path) -> None:
    model = lively(teacher())
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    save_teacher(model, tmp_path / "teacher", **ARGUMENTS)
    again = load(tmp_path / "teacher")
    assert not again.training
    inputs, text = inputs_of(model), words()
    assert torch.equal(again(inputs, text).forecast, model(inputs, text).forecast)


def test_wrong_names_and_sizes_are_sentences() -> None:
    with pytest.raises(UserError, match=r"unknown teacher 'vit'; known: .*simvp"):
        build("vit", problem(), {}, TEXT, 1, 1)
    with pytest.raises(UserError, match=r"train_teacher\.sizes\.simvp: depth = 3: .*; its keys are spatial_width, "):
        build("simvp", problem(), {"depth": 3}, TEXT, 1, 1)
    with pytest.raises(UserError, match=r"spatial_width = 5: .*multiple of 2"):
        build("simvp", problem(), {"spatial_width": 5}, TEXT, 1, 1)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model \(config\.json is missing\)"):
        load(tmp_path)


def test_a_problem_refuses_unknown_shapes() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        Problem.model_validate(problem().model_dump() | {"depth": 3})
