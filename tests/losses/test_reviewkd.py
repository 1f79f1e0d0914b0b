"""Fusion and hierarchical context loss against loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.losses.reviewkd import Review, ReviewKD, hierarchical_context

WIDTHS = (6, 4, 3)


def levels(grid: tuple[int, int], samples: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(samples, width, *grid, generator=generator) for width in WIDTHS)


def review(width: int = 5) -> Review:
    torch.manual_seed(0)
    module = ReviewKD(0.5, 1.0).projection(WIDTHS, width)
    assert isinstance(module, Review)
    return module


def pooled(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Means over the cells of a size x size division, which overlap where it does not divide."""
    height, width = images.shape[-2:]
    rows = [(i * height // size, -(-(i + 1) * height // size)) for i in range(size)]
    columns = [(i * width // size, -(-(i + 1) * width // size)) for i in range(size)]
    return np.stack([np.stack([images[..., a:b, c:d].mean((-2, -1)) for c, d in columns], -1) for a, b in rows], -2)


def brute_context(student: NDArray[np.float64], teacher: NDArray[np.float64]) -> float:
    total, weights = np.mean((student - teacher) ** 2), 1.0
    weight = 1.0
    for size in (4, 2, 1):
        if size >= min(student.shape[-2:]):
            continue
        weight /= 2
        total += weight * np.mean((pooled(student, size) - pooled(teacher, size)) ** 2)
        weights += weight
    return float(total / weights)


@pytest.mark.parametrize("grid", [(8, 16), (5, 7), (4, 8), (2, 3), (1, 5), (1, 1)])
def test_the_context_loss_compares_coarser_and_coarser_views(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, *grid, generator=generator) for _ in range(2))
    expected = brute_context(student.double().numpy(), teacher.double().numpy())
    assert hierarchical_context(student - teacher).item() == pytest.approx(expected, rel=1e-5)


def test_the_term_is_the_mean_over_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(2, 3, 32, 5, generator=generator)
    target = torch.randn(2, 32, 5, generator=generator)
    terms = ReviewKD(0.5, 0.3).terms(projected, target, (4, 8))
    maps = [each.double().numpy().swapaxes(1, 2).reshape(2, 5, 4, 8) for each in (*projected.unbind(1), target)]
    expected = np.mean([brute_context(each, maps[-1]) for each in maps[:-1]])
    assert terms == {"review": pytest.approx(expected, rel=1e-5)}
    assert ReviewKD(9.0, 0.3).weights == {"review": 0.3}


def test_a_shift_of_the_whole_grid_costs_the_same_at_every_view() -> None:
    assert hierarchical_context(torch.full((2, 3, 8, 16), 2.0)).item() == pytest.approx(4.0)


def normed(images: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A 1x1 convolution and batch norm in training mode."""
    mixed = np.einsum("oi,nihw->nohw", weight, images)
    variance = mixed.var((0, 2, 3), keepdims=True)
    return np.asarray((mixed - mixed.mean((0, 2, 3), keepdims=True)) / np.sqrt(variance + 1e-5))


def test_what_flows_on_is_each_level_and_the_deeper_ones_weighed_by_attention() -> None:
    module, maps = review().double(), tuple(level.double() for level in levels((4, 6)))
    flow: Tensor | None = None
    expected: NDArray[np.float64] | None = None
    fusions: Any = module.fusions
    for fusion, level in zip(fusions, maps, strict=True):
        flow, _ = fusion(level, flow)
        reduced = normed(level.numpy(), fusion.reduce[0].weight.detach().numpy()[:, :, 0, 0])
        if expected is not None:
            logits = np.einsum(
                "oi,nihw->nohw",
                fusion.attention.weight.detach().numpy()[:, :, 0, 0],
                np.concatenate([reduced, expected], 1),
            )
            here, deeper = np.split(
                1 / (1 + np.exp(-logits - fusion.attention.bias.detach().numpy()[:, None, None])), 2, 1
            )
            reduced = here * reduced + deeper * expected
        expected = reduced
        np.testing.assert_allclose(flow.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_it_ends_in_the_teachers_tokens_for_every_level() -> None:
    module, maps = review(), levels((4, 6))
    output = module(maps)
    assert output.shape == (3, 3, 24, 5)
    first = module.fusions[0](maps[0], None)[1]
    assert torch.equal(output[:, 0], first.flatten(2).transpose(1, 2))


def test_a_deep_level_reaches_every_output_and_a_shallow_one_its_own_alone() -> None:
    module = review().eval()
    maps = tuple(level.requires_grad_() for level in levels((4, 6)))
    outputs = module(maps)
    reached = [
        [
            bool(gradient.abs().sum() > 0) if gradient is not None else False
            for gradient in torch.autograd.grad(output.square().sum(), maps, retain_graph=True, allow_unused=True)
        ]
        for output in outputs.unbind(1)
    ]
    assert reached == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_gradient_reaches_every_parameter_of_the_fusion() -> None:
    module = review()
    projected = module(levels((4, 6)))
    ReviewKD(0.5, 1.0).terms(projected, torch.randn(3, 24, 5), (4, 6))["review"].backward()
    assert not [name for name, value in module.named_parameters() if value.grad is None or not value.grad.any()]


def test_gradients_are_finite_at_zero() -> None:
    projected = torch.zeros(2, 3, 32, 5, requires_grad=True)
    for target in (torch.zeros(2, 32, 5), torch.ones(2, 32, 5)):
        (gradient,) = torch.autograd.grad(ReviewKD(0.5, 1.0).terms(projected, target, (4, 8))["review"], projected)
        assert torch.isfinite(gradient).all()


def test_levels_are_fused_no_wider_than_the_original_does() -> None:
    with torch.device("meta"):
        module = ReviewKD(0.5, 1.0).projection((2048, 64), 8)
    assert isinstance(module, Review)
    assert module.fusions[1].reduce[0].out_channels == 512  # type: ignore[union-attr, index]
