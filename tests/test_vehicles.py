from __future__ import annotations

import numpy as np
import pytest
import scores.continuous
import torch
import xarray as xr

from pipeline import vehicles
from pipeline.batch import Batch
from pipeline.store import Variable
from pipeline.vehicles import Above


def counts(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 40, (5, 2, 2, 6, 7), generator=generator).float()


def test_errors_above_a_threshold_agree_with_scores_on_the_values_kept() -> None:
    forecast, target = counts(0), counts(1)
    found = vehicles.scores(Above(10)(forecast, Batch(torch.arange(5), target, target)).numpy())
    for lead in range(2):
        for variable in range(2):
            said, true = (field[:, lead, variable].double().numpy().ravel() for field in (forecast, target))
            said, true = said[true >= 10], true[true >= 10]
            arrays = xr.DataArray(said), xr.DataArray(true)
            assert found["mae_above"][lead, variable] == pytest.approx(scores.continuous.mae(*arrays).item())
            assert found["rmse_above"][lead, variable] == pytest.approx(scores.continuous.rmse(*arrays).item())
            expected = 100 * scores.continuous.mae(arrays[0] / arrays[1], xr.ones_like(arrays[1])).item()
            assert found["mape_above"][lead, variable] == pytest.approx(expected)


def test_an_empty_street_does_not_enter_and_no_value_gives_no_score() -> None:
    target = counts(1).clamp(max=9)
    found = vehicles.scores(Above(10)(counts(0), Batch(torch.arange(5), target, target)).numpy())
    assert all(np.isnan(values).all() for values in found.values())


def test_traffic_is_known_by_its_units_or_its_name() -> None:
    assert vehicles.counts_vehicles([Variable("inflow", "vehicles per slot", "flow in")])
    assert vehicles.counts_vehicles([Variable("inflow", "1", "vehicles that entered the cell")])
    assert not vehicles.counts_vehicles([Variable("t850", "K", "temperature"), Variable("inflow", "vehicles", "in")])
