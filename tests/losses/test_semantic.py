from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.losses.fitnet import FitNet
from pipeline.losses.s2kd import S2KD
from pipeline.losses.semantic import Semantic
from tests.losses import brute


def test_it_is_equation_10_and_the_semantic_part_of_s2kd() -> None:
    projected, target = brute.pair((3, 4))
    terms = Semantic(0.5, 0.3).terms(projected, target, (3, 4))
    expected = np.mean((projected.double().numpy() - target.double().numpy()) ** 2)
    assert list(terms) == ["semantic"]
    assert terms["semantic"].item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(terms["semantic"], S2KD(0.5, 0.3).terms(projected, target, (3, 4))["semantic"])
    assert Semantic(0.5, 0.3).weights["semantic"] == S2KD(0.5, 0.3).weights["semantic"] == 0.3


def test_it_measures_what_fitnet_measures() -> None:
    projected, target = brute.pair((3, 4))
    hint = FitNet(0.5, 0.3).terms(projected, target, (3, 4))["hint"]
    assert torch.equal(Semantic(0.5, 0.3).terms(projected, target, (3, 4))["semantic"], hint)


def test_half_precision_is_compared_in_float32() -> None:
    projected = torch.full((1, 4, 2), 300.0).half()  # its square does not fit float16
    assert Semantic(0.5, 1.0).terms(projected, torch.zeros(1, 4, 2).half(), (2, 2))["semantic"].item() == 90000.0


def test_the_gradient_of_equal_tokens_is_zero() -> None:
    projected = torch.zeros(1, 4, 2, requires_grad=True)
    Semantic(0.5, 1.0).terms(projected, torch.zeros(1, 4, 2), (2, 2))["semantic"].backward()
    assert projected.grad is not None
    assert (projected.grad == 0).all()
