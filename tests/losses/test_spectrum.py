"""Eq. 11 and the bands of SDKD against discrete Fourier transforms written out in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.losses.spectrum import band_errors, spectral_alignment
from tests.losses import brute

AXES = ["grid", "tokens", "channels"]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("grid", brute.GRIDS)
def test_the_alignment_equals_the_equation_written_out(grid: tuple[int, int], width: int, axes: str) -> None:
    projected, target = brute.pair(grid, width)
    expected = brute.spectral(projected.double().numpy(), target.double().numpy(), grid, axes)
    assert spectral_alignment(projected, target, grid, axes).item() == pytest.approx(expected, rel=1e-5)


def moved(tokens: Tensor, rows: int, columns: int) -> Tensor:
    return tokens.unflatten(1, (4, 8)).roll((rows, columns), (1, 2)).flatten(1, 2)


def test_what_moves_a_pattern_costs_no_spectrum_over_the_axes_it_moves_along() -> None:
    _, target = brute.pair((4, 8), width=6)
    free = {
        axes: [
            spectral_alignment(each, target, (4, 8), axes).item() < 1e-6
            for each in (moved(target, 1, 3), target.roll(5, 1), target.roll(2, 2))
        ]
        for axes in AXES
    }
    assert free == {"grid": [True, False, False], "tokens": [False, True, False], "channels": [False, False, True]}


def test_only_the_spectrum_over_channels_depends_on_their_order() -> None:
    projected, target = brute.pair((4, 8), width=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for axes in AXES:
        before = spectral_alignment(projected, target, (4, 8), axes).item()
        after = spectral_alignment(projected[..., order], target[..., order], (4, 8), axes).item()
        assert (abs(before - after) < 1e-6) is (axes != "channels")


def test_tokens_are_read_row_by_row() -> None:
    projected, target = brute.pair((2, 6))
    assert spectral_alignment(projected, target, (2, 6)) != pytest.approx(
        spectral_alignment(projected, target, (6, 2)).item(), rel=1e-3
    )


@pytest.mark.parametrize("cutoff", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("grid", brute.GRIDS)
def test_the_bands_are_the_errors_of_filtered_tokens(grid: tuple[int, int], cutoff: float) -> None:
    projected, target = brute.pair(grid)
    high, low = band_errors(projected, target, grid, cutoff)
    for value, is_low in ((high, False), (low, True)):
        parts = [brute.filtered(each.double().numpy(), grid, cutoff, is_low) for each in (projected, target)]
        assert value.item() == pytest.approx(np.mean(np.abs(parts[0] - parts[1]) ** 2), rel=1e-5, abs=1e-7)
    assert (high + low).item() == pytest.approx((projected - target).square().mean().item(), rel=1e-5)


def test_the_low_band_of_a_cutoff_of_zero_is_the_mean_over_the_grid() -> None:
    projected, target = brute.pair((4, 8))
    low = band_errors(projected, target, (4, 8), 0.0)[1]
    assert low.item() == pytest.approx((projected - target).mean(1).square().mean().item(), rel=1e-5)


def alignment(axes: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda projected, target: spectral_alignment(projected, target, (3, 4), axes)


def bands(projected: Tensor, target: Tensor) -> Tensor:
    high, low = band_errors(projected, target, (3, 4), 0.5)
    return high + 0.3 * low


@pytest.mark.parametrize("term", [*map(alignment, AXES), bands], ids=[*AXES, "bands"])
def test_the_gradient_equals_central_differences(term: Callable[[Tensor, Tensor], Tensor]) -> None:
    projected, target = (each.double() for each in brute.pair((3, 4), width=2, samples=1))
    projected.requires_grad_()
    assert torch.autograd.gradcheck(lambda each: term(each, target), projected)


def written_out(projected: Tensor, target: Tensor, grid: tuple[int, int]) -> Tensor:
    """Eq. 11 over the whole spectrum, for autograd to differentiate."""
    magnitudes = [
        torch.fft.fft2(each.unflatten(1, grid), dim=(1, 2), norm="ortho").abs() for each in (projected, target)
    ]
    return (magnitudes[0] - magnitudes[1]).abs().mean()


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("grid", brute.GRIDS)
def test_the_gradient_is_that_of_the_equation_written_out(grid: tuple[int, int], channels_first: bool) -> None:
    projected, target = (each.double() for each in brute.pair(grid))
    if channels_first:
        projected, target = (each.mT.contiguous().mT for each in (projected, target))
    projected.requires_grad_()
    gradients = [
        torch.autograd.grad(3 * term(projected, target, grid), projected)[0]
        for term in (spectral_alignment, written_out)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_the_gradient_can_be_taken_twice_and_leaves_tokens_and_target_alone() -> None:
    projected, target = brute.pair((4, 8))
    before = projected.clone(), target.clone()
    value = spectral_alignment(projected.requires_grad_(), target, (4, 8))
    first, second = (torch.autograd.grad(value, projected, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(projected, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize("value", [0.0, 1e-23, 1e-38])
@pytest.mark.parametrize("axes", AXES)
def test_gradients_are_finite_where_a_spectrum_vanishes(axes: str, value: float) -> None:
    projected = torch.full((2, 32, 3), value, requires_grad=True)
    for target in (brute.pair((4, 8))[1], torch.zeros(2, 32, 3)):
        total = spectral_alignment(projected, target, (4, 8), axes) + sum(band_errors(projected, target, (4, 8), 0.5))
        (gradient,) = torch.autograd.grad(total, projected)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("axes", AXES)
def test_orthonormal_terms_do_not_grow_with_the_grid(axes: str) -> None:
    values = [
        spectral_alignment(*brute.pair(grid, width=64), grid, axes).item() for grid in ((4, 8), (8, 16), (16, 32))
    ]
    assert max(values) < 1.15 * min(values)


def test_autocast_leaves_both_in_float32() -> None:
    projected, target = brute.pair((4, 8))
    plain = spectral_alignment(projected, target, (4, 8)), *band_errors(projected, target, (4, 8), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = spectral_alignment(projected, target, (4, 8)), *band_errors(projected, target, (4, 8), 0.5)
    assert all(torch.equal(*each) for each in zip(plain, inside, strict=True))
