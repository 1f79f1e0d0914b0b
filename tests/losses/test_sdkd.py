from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.losses.fitnet import FitNet
from pipeline.losses.sdkd import SDKD
from tests.losses import brute


@pytest.mark.parametrize("cutoff", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("grid", brute.GRIDS)
def test_its_terms_are_the_errors_of_the_filtered_features(grid: tuple[int, int], cutoff: float) -> None:
    projected, target = brute.pair(grid)
    terms = SDKD(0.5, 1.0, frequency_cutoff=cutoff).terms(projected, target, grid)
    assert list(terms) == ["high_band", "low_band"]
    for name, low in (("high_band", False), ("low_band", True)):
        parts = [brute.filtered(each.double().numpy(), grid, cutoff, low) for each in (projected, target)]
        assert terms[name].item() == pytest.approx(np.mean(np.abs(parts[0] - parts[1]) ** 2), rel=1e-5, abs=1e-7)


def test_alpha_weighs_the_low_band_alone() -> None:
    assert SDKD(9.0, 0.2, low_band_weight=0.3).weights == pytest.approx({"high_band": 0.2, "low_band": 0.06})


def test_with_equal_weights_it_is_fitnet() -> None:
    projected, target = brute.pair((6, 9))
    loss = SDKD(0.5, 0.2, low_band_weight=1.0)
    total = sum(loss.weights[name] * value.item() for name, value in loss.terms(projected, target, (6, 9)).items())
    assert total == pytest.approx(0.2 * FitNet(0.5, 0.2).terms(projected, target, (6, 9))["hint"].item(), rel=1e-5)


def waves(rows: int, columns: int) -> torch.Tensor:
    """(1, L, 1): a wave over a grid of 8 x 16 tokens."""
    row, column = torch.arange(8)[:, None] / 8, torch.arange(16)[None, :] / 16
    return torch.cos(2 * torch.pi * (rows * row + columns * column)).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("rows", "columns", "band"),
    [(0, 0, "low_band"), (0, 4, "low_band"), (2, 0, "low_band"), (0, 5, "high_band"), (2, 4, "high_band")],
)
def test_a_wave_is_in_the_band_of_its_length_on_the_grid(rows: int, columns: int, band: str) -> None:
    wave = waves(rows, columns)
    terms = SDKD(0.5, 1.0, frequency_cutoff=0.5).terms(wave, torch.zeros_like(wave), (8, 16))
    inside = terms.pop(band)
    assert inside.item() == pytest.approx(wave.square().mean().item(), rel=1e-5)
    assert next(iter(terms.values())).item() < 1e-10


@pytest.mark.parametrize("value", [0.0, 1e-23])
def test_gradients_are_finite_at_zero(value: float) -> None:
    projected = torch.full((2, 32, 3), value, requires_grad=True)
    for target in (torch.zeros(2, 32, 3), brute.pair((4, 8))[1]):
        (gradient,) = torch.autograd.grad(
            torch.stack([*SDKD(0.5, 1.0).terms(projected, target, (4, 8)).values()]).sum(), projected
        )
        assert torch.isfinite(gradient).all()


def test_half_precision_is_compared_in_float32() -> None:
    projected = torch.full((1, 4, 2), 300.0).half()
    terms = SDKD(0.5, 1.0).terms(projected, torch.zeros(1, 4, 2).half(), (2, 2))
    assert terms["low_band"].item() == pytest.approx(90000.0)
