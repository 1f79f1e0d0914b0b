from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import UserError
from pipeline.features import Features, Forecasts
from tests.core import features_of, forecast_of, write_features


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_features_are_found_by_window_number_in_any_order() -> None:
    features = write_features(Path("features.zarr"), np.array([4, 5, 9, 12]), grid=(2, 3), width=5)
    assert (features.grid, features.width) == ((2, 3), 5)
    asked = np.array([12, 4, 9, 4])
    expected = np.stack([features_of(window, (2, 3), 5) for window in asked])
    assert np.array_equal(features.of(asked), expected)


@pytest.mark.parametrize("window", [0, 7, 13, 99])
def test_a_window_without_features_is_named(window: int) -> None:
    features = write_features(Path("features.zarr"), np.array([4, 5, 9, 12]))
    with pytest.raises(UserError, match=f"window {window} has no teacher features"):
        features.of(np.array([4, window]))


def test_a_folder_that_holds_no_features_is_named() -> None:
    with pytest.raises(UserError, match=r"none\.zarr is missing; `dvc repro` makes it"):
        Features(Path("none.zarr"))
    zarr.open_group("other.zarr", mode="w", zarr_format=3)
    with pytest.raises(UserError, match=r"other\.zarr is not a store of teacher features"):
        Features(Path("other.zarr"))


def test_forecasts_are_found_by_window_number_in_any_order() -> None:
    write_features(Path("features.zarr"), np.array([4, 5, 9, 12]), forecast=(2, 1, 3, 4))
    asked = np.array([12, 4, 9, 4])
    expected = np.stack([forecast_of(window, (2, 1, 3, 4)) for window in asked])
    forecasts = Forecasts(Path("features.zarr"))
    assert np.array_equal(forecasts.of(asked), expected)
    with pytest.raises(UserError, match="window 7 has no teacher features"):
        forecasts.of(np.array([4, 7]))


def test_a_store_without_forecasts_names_the_key_that_stores_them() -> None:
    write_features(Path("features.zarr"), np.array([4, 5]))
    with pytest.raises(UserError, match=r"holds no forecasts of the teacher; set dump_features\.forecasts = true"):
        Forecasts(Path("features.zarr"))
