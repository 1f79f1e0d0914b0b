from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.losses.kd import KD

SHAPE = (2, 3, 2, 4, 5)  # windows, lead times, variables, rows, columns


def fields(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Forecast, truth, and a teacher's forecast that is better for some maps and worse for others."""
    generator = torch.Generator().manual_seed(seed)
    forecast, truth, error = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    return forecast, truth, truth + error * torch.rand(SHAPE[:3], generator=generator)[..., None, None] * 3


def brute_bounded(forecast: Tensor, truth: Tensor, taught: Tensor, margin: float) -> float:
    """Map by map, in float64."""
    student, target, teacher = (each.double().numpy() for each in (forecast, truth, taught))
    values = []
    for index in np.ndindex(*SHAPE[:3]):
        error = np.mean((student[index] - target[index]) ** 2)
        bound = np.mean((teacher[index] - target[index]) ** 2)
        values.append(error if error + margin > bound else 0.0)
    return float(np.mean(values))


def test_it_learns_from_forecasts_and_not_from_features() -> None:
    loss = KD(0.5, 0.3)
    assert (loss.uses_features, loss.uses_forecasts) == (False, True)
    assert loss.terms(torch.ones(1, 4, 2), torch.zeros(1, 4, 2), (2, 2)) == {}
    assert loss.weights == {"output": 0.3}


def test_matching_is_the_mean_squared_error_to_the_teachers_forecast() -> None:
    forecast, truth, taught = fields()
    terms = KD(0.5, 1.0).forecast_terms(forecast, truth, taught)
    assert list(terms) == ["output"]
    assert terms["output"].item() == pytest.approx(
        np.mean((forecast.double().numpy() - taught.double().numpy()) ** 2), rel=1e-6
    )


def test_with_lambda_it_is_a_mean_of_truth_and_teacher_but_for_a_factor() -> None:
    forecast, truth, taught = fields()
    lambda_ = 0.25
    alpha = lambda_ / (1 + lambda_)
    total = (forecast - truth).square().mean() + lambda_ * KD(0.5, lambda_).forecast_terms(forecast, truth, taught)[
        "output"
    ]
    mixed = (1 - alpha) * (forecast - truth).square().mean() + alpha * (forecast - taught).square().mean()
    assert total.item() == pytest.approx((1 + lambda_) * mixed.item(), rel=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
def test_bounded_it_is_the_students_error_where_the_teacher_is_better(margin: float) -> None:
    forecast, truth, taught = fields()
    terms = KD(0.5, 1.0, teacher_bounded=True, bound_margin=margin).forecast_terms(forecast, truth, taught)
    assert terms["output"].item() == pytest.approx(brute_bounded(forecast, truth, taught, margin), rel=1e-6)


def test_the_margin_draws_in_what_was_at_rest() -> None:
    forecast, truth, taught = fields()
    values = [
        KD(0.5, 1.0, True, margin).forecast_terms(forecast, truth, taught)["output"].item()
        for margin in (0.0, 3.0, 99.0)
    ]
    assert 0 < values[0] < values[1] < values[2] == pytest.approx((forecast - truth).square().mean().item(), rel=1e-6)


def test_bounded_a_student_ahead_of_its_teacher_is_left_alone() -> None:
    forecast, truth, _ = fields()
    forecast.requires_grad_()
    term = KD(0.5, 1.0, teacher_bounded=True).forecast_terms(forecast, truth, truth + 100)["output"]
    (gradient,) = torch.autograd.grad(term, forecast)
    assert term.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("bounded", [True, False])
def test_gradients_are_finite_at_zero(bounded: bool) -> None:
    forecast = torch.zeros(SHAPE, requires_grad=True)
    for truth in (torch.zeros(SHAPE), fields()[1]):
        term = KD(0.5, 1.0, bounded).forecast_terms(forecast, truth, torch.zeros(SHAPE))["output"]
        (gradient,) = torch.autograd.grad(term, forecast)
        assert torch.isfinite(gradient).all()


def test_half_precision_is_compared_in_float32() -> None:
    forecast = torch.full(SHAPE, 300.0).half()
    zeros = torch.zeros(SHAPE)
    for bounded in (True, False):
        assert KD(0.5, 1.0, bounded).forecast_terms(forecast, zeros, zeros)["output"].item() == 90000.0
