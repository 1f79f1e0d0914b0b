"""The training split's climatology by day of the year and hour, smoothed by harmonics, gathered in one stream.

For each time of day (in bins of half an hour) and each grid point a constant and the first harmonics of the year
are fitted to the training frames by least squares (Narapusetty, DelSole and Tippett 2009, J. Climate 22), with
the moments of the fit gathered over blocks of frames: memory does not grow with the record. Four harmonics pass
about what WeatherBench 2's 61-day window passes. A gap in the year leaves fewer, until its length is at most a
quarter of the shortest period, so that nothing swings where no frame holds it: a season alone gives no year.
Nominal time stamps have neither day nor hour, and the climatology is the mean map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.params import TimeStamps

HARMONICS = 4
YEAR = 365.25  # days
BIN_SECONDS = 1800
DAY_SECONDS = 86400
FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class DailyClimatology:
    """bins: (K,) half hours of the day, ascending; one bin, 0, where time stamps are nominal.

    coefficients: (K, P, C, H, W) float32: a constant, then cosine and sine of each harmonic, physical units.
    """

    bins: NDArray[np.int64]
    coefficients: NDArray[np.float32]
    time_stamps: TimeStamps

    def at(self, times: NDArray[np.datetime64]) -> NDArray[np.float32]:
        """(N, C, H, W) at (N,) time stamps; a half hour without training frames takes the nearest one's."""
        bins, basis = _place(times, self.time_stamps, self.coefficients.shape[1] // 2)
        distance = np.abs(bins[:, None] - self.bins)
        nearest = np.minimum(distance, DAY_SECONDS // BIN_SECONDS - distance).argmin(1)
        flat = self.coefficients.reshape(*self.coefficients.shape[:2], -1)
        maps = np.empty((len(times), flat.shape[2]), dtype=np.float32)
        for group in np.unique(nearest):
            maps[nearest == group] = basis[nearest == group].astype(np.float32) @ flat[group]
        return maps.reshape(len(times), *self.coefficients.shape[2:])

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path, allow_pickle=False, bins=self.bins, coefficients=self.coefficients, time_stamps=self.time_stamps
        )


def fit(
    fields: NDArray[np.float32], times: NDArray[np.datetime64], frames: NDArray[np.int64], time_stamps: TimeStamps
) -> DailyClimatology:
    """fields: (time, C, H, W), may be memory-mapped. times: (time,). frames: the training frames' numbers."""
    bins, basis = _place(times[frames], time_stamps, HARMONICS)
    groups, of_frame = np.unique(bins, return_inverse=True)
    used = [_harmonics(times[frames[of_frame == group]], time_stamps) for group in range(len(groups))]
    terms = 1 + 2 * max(used)
    origin = fields[frames[0]].reshape(-1).astype(np.float64)  # near the mean, so that squares stay small
    squares = np.zeros((len(groups), terms, terms))
    products = np.zeros((len(groups), terms, len(origin)))
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        block = slice(start, start + FRAMES_AT_ONCE)
        values = fields[frames[block]].reshape(-1, len(origin)) - origin
        for group in np.unique(of_frame[block]):
            rows = of_frame[block] == group
            design = basis[block][rows, :terms]
            squares[group] += design.T @ design
            products[group] += design.T @ values[rows]
    for group, harmonics in enumerate(used):
        kept = 1 + 2 * harmonics
        products[group, :kept] = np.linalg.solve(squares[group, :kept, :kept], products[group, :kept])
        products[group, kept:] = 0
    products[:, 0] += origin
    shape = (len(groups), terms, *fields.shape[1:])
    return DailyClimatology(groups, products.reshape(shape).astype(np.float32), time_stamps)


def _harmonics(times: NDArray[np.datetime64], time_stamps: TimeStamps) -> int:
    """How many the year's longest gap without a frame leaves."""
    if time_stamps == "nominal":
        return 0
    days = np.unique(_year_fraction(times)) * YEAR
    gap = np.diff(days, append=days[0] + YEAR).max()
    return min(HARMONICS, int(YEAR / (4 * gap)))


def _place(
    times: NDArray[np.datetime64], time_stamps: TimeStamps, harmonics: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N,) half hour of the day and (N, 1 + 2 * harmonics) terms of the fit; one bin and a constant if nominal."""
    if time_stamps == "nominal":
        return np.zeros(len(times), np.int64), np.ones((len(times), 1))
    seconds = times.astype("datetime64[s]").astype(np.int64) % DAY_SECONDS
    angle = 2 * np.pi * _year_fraction(times)[:, None] * np.arange(1, harmonics + 1)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=2).reshape(len(times), -1)
    return seconds // BIN_SECONDS, np.concatenate([np.ones((len(times), 1)), waves], axis=1)


def _year_fraction(times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """(N,) in [0, 1), of a year's own length."""
    years = times.astype("datetime64[Y]")
    start, end = (year.astype("datetime64[ms]").astype(np.int64) for year in (years, years + 1))
    return np.asarray((times.astype("datetime64[ms]").astype(np.int64) - start) / (end - start))
