from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from pipeline import spectra
from pipeline.batch import Batch
from pipeline.metrics.base import area_weights
from pipeline.spectra import Spectrum
from pipeline.store import Grid
from tests.fields import describe, fields

GLOBE = describe().grid


def plane(shape: tuple[int, int], step: tuple[float, float] = (1.0, 1.0), units: str = "m") -> Grid:
    y, x = (np.arange(side, dtype=np.float64) * each for side, each in zip(shape, step, strict=True))
    return Grid(("y", "x"), y, x, units)


@pytest.mark.parametrize("columns", [32, 31])
def test_the_zonal_spectrum_is_scipys_periodogram_averaged_with_the_rows_areas(columns: int) -> None:
    grid = describe((16, columns)).grid
    field = fields(0, shape=(16, columns))[:, 0]
    found = Spectrum(grid).power(field).numpy()
    _, power = signal.periodogram(field.double().numpy(), axis=-1, detrend=False, scaling="spectrum")
    expected = (power * area_weights(grid)[:, None]).mean(-2)[..., 1:]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape[-1] == len(Spectrum(grid).wavenumbers) == columns // 2


def test_zonal_power_adds_up_to_the_variance_along_the_circles() -> None:
    field = fields(0)[:, 0]
    variance = (field.double().var(-1, correction=0).numpy() * area_weights(GLOBE)).mean(-1)
    np.testing.assert_allclose(Spectrum(GLOBE).power(field).sum(-1), variance, rtol=1e-6)


def test_a_wave_has_its_power_at_its_wavenumber_and_its_wavelength() -> None:
    spectrum = Spectrum(GLOBE)
    wave = 3 * torch.cos(2 * torch.pi * 5 * torch.arange(32) / 32).expand(1, 1, 16, 32)
    power = spectrum.power(wave)[0, 0].numpy()
    assert spectrum.wavenumbers[power.argmax()] == 5
    np.testing.assert_allclose(power.max(), 4.5)
    np.testing.assert_allclose(np.delete(power, power.argmax()), 0, atol=1e-9)
    assert spectrum.units == "km"
    np.testing.assert_allclose(spectrum.wavelengths[4], 40030 / 5, rtol=1e-4)


def test_the_radial_spectrum_is_the_sum_over_rings_under_scipys_window() -> None:
    shape, step = (16, 24), (2.0, 1.0)
    spectrum = Spectrum(plane(shape, step))
    field = fields(0, shape=shape)[0, 0].double().numpy()
    window = np.outer(signal.windows.hann(16, sym=False), signal.windows.hann(24, sym=False))
    expected = np.zeros((2, len(spectrum.wavenumbers)))
    for variable, values in enumerate(field):
        modes = np.fft.fft2((values - (values * window).sum() / window.sum()) * window) / values.size
        for row in range(16):
            for column in range(24):
                y, x = (row + 8) % 16 - 8, (column + 12) % 24 - 12
                ring = round(24 * float(np.hypot(y / 32, x / 24)))  # the shorter side is 24 m long
                if 1 <= ring <= len(spectrum.wavenumbers):
                    expected[variable, ring - 1] += abs(modes[row, column]) ** 2 / (window**2).mean()
    np.testing.assert_allclose(spectrum.power(torch.from_numpy(field)[None])[0], expected, rtol=1e-9)
    assert spectrum.wavelengths.tolist() == [24, 12, 8, 6, 4.8, 4]  # down to twice the wider spacing


def test_a_slope_that_is_no_wave_does_not_leak_into_short_ones() -> None:
    slope = torch.arange(32.0).expand(1, 1, 32, 32)
    power = Spectrum(plane((32, 32))).power(slope)[0, 0]
    assert power[8:].max() < 1e-3 * power[0]


def test_a_region_is_measured_in_kilometres_and_a_plane_in_its_own_units() -> None:
    region = Grid(("latitude", "longitude"), np.linspace(50, 58, 9), np.linspace(-10, 5, 16))
    spectrum = Spectrum(region)
    assert spectrum.units == "km"
    width = 16 * 111.195 * np.cos(np.deg2rad(54))
    np.testing.assert_allclose(spectrum.wavelengths[0], min(9 * 111.195, width), rtol=1e-4)
    assert Spectrum(plane((8, 8), (0.5, 0.5))).wavelengths[0] == 4
    assert Spectrum(plane((8, 8), units="")).units == "cells"


def test_the_tally_holds_forecast_and_truth_at_the_last_lead_time() -> None:
    forecast, target = fields(0), fields(1)
    spectrum = Spectrum(GLOBE)
    found = spectrum(forecast, Batch(torch.arange(3), target, target))
    torch.testing.assert_close(found[0], spectrum.power(forecast[:, -1]).sum(0))
    torch.testing.assert_close(found[1], spectrum.power(target[:, -1]).sum(0))


def test_the_log_spectral_distance_is_in_decibels() -> None:
    truth = np.random.default_rng(0).uniform(1, 2, (2, 10))
    np.testing.assert_allclose(spectra.log_spectral_distance(truth / 10, truth), 10)
    half = truth.copy()
    half[:, :5] *= 100
    np.testing.assert_allclose(spectra.log_spectral_distance(half, truth), 20 / np.sqrt(2))


def test_the_effective_resolution_is_where_half_the_power_is_lost_even_if_noise_comes_after() -> None:
    wavelengths = 100 / np.arange(1, 7)
    truth = np.ones(6)
    lost = np.array([1, 0.9, 0.5, 0.4, 0.1, 3.0])
    assert spectra.effective_resolution(lost, truth, wavelengths) == pytest.approx(100 / 3)
    assert spectra.effective_resolution(truth, truth, wavelengths) == pytest.approx(100 / 6)
    assert np.isnan(spectra.effective_resolution(0.1 * truth, truth, wavelengths))


def test_a_blurred_field_is_told_from_a_sharp_one() -> None:
    field = fields(0, windows=20)[:, 0]
    spectrum = Spectrum(GLOBE)
    kernel = torch.tensor([0.25, 0.5, 0.25])
    blurred = sum(weight * field.roll(shift, -1) for weight, shift in zip(kernel, (-1, 0, 1), strict=True))
    truth, power = (spectrum.power(each).mean(0).numpy() for each in (field, blurred))
    response = ((1 + np.cos(2 * np.pi * spectrum.wavenumbers / 32)) / 2) ** 2
    np.testing.assert_allclose(power / truth, np.broadcast_to(response, truth.shape), rtol=1e-4, atol=1e-9)
    finest = spectra.effective_resolution(power, truth, spectrum.wavelengths)
    expected = spectrum.wavelengths[np.flatnonzero(response >= 0.5)[-1]]
    np.testing.assert_allclose(finest, expected)
