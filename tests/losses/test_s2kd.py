"""Eq. 10-12 against a discrete Fourier transform written out in float64, over the whole spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.losses.s2kd import S2KD, spectral_alignment

GRIDS = [(4, 8), (5, 7), (6, 9), (3, 2), (1, 5), (4, 1), (1, 1), (16, 32)]


def pair(grid: tuple[int, int], width: int = 3, samples: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, grid[0] * grid[1], width)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator) * 2 + 0.5


def transform(size: int) -> NDArray[np.complex128]:
    """The orthonormal DFT as a matrix."""
    order = np.arange(size)
    return np.exp(-2j * np.pi * order[:, None] * order / size) / np.sqrt(size)


def brute_spectral(projected: NDArray[np.float64], target: NDArray[np.float64], grid: tuple[int, int]) -> float:
    """Mean over samples, every frequency of the full spectrum and channels of | |F(P)| - |F(Z)| |."""
    magnitudes = []
    for tokens in (projected, target):
        images = tokens.reshape(len(tokens), *grid, -1)
        magnitudes.append(np.abs(np.einsum("ui,vj,bijd->buvd", transform(grid[0]), transform(grid[1]), images)))
    return float(np.abs(magnitudes[0] - magnitudes[1]).mean())


@pytest.mark.parametrize("grid", GRIDS)
def test_the_terms_equal_the_equations_written_out(grid: tuple[int, int]) -> None:
    projected, target = pair(grid)
    terms = S2KD(beta=0.5, lambda_=1.0).terms(projected, target, grid)
    exact = projected.double().numpy(), target.double().numpy()
    assert terms["semantic"].item() == pytest.approx(np.mean((exact[0] - exact[1]) ** 2), rel=1e-6)
    assert terms["spectral"].item() == pytest.approx(brute_spectral(*exact, grid), rel=1e-5)
    assert set(terms) == {"semantic", "spectral"}


def test_the_weights_are_lambda_and_lambda_times_beta() -> None:
    assert S2KD(beta=0.5, lambda_=0.2).weights == pytest.approx({"semantic": 0.2, "spectral": 0.1})
    assert S2KD(beta=0.0, lambda_=3.0).weights == {"semantic": 3.0, "spectral": 0.0}


def test_moving_a_pattern_on_the_grid_costs_semantics_but_no_spectrum() -> None:
    _, target = pair((4, 8))
    moved = target.unflatten(1, (4, 8)).roll((1, 3), (1, 2)).flatten(1, 2)
    terms = S2KD(0.5, 1.0).terms(moved, target, (4, 8))
    assert terms["spectral"].item() == pytest.approx(0, abs=1e-6)
    assert terms["semantic"].item() > 1


def test_tokens_are_read_row_by_row() -> None:
    projected, target = pair((2, 6))
    assert spectral_alignment(projected, target, (2, 6)) != pytest.approx(
        spectral_alignment(projected, target, (6, 2)).item(), rel=1e-3
    )


@pytest.mark.parametrize("grid", [(3, 4), (4, 5)])
def test_the_gradient_equals_central_differences(grid: tuple[int, int]) -> None:
    projected, target = pair(grid, width=2, samples=1)
    projected.requires_grad_()
    spectral_alignment(projected, target, grid).backward()
    assert projected.grad is not None
    base, step = projected.detach().double().numpy(), 1e-6
    numeric = np.empty_like(base)
    for index in np.ndindex(*base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        exact = target.double().numpy()
        numeric[index] = (brute_spectral(up, exact, grid) - brute_spectral(down, exact, grid)) / (2 * step)
    np.testing.assert_allclose(projected.grad.numpy(), numeric, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-23, 1e-38])
def test_gradients_are_finite_where_a_spectrum_vanishes(value: float) -> None:
    projected = torch.full((2, 32, 3), value, requires_grad=True)
    _, target = pair((4, 8))
    terms = S2KD(0.5, 1.0).terms(projected, target, (4, 8))
    (terms["semantic"] + terms["spectral"]).backward()
    assert projected.grad is not None
    assert torch.isfinite(projected.grad).all()


def test_the_orthonormal_term_does_not_grow_with_the_grid() -> None:
    values = [spectral_alignment(*pair(grid, width=64), grid).item() for grid in ((4, 8), (8, 16), (16, 32))]
    assert max(values) < 1.15 * min(values)


def test_autocast_leaves_the_spectral_term_in_float32() -> None:
    projected, target = pair((4, 8))
    plain = spectral_alignment(projected, target, (4, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = S2KD(0.5, 1.0).terms(projected, target, (4, 8))
    assert inside["spectral"].dtype == inside["semantic"].dtype == torch.float32
    assert torch.equal(inside["spectral"], plain)


def test_half_precision_latents_are_compared_in_float32() -> None:
    projected, target = pair((4, 8))
    terms = S2KD(0.5, 1.0).terms(projected.bfloat16(), target.half(), (4, 8))
    again = S2KD(0.5, 1.0).terms(projected.bfloat16().float(), target.half().float(), (4, 8))
    assert all(torch.equal(terms[name], again[name]) for name in again)
