from __future__ import annotations

import numpy as np
import scores.continuous
import xarray as xr

from pipeline.metrics.mae_openstl import MAEOpenSTL
from tests.fields import DIMS, describe, fields


def test_it_is_the_error_of_scores_times_the_number_of_values_summed() -> None:
    description = describe()
    forecast, target = fields(0), fields(1)
    arrays = [xr.DataArray(tensor.double().numpy(), dims=DIMS) for tensor in (forecast, target)]
    per_window = MAEOpenSTL(description).per_window(forecast, target).double().numpy()
    points = 16 * 32
    expected = scores.continuous.mae(*arrays, preserve_dims=DIMS[:3]).to_numpy() * points
    np.testing.assert_allclose(per_window, expected, rtol=1e-5)
    one = per_window.mean((0, 1)).sum()  # as printed: mean over windows and frames, sum over the rest
    np.testing.assert_allclose(one, scores.continuous.mae(*arrays).item() * points * 2, rtol=1e-5)
