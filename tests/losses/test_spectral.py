from __future__ import annotations

import pytest
import torch

from pipeline.losses.s2kd import S2KD
from pipeline.losses.semantic import Semantic
from pipeline.losses.spectral import Spectral
from tests.losses import brute


@pytest.mark.parametrize("axes", ["grid", "tokens", "channels"])
@pytest.mark.parametrize("grid", [(4, 8), (5, 7)])
def test_it_is_equation_11_over_the_chosen_axes(grid: tuple[int, int], axes: str) -> None:
    projected, target = brute.pair(grid)
    terms = Spectral(0.5, 1.0, spectral_axes=axes).terms(projected, target, grid)
    assert list(terms) == ["spectral"]
    expected = brute.spectral(projected.double().numpy(), target.double().numpy(), grid, axes)
    assert terms["spectral"].item() == pytest.approx(expected, rel=1e-5)


def test_s2kd_is_it_and_the_semantic_method_added_up() -> None:
    projected, target = brute.pair((4, 8))
    parts = [kind(0.3, 0.2) for kind in (Semantic, Spectral)]
    both = S2KD(0.3, 0.2)
    assert both.weights == parts[0].weights | parts[1].weights
    terms = both.terms(projected, target, (4, 8))
    for part in parts:
        ((name, value),) = part.terms(projected, target, (4, 8)).items()
        assert torch.equal(terms[name], value)


@pytest.mark.parametrize("value", [0.0, 1e-23])
def test_gradients_are_finite_where_a_spectrum_vanishes(value: float) -> None:
    projected = torch.full((2, 32, 3), value, requires_grad=True)
    Spectral(0.5, 1.0).terms(projected, brute.pair((4, 8))[1], (4, 8))["spectral"].backward()
    assert projected.grad is not None
    assert torch.isfinite(projected.grad).all()


def test_half_precision_latents_are_compared_in_float32() -> None:
    projected, target = brute.pair((4, 8))
    half = Spectral(0.5, 1.0).terms(projected.bfloat16(), target.half(), (4, 8))["spectral"]
    assert torch.equal(
        half, Spectral(0.5, 1.0).terms(projected.bfloat16().float(), target.half().float(), (4, 8))["spectral"]
    )
