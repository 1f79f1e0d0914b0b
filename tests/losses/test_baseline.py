from __future__ import annotations

import torch

from pipeline.distillation import distillation_loss
from pipeline.losses.baseline import Baseline


def test_it_adds_nothing_and_asks_for_no_teacher() -> None:
    loss = Baseline(beta=0.5, lambda_=1.0)
    assert loss.terms(torch.ones(1, 4, 2), torch.zeros(1, 4, 2), (2, 2)) == {}
    assert loss.weights == {}
    assert not loss.uses_features


def test_the_other_methods_ask_for_a_teacher() -> None:
    assert all(distillation_loss(name, 0.5, 1.0).uses_features for name in ("fitnet", "s2kd"))
