from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import uniform_filter
from scores.categorical import BasicContingencyManager, BinaryContingencyManager
from scores.spatial import fss_2d

from pipeline import extremes
from pipeline.batch import Batch
from pipeline.extremes import TAILS, Extremes
from pipeline.metrics.base import area_weights
from pipeline.store import Grid
from tests.fields import DIMS, describe, fields

FOR_COUNTS = {"pod": "probability_of_detection", "far": "false_alarm_ratio", "csi": "critical_success_index"}
FOR_COUNTS |= {"sedi": "symmetric_extremal_dependence_index", "base_rate": "base_rate"}
MANY = torch.stack([fields(seed, windows=1, leads=1)[0, 0] for seed in range(200)])  # (time, C, H, W)
RARE = torch.from_numpy(extremes.thresholds(MANY.numpy(), np.arange(200)))


def pair(windows: int = 6) -> tuple[torch.Tensor, Batch]:
    """A forecast that knows something of the truth."""
    target = fields(1000, windows)
    forecast = 0.7 * target + 0.3 * fields(1001, windows)
    return forecast, Batch(torch.arange(windows), target, target)


def grid(plane: bool) -> Grid:
    return describe(dims=("y", "x") if plane else ("latitude", "longitude")).grid


def test_thresholds_are_numpys_quantiles_over_the_chosen_frames_however_they_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = np.arange(0, 200, 3)
    whole = extremes.thresholds(MANY.numpy(), frames)
    expected = np.quantile(MANY.numpy()[frames], [tail.quantile for tail in TAILS], axis=0)
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    monkeypatch.setattr(extremes, "BYTES_AT_ONCE", 7 * len(frames) * 4)
    np.testing.assert_array_equal(extremes.thresholds(MANY.numpy(), frames), whole)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # in scores, where nothing is hit
@pytest.mark.parametrize("plane", [True, False])
def test_scores_of_pooled_counts_agree_with_scores(plane: bool) -> None:
    forecast, batch = pair()
    found = extremes.scores(Extremes(RARE, grid(plane), 5)(forecast, batch).numpy())
    weights = xr.DataArray(area_weights(grid(plane)), dims="row")
    for number, tail in enumerate(TAILS):
        beyond = torch.gt if tail.name == "upper" else torch.lt
        said, true = (
            xr.DataArray(beyond(f, RARE[number]).double().numpy(), dims=DIMS) for f in (forecast, batch.targets)
        )
        counts = {
            "tp_count": said * true,
            "tn_count": (1 - said) * (1 - true),
            "fp_count": said * (1 - true),
            "fn_count": (1 - said) * true,
        }
        pooled = {
            name: (each * weights).sum([dim for dim in DIMS if dim != "variable"]) for name, each in counts.items()
        }
        pooled["total_count"] = sum(pooled.values(), xr.zeros_like(pooled["tp_count"]))
        oracle = BasicContingencyManager(pooled)
        for name, method in FOR_COUNTS.items():
            np.testing.assert_allclose(found[name][:, number], getattr(oracle, method)(), rtol=1e-6, err_msg=name)
        if plane:
            plain = BinaryContingencyManager(said, true).transform(preserve_dims="variable")
            np.testing.assert_allclose(found["csi"][:, number], plain.critical_success_index(), rtol=1e-9)


def test_fss_on_a_plane_agrees_with_scores() -> None:
    forecast, batch = pair()
    found = extremes.scores(Extremes(RARE, grid(plane=True), 5)(forecast, batch).numpy())["fss"]
    for number, tail in enumerate(TAILS):
        sign = 1 if tail.name == "upper" else -1
        arrays = [
            xr.DataArray((sign * (field - RARE[number])).double().numpy(), dims=DIMS)
            for field in (forecast, batch.targets)
        ]
        expected = fss_2d(
            *arrays,
            event_threshold=0.0,
            threshold_operator=np.greater,
            window_size=(5, 5),
            spatial_dims=("row", "column"),
            preserve_dims=["variable"],
        )
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-6)
    assert (np.diff(found[:, :3]) < 0).all()  # the rarer, the harder


def test_neighbourhoods_wrap_around_the_globe_and_rows_have_their_area() -> None:
    forecast, batch = pair(windows=2)
    globe = grid(plane=False)
    found = extremes.scores(Extremes(RARE, globe, 3)(forecast, batch).numpy())["fss"]
    shares = [
        uniform_filter((field > RARE[0]).double().numpy(), (0, 0, 0, 3, 3), mode="wrap")[..., 1:-1, :]
        for field in (forecast, batch.targets)
    ]
    rows = area_weights(globe)[1:-1, None]
    differences, squares = ((each * rows).sum((0, 1, 3, 4)) for each in ((shares[0] - shares[1]) ** 2, shares[0] ** 2))
    squares = squares + (shares[1] ** 2 * rows).sum((0, 1, 3, 4))
    np.testing.assert_allclose(found[:, 0], 1 - differences / squares, rtol=1e-6)


def test_a_perfect_forecast_hits_all_and_tallies_add_up() -> None:
    _, batch = pair()
    tally = Extremes(RARE, grid(plane=False), 5)
    perfect = extremes.scores(tally(batch.targets, batch).numpy())
    assert (perfect["pod"] == 1).all()
    assert (perfect["far"] == 0).all()
    assert (perfect["csi"] == 1).all()
    np.testing.assert_allclose(perfect["fss"], 1)
    assert np.isnan(perfect["sedi"]).all()  # the logarithm of no miss
    forecast, _ = pair()
    parts = [
        tally(forecast[rows], Batch(batch.windows[rows], batch.inputs[rows], batch.targets[rows]))
        for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), tally(forecast, batch), rtol=1e-9, atol=1e-9)


def test_a_forecast_that_never_exceeds_has_no_false_alarm_ratio_and_nothing_divides_by_zero() -> None:
    _, batch = pair()
    smooth = RARE[0].expand_as(batch.targets)  # on the threshold, not beyond it
    found = extremes.scores(Extremes(RARE, grid(plane=False), 5)(smooth, batch).numpy())
    assert (found["pod"][:, 0] == 0).all()
    assert np.isnan(found["far"][:, 0]).all()
    assert (found["csi"][:, 0] == 0).all()
    np.testing.assert_allclose(found["base_rate"][:, 0], 0.1, atol=0.02)


def test_a_neighbourhood_is_no_wider_than_the_grid() -> None:
    shape = (4, 6)
    description = describe(shape)
    target = fields(0, shape=shape)
    rare = torch.quantile(target.flatten(0, 1), 0.9, dim=0).expand(len(TAILS), -1, -1, -1)
    found = Extremes(rare, description.grid, 9)(target, Batch(torch.arange(3), target, target))
    np.testing.assert_allclose(extremes.scores(found.numpy())["fss"], 1)
