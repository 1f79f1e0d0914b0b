from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cosine

from pipeline.metrics.acc import ACC
from tests.fields import describe, fields


def anomalies(seed: int) -> torch.Tensor:
    return fields(seed) - torch.tensor(describe().statistics.climatology)


def test_acc_is_the_weighted_cosine_of_scipy_between_anomaly_maps() -> None:
    description = describe()
    forecast, target = anomalies(0) + 0.5 * anomalies(1), anomalies(1)
    weights = np.repeat(np.cos(np.deg2rad(description.grid.y)), len(description.grid.x))
    found = ACC(description).per_window(forecast, target)
    maps = [tensor.double().numpy().reshape(-1, weights.size) for tensor in (forecast, target)]
    expected = [1 - cosine(a, b, weights) for a, b in zip(*maps, strict=True)]
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-5)
    assert 0.2 < found.mean() < 0.8


def test_it_is_one_whatever_the_amplitude_and_minus_one_upside_down() -> None:
    target = anomalies(0)
    metric = ACC(describe())
    torch.testing.assert_close(metric.per_window(3 * target, target), torch.ones(target.shape[:3]))
    torch.testing.assert_close(metric.per_window(-target, target), -torch.ones(target.shape[:3]))


def test_the_climatology_itself_scores_nothing() -> None:
    target = anomalies(0)
    assert (ACC(describe()).per_window(torch.zeros_like(target), target) == 0).all()


def test_a_common_shift_counts_because_it_is_not_centred() -> None:
    target = anomalies(0)
    assert (ACC(describe()).per_window(target + 100, target) < 0.5).all()
