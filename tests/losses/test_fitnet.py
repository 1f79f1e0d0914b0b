from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.losses.fitnet import FitNet


def test_the_hint_is_the_mean_squared_error_of_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    projected, target = torch.randn(2, 3, 12, 5, generator=generator).unbind(0)
    terms = FitNet(beta=0.5, lambda_=0.3).terms(projected, target, (3, 4))
    assert list(terms) == ["hint"]
    expected = np.mean((projected.double().numpy() - target.double().numpy()) ** 2)
    assert terms["hint"].item() == pytest.approx(expected, rel=1e-6)


def test_lambda_weighs_it_and_beta_does_not_touch_it() -> None:
    assert FitNet(beta=9.0, lambda_=0.3).weights == {"hint": 0.3}


def test_half_precision_is_compared_in_float32() -> None:
    projected = torch.full((1, 4, 2), 300.0).half()  # its square does not fit float16
    assert FitNet(0.5, 1.0).terms(projected, torch.zeros(1, 4, 2).half(), (2, 2))["hint"].item() == 90000.0


def test_gradients_are_finite_at_zero() -> None:
    """Nothing learnt yet, or all: a hint that is met pulls nowhere."""
    projected = torch.zeros(2, 12, 5, requires_grad=True)
    for target, moves in ((torch.zeros(2, 12, 5), False), (torch.ones(2, 12, 5), True)):
        (gradient,) = torch.autograd.grad(FitNet(0.5, 1.0).terms(projected, target, (3, 4))["hint"], projected)
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any()) == moves
