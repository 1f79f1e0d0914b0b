"""Eq. 10-12 against a discrete Fourier transform written out in float64, over the whole spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.losses.s2kd import S2KD
from pipeline.losses.spectrum import spectral_alignment
from tests.losses import brute
from tests.losses.brute import GRIDS, pair


@pytest.mark.parametrize("grid", GRIDS)
def test_the_terms_equal_the_equations_written_out(grid: tuple[int, int]) -> None:
    projected, target = pair(grid)
    terms = S2KD(beta=0.5, lambda_=1.0).terms(projected, target, grid)
    exact = projected.double().numpy(), target.double().numpy()
    assert terms["semantic"].item() == pytest.approx(np.mean((exact[0] - exact[1]) ** 2), rel=1e-6)
    assert terms["spectral"].item() == pytest.approx(brute.spectral(*exact, grid), rel=1e-5)
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


@pytest.mark.parametrize("axes", ["grid", "tokens", "channels"])
def test_the_axes_of_the_transform_are_an_option(axes: str) -> None:
    projected, target = pair((4, 8))
    terms = S2KD(0.5, 1.0, spectral_axes=axes).terms(projected, target, (4, 8))
    expected = brute.spectral(projected.double().numpy(), target.double().numpy(), (4, 8), axes)
    assert terms["spectral"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(terms["semantic"], S2KD(0.5, 1.0).terms(projected, target, (4, 8))["semantic"])


@pytest.mark.parametrize("value", [0.0, 1e-23, 1e-38])
def test_gradients_are_finite_where_a_spectrum_vanishes(value: float) -> None:
    projected = torch.full((2, 32, 3), value, requires_grad=True)
    _, target = pair((4, 8))
    terms = S2KD(0.5, 1.0).terms(projected, target, (4, 8))
    (terms["semantic"] + terms["spectral"]).backward()
    assert projected.grad is not None
    assert torch.isfinite(projected.grad).all()


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
