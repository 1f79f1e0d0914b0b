from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models import Problem, parameter_count
from pipeline.teachers import triton
from pipeline.teachers.base import build
from pipeline.teachers.triton import SelfAttention, Triton, UniFormerBlock
from tests.teachers.tiny import inputs_of, lively, problem, teacher, words


def test_at_the_papers_size_it_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = build("triton", triton.PAPER_PROBLEM, triton.PAPER_SIZES, text_width=384, layers=2, heads=8)
    assert parameter_count(model) == pytest.approx(150.2e6, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "sizes", "published"),
    [
        ((1, 69, 180, 360), {"spatial_width": 256, "temporal_width": 512, "temporal_blocks": 8}, 28.07e6),
        ((12, 2, 32, 64), {"spatial_width": 68, "temporal_width": 1032, "temporal_blocks": 12}, 150.9e6),
    ],
)
def test_without_alignment_it_is_as_large_as_the_public_code(
    shape: tuple[int, int, int, int], sizes: dict[str, Any], published: float
) -> None:
    frames, variables, height, width = shape
    given = Problem(t_in=frames, t_out=frames, variables=variables, height=height, width=width, periodic=True)
    with torch.device("meta"):
        model = Triton(given, Triton.Sizes.model_validate({"spatial_blocks": 4} | sizes))
    assert parameter_count(model) == pytest.approx(published, abs=0.05e6)


@pytest.mark.parametrize("spatial_blocks", [2, 4])
def test_turning_the_globe_turns_the_forecast_and_its_features(spatial_blocks: int) -> None:
    stride = 2 ** (spatial_blocks // 2)
    model = lively(teacher("triton", {"spatial_blocks": spatial_blocks}))
    inputs, text = inputs_of(model), words()
    plain, turned = model(inputs, text), model(inputs.roll(2 * stride, -1), text)
    torch.testing.assert_close(turned.forecast, plain.forecast.roll(2 * stride, -1), rtol=1e-3, atol=1e-4)
    grid = plain.fused.unflatten(1, model.latent_grid)
    torch.testing.assert_close(turned.fused.unflatten(1, model.latent_grid), grid.roll(2, 2), rtol=1e-3, atol=1e-4)


def test_a_plane_does_not_turn() -> None:
    model = lively(teacher("triton", periodic=False))
    inputs, text = inputs_of(model), words()
    turned = model(inputs.roll(4, -1), text).forecast
    assert not torch.allclose(turned, model(inputs, text).forecast.roll(4, -1), atol=1e-2)


def test_attention_equals_torchs_with_the_same_weights() -> None:
    torch.manual_seed(0)
    mine, library = SelfAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    library.in_proj_weight.data, library.in_proj_bias.data = mine.project.weight, mine.project.bias
    library.out_proj.weight.data, library.out_proj.bias.data = mine.output.weight, mine.output.bias
    tokens = torch.randn(2, 7, 12).double()
    torch.testing.assert_close(mine(tokens), library(tokens, tokens, tokens)[0])


def test_a_block_adds_positions_attention_and_an_mlp_each_scaled() -> None:
    torch.manual_seed(0)
    block = UniFormerBlock(4, heads=2, mlp_ratio=2, drop_path=0.0, periodic=True)
    nn.init.normal_(block.attention_scale)
    nn.init.normal_(block.mlp_scale)
    images = torch.randn(2, 4, 3, 5)
    expected = (images + block.position(images)).flatten(2).transpose(1, 2)
    expected = expected + block.attention_scale * block.attention(expected)
    expected = expected + block.mlp_scale * block.mlp(expected)
    torch.testing.assert_close(block(images).flatten(2).transpose(1, 2), expected)


def test_drop_path_rises_from_a_tenth_to_its_value() -> None:
    model = teacher("triton", {"drop_path": 0.4, "temporal_blocks": 4})
    rates = [layer.drop_path for layer in model.modules() if isinstance(layer, UniFormerBlock)]
    assert rates == pytest.approx([0.04, 0.16, 0.28, 0.4])


def test_features_are_those_after_half_of_the_blocks() -> None:
    model = teacher("triton", {"temporal_blocks": 5})
    assert isinstance(model, Triton)
    halves = [
        sum(isinstance(layer, UniFormerBlock) for layer in half) for half in (model.evolution_in, model.evolution_out)
    ]
    assert halves == [2, 3]


def test_heads_that_do_not_divide_a_width_are_named() -> None:
    with pytest.raises(UserError, match=r"sizes\.triton: heads = 5 does not divide the blocks' width 64"):
        build("triton", problem(), {"heads": 5}, 6, 1, 1)
