from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.fire import plume
from pipeline.datasets.fire.plume import COLUMNS, DX, DZ, HEIGHT, LENGTH, ROWS, Fire, Streamfunction, Tunnel

X = (np.arange(COLUMNS) + 0.5) * DX
Z = ((np.arange(ROWS) + 0.5) * DZ)[:, None]


def tunnel(megawatts: float = 8.0, ventilation: float = 2.0, growth: float = 10.0, seed: int = 0) -> Tunnel:
    return Tunnel(Fire(megawatts, growth, 40.0, ventilation), np.random.default_rng(seed))


def gone_on(run: Tunnel, seconds: float) -> Tunnel:
    while run.seconds < seconds:
        run.tick()
    return run


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing random, no friction, no mixing: what is left has closed forms."""
    for name in ("FAN", "FLICKER", "INFLOW_VORTICITY", "FRICTION", "MIXING"):
        monkeypatch.setattr(plume, name, 0.0)


@pytest.fixture(scope="module")
def smoky() -> Tunnel:
    """A fire in slow air, after 20 s."""
    return gone_on(tunnel(8.0, 1.4, growth=5.0), 20.0)


def test_the_velocity_of_one_wave_of_vorticity_has_its_closed_form() -> None:
    """psi = sin(k x) sin(m z) with vorticity (k^2 + m^2) psi is 0 on floor, ceiling and the left portal."""
    k, m = 3 * np.pi / (2 * LENGTH), np.pi / HEIGHT
    vorticity = (k**2 + m**2) * np.sin(k * X) * np.sin(m * Z)
    along, up = Streamfunction().velocity(vorticity, through=0.0)
    faces = np.arange(COLUMNS + 1) * DX
    np.testing.assert_allclose(along, m * np.sin(k * faces) * np.cos(m * Z), atol=0.02 * m)
    levels = (np.arange(ROWS + 1) * DZ)[:, None]
    np.testing.assert_allclose(up, -k * np.cos(k * X) * np.sin(m * levels), atol=0.02 * k)


def test_the_flow_is_free_of_divergence_and_every_section_carries_the_same_air() -> None:
    vorticity = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
    along, up = Streamfunction().velocity(vorticity, through=2.5)
    divergence = np.diff(along, axis=1) / DX + np.diff(up, axis=0) / DZ
    assert np.abs(divergence).max() < 1e-12 * np.abs(along).max() / DX * COLUMNS
    np.testing.assert_allclose(along.sum(axis=0) * DZ, 2.5 * HEIGHT)
    np.testing.assert_allclose(along[:, 0], 2.5)
    assert np.array_equal(up[[0, -1]], np.zeros((2, COLUMNS)))


def test_the_streamfunction_satisfies_poissons_equation_at_every_corner() -> None:
    vorticity = np.random.default_rng(1).standard_normal((ROWS, COLUMNS))
    along, up = Streamfunction().velocity(vorticity, through=0.0)
    curl = np.diff(up, axis=1)[1:-1] / DX - np.diff(along, axis=0)[:, 1:-1] / DZ
    corners = 0.25 * (vorticity[:-1, :-1] + vorticity[:-1, 1:] + vorticity[1:, :-1] + vorticity[1:, 1:])
    np.testing.assert_allclose(curl, corners, atol=1e-12)


def test_half_slope_equals_van_leers_formula_in_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.standard_normal((2, 50))
    before[:3], after[:3] = (0, 0, 1), (0, 1, -1)
    expected = [a * b / (a + b) if a * b > 0 else 0.0 for a, b in zip(before, after, strict=True)]
    np.testing.assert_allclose(plume.half_slope(before, after), expected)


def test_smoke_drifts_with_the_air_unchanged_in_amount_and_never_above_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet(monkeypatch)
    run = tunnel(megawatts=0.0, ventilation=2.0)
    run.state[plume.SMOKE] = np.exp(-(((X - 30) / 4) ** 2)) * np.ones_like(Z)
    before = run.state[plume.SMOKE].copy()
    after = gone_on(run, 10.0).state[plume.SMOKE]
    np.testing.assert_allclose(after.sum(), before.sum())
    np.testing.assert_allclose((after * X).sum() / after.sum(), 30 + 2.0 * 10, atol=0.1)
    assert after.min() >= 0
    assert 0.9 < after.max() <= before.max() + 1e-12
    assert np.abs(run.state[plume.VORTICITY]).max() < 1e-12


def test_without_a_fire_the_air_stays_cold_and_clear() -> None:
    run = gone_on(tunnel(megawatts=0.0), 3.0)
    assert np.abs(run.state[plume.VORTICITY]).max() > 0
    assert np.array_equal(run.state[1:], np.zeros((2, ROWS, COLUMNS)))


def test_warm_air_rises_and_cold_air_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    monkeypatch.setattr(plume, "WALL_TRANSFER", 0.0)
    for excess, sign in ((30.0, 1), (-30.0, -1)):
        run = tunnel(megawatts=0.0, ventilation=0.0)
        blob = np.exp(-(((X - 50) / 2) ** 2) - ((Z - 3) / 1) ** 2)
        run.state[plume.HEAT] = excess * blob
        after = gone_on(run, 2.5).state[plume.HEAT]
        np.testing.assert_allclose(after.sum(), excess * blob.sum())
        assert sign * ((after * Z).sum() / after.sum() - 3) > 0.3


def test_the_heat_supplied_is_stored_carried_out_or_lost_to_the_walls() -> None:
    run = gone_on(tunnel(megawatts=12.0, ventilation=9.0, growth=2.0), 8.0)
    budget = run.budget
    assert budget.error < 1e-12
    assert min(budget.carried_out, budget.stored) > 0.05 * budget.supplied
    assert budget.lost_to_walls > 0
    expected = 0.65 * 12e6 / 6 * (8 - 2 + 2 / 3)  # t-squared growth for 2 s, then the peak
    np.testing.assert_allclose(budget.supplied, expected, rtol=0.25)  # the flames flicker


def test_the_budget_notices_heat_that_comes_from_nowhere() -> None:
    run = gone_on(tunnel(), 5.0)
    run.state[plume.HEAT, 8, 50] += 10.0
    assert gone_on(run, 6.0).budget.error > 1e-6


def test_smoke_and_excess_heat_never_fall_below_zero() -> None:
    run = tunnel(megawatts=18.0, ventilation=1.6, growth=3.0)
    for _ in range(40):
        run.tick()
        assert run.state[plume.HEAT].min() >= -1e-30  # what is left of a subtraction of equal numbers
        assert run.state[plume.SMOKE].min() >= -1e-30
    assert run.state[plume.SMOKE].max() > 1


def test_the_fire_grows_with_the_square_of_time_to_its_peak() -> None:
    fire = Fire(6.0, 40.0, 50.0, 2.0)
    assert fire.heat_release(0) == 0
    np.testing.assert_allclose(fire.heat_release(10), 1e6 / 16)
    np.testing.assert_allclose(fire.heat_release(40), 1e6)
    np.testing.assert_allclose(fire.heat_release(100), 1e6)


def test_flames_release_one_watt_in_all_around_their_place_and_reach_higher_with_power() -> None:
    for power in (1e4, 5e5, 3e6):
        shape = plume.flames(40.0, plume.flame_height(power))
        np.testing.assert_allclose(shape.sum() * DX * DZ, 1)
        np.testing.assert_allclose((shape * X).sum() / shape.sum(), 40, atol=0.01)
        assert shape.min() >= 0
    heights = [plume.flame_height(power) for power in (0.0, 1e4, 5e5, 1e6, 1e9)]
    assert heights == sorted(heights)
    np.testing.assert_allclose(plume.flame_height(1e6), (0.235 * 6000**0.4 - 1.02 * 3) / 2)  # Heskestad
    assert (heights[0], heights[-1]) == (plume.LOWEST_FLAME, HEIGHT / 2)


def test_smoke_comes_against_slow_air_and_not_against_fast_air(smoky: Tunnel) -> None:
    fast = gone_on(tunnel(8.0, 3.5, growth=5.0), 12.0)
    upstream = [40 - X[run.state[plume.HEAT, -2:].mean(axis=0) > 15].min() for run in (smoky, fast)]
    assert upstream[0] > 8
    assert upstream[1] < 0


def test_the_layer_lies_under_the_ceiling(smoky: Tunnel) -> None:
    upstream = smoky.state[plume.HEAT][:, (X > 33) & (X < 38)].mean(axis=1)
    assert upstream[-4:].mean() > 5 * upstream[:6].mean()


def test_equal_seeds_give_equal_bits_and_other_seeds_another_fire() -> None:
    one, same, other = (gone_on(tunnel(seed=seed), 5.0).state for seed in (3, 3, 4))
    assert one.tobytes() == same.tobytes()
    assert not np.array_equal(one, other)


def test_frames_begin_at_the_ignition_and_lie_the_asked_ticks_apart() -> None:
    run = tunnel()
    seconds = [(run.seconds, state.shape) for state in plume.frames(run, 3, ticks=4)]
    assert seconds == [(0.0, (3, ROWS, COLUMNS)), (1.0, (3, ROWS, COLUMNS)), (2.0, (3, ROWS, COLUMNS))]
