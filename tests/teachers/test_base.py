"""What every teacher gets from its base class: the text, the horizon, physical units, its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.batch import Text
from pipeline.errors import UserError
from pipeline.layers import recompute_blocks
from pipeline.models import Problem, parameter_count
from pipeline.teachers import TEACHERS
from pipeline.teachers.base import CrossAttention, CrossModalAlignment, Teacher, build, load, save_teacher
from tests.teachers import tiny
from tests.teachers.tiny import NAMES, TEXT, dead, inputs_of, lively, problem, words

every_teacher = pytest.mark.parametrize("name", NAMES)


def teacher(**changes: Any) -> Teacher:
    return tiny.teacher("simvp", **changes)


def arguments(name: str, text_width: int | None = TEXT) -> dict[str, Any]:
    return {"name": name, "sizes": tiny.SIZES[name], "text_width": text_width, "layers": 2, "heads": 2}


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
    assert alignment.text_projection is not None
    expected = visual
    for block in alignment.blocks:
        expected = block(expected, alignment.text_projection(text.tokens), text.mask)
    assert len(alignment.blocks) == 3
    assert torch.equal(alignment(visual, text), expected)


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    with pytest.raises(UserError, match="fusion_heads = 3 does not divide the latent width 8"):
        CrossModalAlignment(8, TEXT, layers=1, heads=3)


def test_every_teacher_of_the_table_is_held_to_what_follows() -> None:
    assert set(NAMES) == set(TEACHERS)


@every_teacher
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("t_in", "t_out", "variables", "height", "width"),
    [(2, 2, 2, 8, 16), (3, 1, 1, 9, 13), (2, 5, 3, 7, 16), (1, 1, 2, 5, 6), (5, 2, 1, 3, 2)],
)
def test_forecast_and_features_have_the_shapes_that_are_declared(
    name: str, t_in: int, t_out: int, variables: int, height: int, width: int, periodic: bool
) -> None:
    shape: dict[str, Any] = {"t_in": t_in, "t_out": t_out, "variables": variables, "height": height, "width": width}
    model = tiny.teacher(name, periodic=periodic, **shape)
    output = model(inputs_of(model), words())
    assert output.forecast.shape == (2, t_out, variables, height, width)
    assert output.fused.shape == (2, model.latent_grid[0] * model.latent_grid[1], model.latent_width)
    assert torch.isfinite(output.forecast).all()


@every_teacher
@pytest.mark.parametrize("text", [TEXT, None])
def test_a_gradient_reaches_every_parameter(name: str, text: int | None) -> None:
    assert dead(tiny.teacher(name, text=text, height=16)) == []


@every_teacher
def test_a_frame_of_the_input_reaches_the_features(name: str) -> None:
    model = lively(tiny.teacher(name))
    inputs = inputs_of(model).requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs, words()).fused.square().sum(), [inputs])
    assert (gradient.abs().amax((0, 3, 4)) > 0).all()


@every_teacher
@torch.no_grad()
def test_half_precision_gives_nearly_the_same_forecast(name: str) -> None:
    model = lively(tiny.teacher(name))
    inputs = inputs_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(inputs, words())
    full = model(inputs, words())
    assert torch.isfinite(half.forecast).all()
    for rough, exact in ((half.forecast, full.forecast), (half.fused, full.fused)):
        assert float((rough - exact).square().mean().sqrt()) < 0.1 * float(exact.std())


@every_teacher
def test_a_text_free_teacher_is_the_same_but_for_the_texts_projection(name: str) -> None:
    with_text, without = tiny.teacher(name), tiny.teacher(name, text=None)
    shapes = {key: value.shape for key, value in with_text.state_dict().items()}
    projection = {key: shapes.pop(key) for key in list(shapes) if "text_projection" in key}
    assert {key: value.shape for key, value in without.state_dict().items()} == shapes
    assert parameter_count(with_text) - parameter_count(without) == sum(map(torch.Size.numel, projection.values()))


def test_a_text_free_alignment_attends_from_the_fields_to_themselves() -> None:
    torch.manual_seed(0)
    alignment = CrossModalAlignment(8, None, layers=2, heads=2)
    visual = torch.randn(2, 4, 8)
    expected = visual
    for block in alignment.blocks:
        expected = block(expected, expected, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(alignment(visual, None), expected)
    far = visual.clone()
    far[:, -1] += 1
    assert not torch.allclose(alignment(far, None)[:, 0], expected[:, 0], atol=1e-3)


@every_teacher
def test_text_that_is_missing_or_not_expected_is_refused(name: str) -> None:
    with_text, without = tiny.teacher(name), tiny.teacher(name, text=None)
    with pytest.raises(ValueError, match="built with text and was given none"):
        with_text(inputs_of(with_text), None)
    with pytest.raises(ValueError, match="text-free and was given text"):
        without(inputs_of(without), words())


@every_teacher
def test_another_caption_gives_another_forecast_and_features_and_only_to_its_own_window(name: str) -> None:
    model = lively(tiny.teacher(name))
    inputs, text = inputs_of(model), words()
    tokens = text.tokens.clone()
    tokens[0] = -tokens[0]
    plain, other = model(inputs, text), model(inputs, Text(tokens, text.mask))
    for before, after in ((plain.fused, other.fused), (plain.forecast, other.forecast)):
        assert (before[0] - after[0]).abs().max() > 1e-3
        torch.testing.assert_close(before[1], after[1])


@every_teacher
def test_padding_tokens_change_nothing(name: str) -> None:
    model = lively(tiny.teacher(name))
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


@every_teacher
@pytest.mark.parametrize("text_width", [TEXT, None])
def test_a_saved_teacher_gives_the_same_when_loaded(name: str, text_width: int | None, tmp_path: Path) -> None:
    model = lively(tiny.teacher(name, text=text_width))
    model.normaliser.set([10.0, -4.0], [3.0, 0.5])
    save_teacher(model, tmp_path / "teacher", **arguments(name, text_width))
    again = load(tmp_path / "teacher")
    assert not again.training
    inputs, text = inputs_of(model), words() if text_width else None
    assert torch.equal(again(inputs, text).forecast, model(inputs, text).forecast)


def test_a_text_free_teachers_weights_do_not_fit_one_with_text(tmp_path: Path) -> None:
    save_teacher(teacher(text=None), tmp_path / "teacher", **arguments("simvp", TEXT))
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        load(tmp_path / "teacher")


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


Pass = tuple[Tensor, dict[str, Tensor], dict[str, Tensor], int]


def forward_and_back(name: str, recomputed: bool, precision: torch.dtype | None, times: int) -> Pass:
    """Loss, gradients, state after a training step of the blocks' kind, and the bytes that were saved for it."""
    model = tiny.teacher(name, {"drop_path": 0.5} if "drop_path" in kind_of(name) else None, t_out=3).train()
    if recomputed:
        assert recompute_blocks(model) > 4
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    autocast = torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        output = model(inputs_of(model, 4), words(4))
        loss = output.forecast.square().mean() + output.fused.abs().mean()
    for number in range(times):
        loss.backward(retain_graph=number < times - 1)
    torch.rand(1)  # the generator is where it would have been
    gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    state = model.state_dict() | {"generator": torch.get_rng_state()}
    return loss, gradients, state, sum(saved.values())


def kind_of(name: str) -> set[str]:
    return set(TEACHERS.load(name).Sizes.model_fields)


@every_teacher
@pytest.mark.parametrize(("precision", "times"), [(None, 1), (None, 2), (torch.bfloat16, 1)])
def test_blocks_that_are_run_again_change_no_bit_and_save_memory(
    name: str, precision: torch.dtype | None, times: int
) -> None:
    """A horizon of two passes, so that every block is run twice; once more through the same graph, as norms are."""
    loss, gradients, state, remembered = forward_and_back(name, False, precision, times)
    again = forward_and_back(name, True, precision, times)
    assert torch.equal(again[0], loss)
    for expected, found in ((gradients, again[1]), (state, again[2])):
        assert found.keys() == expected.keys()
        assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []
    assert again[3] < 0.5 * remembered
