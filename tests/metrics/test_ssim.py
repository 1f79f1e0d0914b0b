from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.metrics.ssim import SSIM
from tests.fields import describe, fields


@pytest.mark.parametrize("shape", [(16, 32), (11, 12)])
def test_ssim_agrees_with_scikit_image(shape: tuple[int, int]) -> None:
    description = describe(shape)
    target = fields(0, shape=shape)
    forecast = target + 0.3 * (fields(1, shape=shape) - target)
    mean, std = (np.asarray(s)[:, None, None] for s in (description.statistics.mean, description.statistics.std))
    images = [(tensor.double().numpy() - mean) / std + 3 for tensor in (forecast, target)]
    options = {"data_range": 6.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(a, b, **options)
        for a, b in zip(*(image.reshape(-1, *shape) for image in images), strict=True)
    ]
    similarity = SSIM(description).per_window(forecast, target)
    np.testing.assert_allclose(similarity.flatten(), expected, atol=2e-5)
    assert 0.2 < similarity.mean() < 0.99


@pytest.mark.parametrize("shape", [(8, 16), (3, 40), (10, 10), (16, 32)])
def test_a_field_is_fully_similar_to_itself_and_less_to_another_on_any_grid(shape: tuple[int, int]) -> None:
    metric = SSIM(describe(shape))
    first, second = fields(0, shape=shape), fields(1, shape=shape)
    torch.testing.assert_close(metric.per_window(first, first), torch.ones(first.shape[:3]))
    assert (metric.per_window(first, second) < 0.9).all()


def test_frames_and_variables_are_scored_apart() -> None:
    metric = SSIM(describe())
    target = fields(0)
    forecast = target.clone()
    forecast[1, 0, 1] = fields(1)[1, 0, 1]
    similarity = metric.per_window(forecast, target)
    assert similarity[1, 0, 1] < 0.9
    similarity[1, 0, 1] = 1
    torch.testing.assert_close(similarity, torch.ones(target.shape[:3]))
