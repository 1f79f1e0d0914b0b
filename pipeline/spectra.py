"""Sharpness: how much variance a forecast has at each scale, beside the truth's.

On a globe the spectrum is zonal: along each latitude circle, then averaged with the rows' areas. Elsewhere it is
radial: of the field less its mean under a Hann window, summed over rings of equal wavenumber. Either is a share of
variance: without the window, power adds up over wavenumbers to the field's variance (along a circle).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batch import Batch
from pipeline.metrics.base import area_weights
from pipeline.store import Grid

EARTH_RADIUS = 6371.0  # km
KEPT = 0.5  # a scale is resolved where a forecast has this share of the truth's power
LEGENDS = {
    "power": (
        "variance by wavenumber at the last lead time, mean over windows and seeds, in squared units of the variable: "
        "zonal and latitude-weighted around the globe, radial under a Hann window elsewhere"
    ),
    "wavelength": "of the wavenumber, at the equator around the globe; across the shorter side elsewhere",
    "log_spectral_distance": "root mean square over wavenumbers of 10 log10(power / truth's power), dB, 0 is best",
    "effective_resolution": (
        "smallest wavelength down to which every scale keeps at least half of the truth's power; empty if none does"
    ),
}


@dataclass(frozen=True)
class Spectrum:
    """The tally of power by wavenumber at the last lead time; see `Tally`."""

    grid: Grid

    @property
    def units(self) -> str:
        """Of wavelengths: km on a sphere, the plane's own, or cells."""
        if self.grid.geographic:
            return "km"
        return self.grid.units if self.grid.units in ("m", "km") else "cells"

    @cached_property
    def wavenumbers(self) -> NDArray[np.int64]:
        """(K,) from 1: waves around a circle of latitude, or across the shorter side."""
        if self.grid.periodic:
            return np.arange(1, len(self.grid.x) // 2 + 1)
        return np.arange(1, int(self._length / (2 * max(self._spacing)) + 1e-9) + 1)

    @cached_property
    def wavelengths(self) -> NDArray[np.float64]:
        """(K,) in `units`."""
        length = 2 * np.pi * EARTH_RADIUS if self.grid.periodic else self._length
        return np.asarray(length / self.wavenumbers)

    def __call__(self, forecast: Tensor, batch: Batch) -> Tensor:
        """(2, C, K) summed over windows: the forecast's power and the truth's."""
        return torch.stack([self.power(fields[:, -1]).sum(0) for fields in (forecast, batch.targets)])

    def power(self, fields: Tensor) -> Tensor:
        """(B, C, K) of (B, C, H, W)."""
        return self._zonal(fields.double()) if self.grid.periodic else self._radial(fields.double())

    def _zonal(self, fields: Tensor) -> Tensor:
        columns = fields.shape[-1]
        power = 2 * (torch.fft.rfft(fields, norm="forward").abs() ** 2)[..., 1:]
        if columns % 2 == 0:
            power[..., -1] /= 2  # the shortest wave has no twin of negative wavenumber
        return (power * torch.from_numpy(area_weights(self.grid))[:, None]).mean(-2)

    def _radial(self, fields: Tensor) -> Tensor:
        rows, columns = fields.shape[-2:]
        window = torch.outer(*(torch.hann_window(side, dtype=torch.float64) for side in (rows, columns)))
        mean = (fields * window).sum((-2, -1), keepdim=True) / window.sum()
        modes = torch.fft.fft2((fields - mean) * window, norm="forward").abs() ** 2 / window.square().mean()
        rings = fields.new_zeros((*fields.shape[:2], int(self._rings.max()) + 1))
        rings.index_add_(2, torch.from_numpy(self._rings.reshape(-1)), modes.flatten(-2))
        return rings[..., 1 : len(self.wavenumbers) + 1]

    @cached_property
    def _rings(self) -> NDArray[np.int64]:
        """(H, W) the wavenumber of each mode of the two-dimensional transform, rounded."""
        y, x = (np.fft.fftfreq(side, step) for side, step in zip(self.grid.shape, self._spacing, strict=True))
        return np.rint(np.hypot(y[:, None], x) * self._length).astype(np.int64)

    @cached_property
    def _spacing(self) -> tuple[float, float]:
        """Between rows and between columns, in `units`."""
        y, x = (float(np.abs(np.diff(axis)).mean()) for axis in (self.grid.y, self.grid.x))
        if self.grid.geographic:
            degree = EARTH_RADIUS * np.pi / 180
            return y * degree, x * degree * float(np.cos(np.deg2rad(self.grid.y.mean())))
        return (y, x) if self.units != "cells" else (1.0, 1.0)

    @property
    def _length(self) -> float:
        """The shorter side: at its wavenumbers every ring holds modes."""
        return min(side * step for side, step in zip(self.grid.shape, self._spacing, strict=True))


def log_spectral_distance(power: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) in dB, from (..., K)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.mean((10 * np.log10(power / truth)) ** 2, axis=-1)))


def effective_resolution(
    power: NDArray[np.float64], truth: NDArray[np.float64], wavelengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(...) from (..., K): the smallest wavelength down to which power / truth stays at KEPT or more, or NaN.

    Larger scales must be kept too, so that grid-scale noise does not pass for sharpness.
    """
    resolved = np.logical_and.accumulate(power >= KEPT * truth, axis=-1).sum(-1)
    return np.where(resolved > 0, wavelengths[resolved - 1], np.nan)
