from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.base import area_weights
from pipeline.store import Grid


def grid(latitude: np.ndarray) -> Grid:
    return Grid(("latitude", "longitude"), latitude, np.linspace(0, 315, 8))


def test_between_even_rows_it_is_the_cosine_of_latitude() -> None:
    latitude = -90 + (np.arange(32) + 0.5) * 180 / 32
    cosine = np.cos(np.deg2rad(latitude))
    np.testing.assert_allclose(area_weights(grid(latitude)), cosine / cosine.mean(), rtol=1e-12)


def test_rows_at_the_poles_have_the_area_of_their_caps() -> None:
    latitude = np.array([-90.0, -45, 0, 45, 90])
    bounds = np.sin(np.deg2rad([-90, -67.5, -22.5, 22.5, 67.5, 90]))
    expected = np.diff(bounds) / np.diff(bounds).mean()
    np.testing.assert_allclose(area_weights(grid(latitude)), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [32, 64])
def test_on_a_gaussian_grid_the_cells_reach_the_poles_and_the_weights_are_near_the_quadratures(count: int) -> None:
    nodes, quadrature = np.polynomial.legendre.leggauss(count)
    latitude = np.rad2deg(np.arcsin(nodes))
    ratio = area_weights(grid(latitude)) / (quadrature / quadrature.mean())
    np.testing.assert_allclose(ratio[1:-1], 1, rtol=0.002)
    np.testing.assert_allclose(ratio, 1, rtol=0.06)


def test_a_region_ends_half_a_row_outside() -> None:
    latitude = np.array([50.0, 51, 52])
    bounds = np.sin(np.deg2rad([49.5, 50.5, 51.5, 52.5]))
    np.testing.assert_allclose(area_weights(grid(latitude)), np.diff(bounds) / np.diff(bounds).mean(), rtol=1e-12)


def test_a_plane_weighs_evenly() -> None:
    assert (area_weights(Grid(("y", "x"), np.linspace(0, 4, 5), np.linspace(0, 3, 4))) == 1).all()
