from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import scores.continuous
import torch
import xarray as xr

from pipeline import rollout
from pipeline.batch import Batch
from pipeline.datasets.base import mark
from pipeline.evaluation import Run, persistence
from pipeline.windows import WindowDataset
from pipeline.work import Work
from tests.helpers import make_store, moving_waves, record, tiny_params, write_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drift(batch: Batch) -> torch.Tensor:
    """Goes on as the last two frames did, which a forecast made from forecasts shows at every step."""
    change = batch.inputs[:, -1:] - batch.inputs[:, -2:-1]
    steps = torch.arange(1, batch.targets.shape[1] + 1)[None, :, None, None, None]
    return batch.inputs[:, -1:] + steps * change


@pytest.mark.parametrize(("t_in", "t_out"), [(2, 2), (3, 2), (2, 3)])
def test_forecasts_take_the_place_of_frames_and_are_held_against_the_record(
    folder: Path, t_in: int, t_out: int
) -> None:
    store = make_store(folder / "store", 240, t_in=t_in, t_out=t_out, step=2)
    test = WindowDataset(store, "test")
    positions = rollout.long_enough(test, 3)
    found = rollout.errors(Run("drift"), drift, test, positions, 3, batch_size=4)
    starts = store.windows.start[test.numbers[positions]]
    last = starts + 2 * (t_in - 1)
    frame = test.fields[last]
    change = frame - test.fields[last - 2]
    weights = xr.DataArray(np.cos(np.deg2rad(store.description.grid.y)), dims="row")
    dims = ["window", "variable", "row", "column"]
    assert found.shape == (3 * t_out, 2)
    for lead in range(1, 3 * t_out + 1):
        said, true = frame + lead * change, test.fields[last + 2 * lead]
        arrays = [xr.DataArray(each.astype(float), dims=dims) for each in (said, true)]
        expected = scores.continuous.rmse(*arrays, preserve_dims="variable", weights=weights)
        np.testing.assert_allclose(found[lead - 1], expected, rtol=1e-3)


def test_no_window_is_rolled_out_of_the_split_or_over_a_gap(folder: Path) -> None:
    numbers = np.repeat(np.arange(10), 12)
    raw = record(
        {"z500": moving_waves(120), "t850": moving_waves(120, seed=1)}, names=("time", "latitude", "longitude")
    )
    store = write_store(folder / "store", mark(raw, segment=numbers), tiny_params())
    windows, span = store.windows, 2 + 3 * 2
    for split in ("train", "validation", "test"):
        dataset = WindowDataset(store, split)
        assert dataset.numbers[rollout.long_enough(dataset, 1)].tolist() == dataset.numbers.tolist()
        chosen = dataset.numbers[rollout.long_enough(dataset, 3)]
        ends = {int(numbers[start]): int(start) + 3 for start in windows.start[dataset.numbers]}  # of its last window
        assert len(chosen)
        expected = [n for n in dataset.numbers if windows.start[n] + span - 1 <= ends[int(numbers[windows.start[n]])]]
        assert chosen.tolist() == expected


def test_the_first_pass_is_the_forecast_itself_and_text_stays(folder: Path) -> None:
    test = WindowDataset(make_store(folder / "store"), "test")
    batch = test.__getitems__([0, 1, 2])
    first = next(rollout.roll(drift, test, batch, 3))
    torch.testing.assert_close(first[0], drift(batch))
    torch.testing.assert_close(first[1], batch.targets)


def test_a_forecast_that_runs_away_has_an_infinite_error_and_stops_nothing(folder: Path) -> None:
    test = WindowDataset(make_store(folder / "store"), "test")
    found = rollout.errors(Run("m"), lambda batch: batch.inputs * 1e20, test, rollout.long_enough(test, 3), 3, 4)
    assert np.isinf(found[-1]).all()


def test_a_record_too_short_gives_no_rollout_but_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    test = WindowDataset(make_store(folder / "store"), "test")
    with Work("evaluate") as work, caplog.at_level(logging.WARNING):
        assert rollout.errors_of_all({Run("p"): persistence}, test, 50, 4, work) == {}
        assert "50 forecasts in a row" in caplog.text
        assert rollout.errors_of_all({Run("p"): persistence}, test, 0, 4, work) == {}
        assert set(rollout.errors_of_all({Run("p"): persistence}, test, 2, 4, work)) == {Run("p")}
