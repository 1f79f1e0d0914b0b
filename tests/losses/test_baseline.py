from __future__ import annotations

import torch

from pipeline.distillation import distillation_loss
from pipeline.losses import LOSSES
from pipeline.losses.baseline import Baseline


def test_it_adds_nothing_and_asks_for_no_teacher() -> None:
    loss = Baseline(beta=0.5, lambda_=1.0)
    assert loss.terms(torch.ones(1, 4, 2), torch.zeros(1, 4, 2), (2, 2)) == {}
    assert loss.weights == {}
    assert not loss.uses_features


def test_the_other_methods_ask_for_a_teacher() -> None:
    for name in set(LOSSES) - {"baseline"}:
        loss = distillation_loss(name, 0.5, 1.0)
        assert loss.uses_features or loss.uses_forecasts
