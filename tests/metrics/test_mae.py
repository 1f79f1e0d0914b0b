from __future__ import annotations

import numpy as np
import scores.continuous
import torch
import xarray as xr

from pipeline.metrics.mae import MAE
from tests.fields import DIMS, describe, fields


def test_mae_agrees_with_scores_on_z_scored_fields() -> None:
    description = describe()
    forecast, target = fields(0), fields(1)
    mean, std = (np.asarray(s)[:, None, None] for s in (description.statistics.mean, description.statistics.std))
    arrays = [xr.DataArray((tensor.numpy() - mean) / std, dims=DIMS) for tensor in (forecast, target)]
    expected = scores.continuous.mae(*arrays, preserve_dims=DIMS[:3]).to_numpy()
    np.testing.assert_allclose(MAE(description).per_window(forecast, target), expected, rtol=1e-4)


def test_errors_of_both_signs_do_not_cancel() -> None:
    description = describe()
    target = fields(0)
    step = torch.tensor(description.statistics.std, dtype=torch.float32)[:, None, None]
    signs = torch.ones(target.shape[-1])
    signs[::2] = -1
    torch.testing.assert_close(MAE(description).per_window(target + signs * step, target), torch.ones(target.shape[:3]))
