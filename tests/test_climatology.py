from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import climatology
from pipeline.climatology import DailyClimatology

YEARS: NDArray[np.datetime64] = np.datetime64("2001-01-01", "s") + np.arange(3 * 365 * 4) * np.timedelta64(6, "h")
SHAPE = (2, 3, 4)


def angle(times: np.ndarray) -> np.ndarray:
    start = times.astype("datetime64[Y]").astype("datetime64[s]")
    end = (times.astype("datetime64[Y]") + 1).astype("datetime64[s]")
    return 2 * np.pi * ((times - start) / (end - start))[:, None, None, None]


def season(times: np.ndarray) -> np.ndarray:
    """(N, *SHAPE): a yearly and a daily cycle that differ from point to point, and a half-yearly one."""
    place = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    hour = (times.astype("datetime64[h]").astype(int) % 24)[:, None, None, None]
    field = 100 + place + 10 * np.cos(angle(times) - place) + 3 * np.sin(2 * angle(times)) + np.where(hour < 12, 2, -2)
    return field.astype(np.float32)


def test_a_record_of_harmonics_is_its_own_climatology_in_another_year() -> None:
    fitted = climatology.fit(season(YEARS), YEARS, np.arange(len(YEARS)), "calendar")
    later = np.array(["2008-02-29T06:00", "2008-12-31T18:00", "2009-07-01T00:00"], dtype="datetime64[s]")
    np.testing.assert_allclose(fitted.at(later), season(later), atol=1e-3)


def test_it_is_numpys_least_squares_fit_at_each_hour() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (len(YEARS), *SHAPE)).astype(np.float32)
    fields, frames = season(YEARS) + noise, np.arange(0, len(YEARS), 3)
    fitted = climatology.fit(fields, YEARS, frames, "calendar")
    for hour in (0, 6, 12, 18):
        chosen = frames[(YEARS[frames].astype("datetime64[h]").astype(int) % 24) == hour]
        turn = angle(YEARS[chosen]).reshape(-1, 1) * np.arange(1, climatology.HARMONICS + 1)
        design = np.hstack([np.ones((len(chosen), 1)), np.cos(turn), np.sin(turn)])
        solution = np.linalg.lstsq(design, fields[chosen].reshape(len(chosen), -1).astype(float), rcond=None)[0]
        np.testing.assert_allclose(fitted.at(YEARS[chosen]).reshape(len(chosen), -1), design @ solution, rtol=1e-5)


def test_only_training_frames_enter() -> None:
    fields, frames = season(YEARS), np.arange(1500)
    spoilt = fields.copy()
    spoilt[1500:] = 1e6
    for one, other in zip(
        climatology.fit(fields, YEARS, frames, "calendar").coefficients,
        climatology.fit(spoilt, YEARS, frames, "calendar").coefficients,
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("days", "harmonics"), [(365 * 2, 4), (345, 4), (308, 1), (200, 0)])
def test_a_gap_in_the_year_leaves_fewer_harmonics_and_nothing_swings_in_it(days: int, harmonics: int) -> None:
    frames = np.arange(4 * days)
    noise = np.random.default_rng(1).normal(0, 5, (len(frames), *SHAPE)).astype(np.float32)
    fitted = climatology.fit(season(YEARS[frames]) + noise, YEARS[frames], frames, "calendar")
    assert fitted.coefficients.shape[1] == 1 + 2 * harmonics
    assert np.abs(fitted.at(YEARS) - season(YEARS)).max() < 25


def test_nominal_clocks_have_the_mean_map_at_every_time() -> None:
    fields = season(YEARS)
    fitted = climatology.fit(fields, YEARS, np.arange(100), "nominal")
    found = fitted.at(YEARS[::500])
    np.testing.assert_allclose(found, np.broadcast_to(fields[:100].mean(0), found.shape), rtol=1e-5)


def test_a_time_of_day_without_training_frames_takes_the_nearest_also_over_midnight() -> None:
    fitted = climatology.fit(season(YEARS), YEARS, np.arange(len(YEARS)), "calendar")
    near = np.array(["2002-05-01T23:00", "2002-05-01T07:00"], dtype="datetime64[s]")
    as_if = np.array(["2002-05-01T00:00", "2002-05-01T06:00"], dtype="datetime64[s]")
    np.testing.assert_allclose(fitted.at(near), season(as_if), atol=0.3)


def test_memory_does_not_grow_with_the_record() -> None:
    peaks = []
    for frames in (1000, 4000):
        times = YEARS[0] + np.arange(frames) * np.timedelta64(6, "h")
        fields = np.zeros((frames, 2, 16, 32), dtype=np.float32)
        tracemalloc.start()
        climatology.fit(fields, times, np.arange(frames), "calendar")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4000 * 250  # time stamps and terms, no fields: a frame has 4 kB


def test_it_is_stored_with_what_it_needs(tmp_path: Path) -> None:
    fitted = climatology.fit(season(YEARS), YEARS, np.arange(len(YEARS)), "calendar")
    for name in ("a.npz", "b.npz"):
        fitted.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        again = DailyClimatology(archive["bins"], archive["coefficients"], "calendar")
    np.testing.assert_array_equal(again.at(YEARS[:5]), fitted.at(YEARS[:5]))
