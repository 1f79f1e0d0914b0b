from __future__ import annotations

import numpy as np
import pytest

from pipeline.highlight import Box, busiest_box, detail, detail_kept
from pipeline.store import Grid

GLOBE = Grid(("latitude", "longitude"), -90 + (np.arange(32) + 0.5) * 180 / 32, np.arange(64) * 360 / 64)
PLANE = Grid(("y", "x"), np.arange(32, dtype=np.float64), np.arange(64, dtype=np.float64))


def smooth() -> np.ndarray:
    return np.broadcast_to(np.cos(np.deg2rad(GLOBE.y))[:, None], (32, 64)).astype(np.float32) * 100


def checkered(rows: slice, columns: slice, height: float = 5) -> np.ndarray:
    field = smooth()
    signs = np.where(np.indices((32, 64)).sum(0) % 2, height, -height)
    field[rows, columns] += signs[rows, columns]
    return field


@pytest.mark.parametrize("grid", [GLOBE, PLANE], ids=["globe", "plane"])
def test_detail_is_the_field_less_a_mean_over_its_neighbours(grid: Grid) -> None:
    field = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    found = detail(field, grid)
    for row, column in ((10, 20), (5, 0), (0, 63)):
        rows = np.clip(np.arange(row - 2, row + 3), 0, 31)
        columns = np.arange(column - 2, column + 3)
        columns = columns % 64 if grid.periodic else np.clip(columns, 0, 63)
        assert found[row, column] == pytest.approx(field[row, column] - field[np.ix_(rows, columns)].mean(), abs=1e-6)


def test_the_box_is_a_quarter_of_each_side_and_lies_on_the_busy_place() -> None:
    box = busiest_box(checkered(slice(12, 20), slice(30, 46)), GLOBE)
    assert box == Box(12, 20, 30, 46)
    assert box.of(smooth()).shape == (8, 16)


def test_detail_near_a_pole_counts_by_the_area_that_it_covers() -> None:
    field = (
        checkered(slice(0, 8), slice(0, 16), height=6) + checkered(slice(12, 20), slice(40, 56), height=5) - smooth()
    )
    assert busiest_box(field, GLOBE) == Box(12, 20, 40, 56)
    assert busiest_box(field, PLANE).bottom == 0


def test_a_blurred_forecast_keeps_less_detail_and_the_truth_all() -> None:
    truth = checkered(slice(12, 20), slice(30, 46))
    box = busiest_box(truth, PLANE)
    assert detail_kept(truth, truth, box, PLANE) == pytest.approx(1)
    half = checkered(slice(12, 20), slice(30, 46), height=2.5)
    assert 0.2 < detail_kept(half, truth, box, PLANE) < 0.3
    assert np.isnan(detail_kept(truth, np.zeros((32, 64), dtype=np.float32), box, PLANE))


def test_a_tiny_map_has_a_box_too() -> None:
    field = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    grid = Grid(("y", "x"), np.arange(3, dtype=np.float64), np.arange(2, dtype=np.float64))
    assert busiest_box(field, grid).of(field).shape == (1, 1)
