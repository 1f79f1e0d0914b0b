"""What OpenSTL's sums must come to, by errors of `scores`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from pipeline.metrics.openstl import OpenSTL
from tests.fields import DIMS, describe, fields


def check_sums(metric: type[OpenSTL], mean_error: Callable[..., Any]) -> None:
    """mean_error: the same error of `scores`, which is a mean over what it does not preserve."""
    forecast, target = fields(0), fields(1)
    arrays = [xr.DataArray(tensor.double().numpy(), dims=DIMS) for tensor in (forecast, target)]
    per_window = metric(describe()).per_window(forecast, target).double().numpy()
    points = 16 * 32
    expected = mean_error(*arrays, preserve_dims=DIMS[:3]).to_numpy() * points
    np.testing.assert_allclose(per_window, expected, rtol=1e-5)
    one = per_window.mean((0, 1)).sum()  # as printed: mean over windows and frames, sum over the rest
    np.testing.assert_allclose(one, mean_error(*arrays).item() * points * 2, rtol=1e-5)
