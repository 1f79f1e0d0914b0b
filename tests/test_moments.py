"""Streaming moments against numpy on the whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline import moments
from pipeline.moments import Moments


def pieces(values: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
    return np.split(values, np.cumsum(sizes))


def merged(parts: list[NDArray[np.float32]]) -> Moments:
    total = Moments.none(parts[0].shape[1:])
    for part in parts:
        total = total.merged(Moments.of(part))
    return total


def test_merged_pieces_have_the_moments_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(54000, 3000, (97, 3, 5)).astype(np.float32)
    total = merged(pieces(values, [1, 0, 40, 13]))
    exact = values.astype(np.float64)
    np.testing.assert_allclose(total.mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(total.std, exact.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(total.over_points(), (exact.mean(), exact.std()), rtol=1e-11)


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    values = (np.float32(1e6) + np.random.default_rng(1).integers(0, 2, (1000, 1, 1))).astype(np.float32)
    total = merged(pieces(values, [333, 333]))
    np.testing.assert_allclose(total.std, values.astype(np.float64).std(axis=0), rtol=1e-9)


def test_missing_values_do_not_count() -> None:
    values = np.random.default_rng(2).normal(5, 2, (40, 2, 3)).astype(np.float32)
    values[3:9, 0, 1] = np.nan
    values[7, 1, 2] = np.inf
    values[:, 1, 0] = np.nan
    total = merged(pieces(values, [8, 20]))
    finite = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    seen = total.count > 0
    assert total.count[1, 0] == 0
    np.testing.assert_allclose(total.mean[seen], np.nanmean(finite[:, seen], axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.std[seen], np.nanstd(finite[:, seen], axis=0), rtol=1e-10)
    np.testing.assert_allclose(total.over_points(), (np.nanmean(finite), np.nanstd(finite)), rtol=1e-11)


def test_a_grid_of_many_tiles_and_frames_gives_what_numpy_gives() -> None:
    shape = (moments.FRAMES_AT_ONCE * 2 + 3, 71, 2 * moments.POINTS_AT_ONCE // 71 + 5)
    values = np.random.default_rng(3).normal(280, 15, shape).astype(np.float32)
    total = Moments.of(values)
    np.testing.assert_allclose(total.std, values.astype(np.float64).std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(Moments.of(values[:, ::-1]).std, total.std[::-1], rtol=1e-14)
