from __future__ import annotations

import numpy as np
import scores.continuous
import torch
import xarray as xr

from pipeline.metrics.mse import MSE
from tests.fields import DIMS, describe, fields


def test_mse_agrees_with_scores_on_z_scored_fields() -> None:
    description = describe()
    forecast, target = fields(0), fields(1)
    mean, std = (np.asarray(s)[:, None, None] for s in (description.statistics.mean, description.statistics.std))
    arrays = [xr.DataArray((tensor.numpy() - mean) / std, dims=DIMS) for tensor in (forecast, target)]
    expected = scores.continuous.mse(*arrays, preserve_dims=DIMS[:3]).to_numpy()
    np.testing.assert_allclose(MSE(description).per_window(forecast, target), expected, rtol=1e-4)


def test_an_error_of_one_standard_deviation_has_mse_one() -> None:
    description = describe()
    target = fields(0)
    step = torch.tensor(description.statistics.std, dtype=torch.float32)[:, None, None]
    torch.testing.assert_close(MSE(description).per_window(target + step, target), torch.ones(target.shape[:3]))
