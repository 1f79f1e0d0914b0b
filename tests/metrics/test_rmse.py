from __future__ import annotations

import numpy as np
import scores.continuous
import torch
import xarray as xr

from pipeline.metrics.rmse import RMSE
from tests.fields import DIMS, describe, fields


def test_rmse_agrees_with_scores_weighted_by_the_cosine_of_latitude() -> None:
    description = describe()
    forecast, target = fields(0, windows=7), fields(1, windows=7)
    arrays = [xr.DataArray(tensor.double().numpy(), dims=DIMS) for tensor in (forecast, target)]
    weights = xr.DataArray(np.cos(np.deg2rad(description.grid.y)), dims="row")
    expected = scores.continuous.rmse(*arrays, preserve_dims=["lead", "variable"], weights=weights).to_numpy()
    metric = RMSE(description)
    per_window = metric.per_window(forecast, target).double().numpy()
    np.testing.assert_allclose(metric.finish(per_window.mean(0)), expected, rtol=1e-4)


def test_the_root_is_taken_after_the_mean_over_windows() -> None:
    description = describe()
    target = fields(0, windows=2)
    error = torch.tensor([0.0, 8.0])[:, None, None, None, None].expand_as(target)
    metric = RMSE(description)
    mean = metric.per_window(target + error, target).double().numpy().mean(0)
    np.testing.assert_allclose(metric.finish(mean), np.sqrt(32), rtol=1e-3)


def test_an_error_at_the_pole_counts_less_than_at_the_equator() -> None:
    description = describe()
    target = torch.zeros(1, 1, 2, *description.grid.shape)
    at_pole, at_equator = target.clone(), target.clone()
    at_pole[..., 0, :] = 1
    at_equator[..., description.grid.shape[0] // 2, :] = 1
    ratio = RMSE(description).per_window(at_pole, target) / RMSE(description).per_window(at_equator, target)
    rows = np.cos(np.deg2rad(description.grid.y))
    np.testing.assert_allclose(ratio, rows[0] / rows[len(rows) // 2], rtol=1e-5)


def test_a_plane_has_no_latitude_weights() -> None:
    forecast, target = fields(0), fields(1)
    expected = (forecast - target).square().mean((-2, -1))
    torch.testing.assert_close(RMSE(describe(dims=("y", "x"))).per_window(forecast, target), expected)
