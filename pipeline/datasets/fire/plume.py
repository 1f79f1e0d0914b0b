"""A fire in a ventilated tunnel, seen from the side: two-dimensional buoyant flow, heat and smoke.

Modelled: the Boussinesq equations in vorticity and streamfunction, in a vertical plane along the tunnel's axis.

    D(omega)/Dt = d/dx (g theta / (T0 + theta)) + wall friction,    Laplace(psi) = -omega
    D(theta)/Dt = (1 - chi) q / (rho cp) - cooling at floor and ceiling,    D(K)/Dt = smoke of the flames

theta is the excess over the ambient temperature T0, K the extinction coefficient. The buoyancy is the density
deficit of an ideal gas, which never exceeds g (the linear one would, in flames). The heat release rate grows with
the square of time to its peak (t-squared fire; Heskestad and Delichatsios 1978, Proc. Combust. Inst. 17) and
flickers. Fans push air through the left portal at one velocity over its height, with a little turbulence; the
right portal is open. The smoke runs under the ceiling, against the air as far as that is slower than a critical
velocity, which grows with the cube root of the heat release rate per width (Thomas 1968, Fire Research Note 723;
Kennedy 1996; Li, Lei and Ingason 2010, Fire Safety J. 45).

Not modelled: the third dimension, and with it real turbulence (a plane's eddies merge, they do not break up) and
the plume's round shape; thermal expansion; combustion, radiation beyond the fixed share chi that it takes from the
flames; the fire's throttling of the fans; fire and walls heating up. Mixing below the grid is left to the limiter
of the advection. A cell is 0.4 m: the fire's diameter D* = (Q / rho cp T0 sqrt(g))^(2/5) is 4 to 9 cells,
within the 4 to 16 that the FDS User's Guide speaks of.

Finite volumes: fluxes limited after van Leer (1974, J. Comput. Phys. 14), Heun's steps, the streamfunction from
sine transforms. Heat and smoke are conserved to rounding and smoke stays positive: a step is short enough for that
(Courant number 0.5). The flow is free of divergence, as it comes from a streamfunction at the cells' corners.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float64]

LENGTH, HEIGHT, WIDTH = 100.0, 6.0, 6.0  # m, of the tunnel
ROWS, COLUMNS = 16, 256  # cells
DZ, DX = HEIGHT / ROWS, LENGTH / COLUMNS

GRAVITY = 9.81  # m s-2
AMBIENT = 293.15  # K
HEAT_CAPACITY = 1.204 * 1005.0  # J m-3 K-1, of ambient air
RADIATED = 0.35  # share of the heat release rate
EXTINCTION_PER_JOULE = 8700 * 0.06 / 27e6  # m2 J-1: extinction per mass of soot, soot per mass of fuel, heat of it
WALL_TRANSFER = 25.0  # W m-2 K-1, to floor and ceiling
FRICTION = 0.004  # wall stress over rho u^2

FLAME_WIDTH, LOWEST_FLAME = 3.0, 0.75  # m, where the heat is released
FLAME_BASE = 1.25
MIXING = 0.04  # m2 s-1, of heat, smoke and vorticity by eddies that a plane does not have
FLICKER, FLICKER_SECONDS = 0.15, 2.0  # deviation of the heat release rate, relative, and how long it lasts
FAN, FAN_SECONDS = 0.06, 10.0  # the same of the ventilation
INFLOW_VORTICITY = 0.4  # s-1, deviation

TICK = 0.25  # s, between changes of what drives the flow and of the time step
COURANT = 0.5  # share of a cell that may leave it in a step; more, and smoke may fall below 0

VORTICITY, HEAT, SMOKE = range(3)


@dataclass(frozen=True)
class Fire:
    """What distinguishes one simulation from another, besides its random numbers."""

    heat_release_rate_MW: float  # noqa: N815 -- at its peak, over the width of the tunnel
    growth_time_s: float  # from the ignition to the peak
    fire_position_m: float  # from the left portal
    ventilation_m_s: float

    def heat_release(self, seconds: float) -> float:
        """W per metre of the tunnel's width."""
        return 1e6 * self.heat_release_rate_MW / WIDTH * min(1.0, seconds / self.growth_time_s) ** 2


@dataclass
class Budget:
    """Where the heat went, J per metre of width since the ignition."""

    supplied: float = 0.0
    carried_out: float = 0.0
    lost_to_walls: float = 0.0
    stored: float = 0.0

    @property
    def error(self) -> float:
        """What is unaccounted for, as a share of what was supplied."""
        missing = self.supplied - self.carried_out - self.lost_to_walls - self.stored
        return abs(missing) / max(self.supplied, 1.0)


class Streamfunction:
    """Vorticity at the cells' centres -> velocity on their faces.

    The streamfunction is that of the through-flow, u z, plus one that is 0 at floor, ceiling and the left portal
    and has no gradient at the right one: sines of z, and sines of x with a quarter wave.
    """

    def __init__(self) -> None:
        x = (2 * np.arange(COLUMNS) + 1) * np.pi / (4 * COLUMNS)
        z = np.arange(1, ROWS) * np.pi / (2 * ROWS)
        self.eigenvalues = (2 * np.sin(z[:, None]) / DZ) ** 2 + (2 * np.sin(x) / DX) ** 2  # of -Laplace
        self.sines = np.sqrt(2 / ROWS) * np.sin(np.outer(np.arange(1, ROWS), 2 * z))  # its own inverse
        self.heights = np.linspace(0, HEIGHT, ROWS + 1)[:, None]

    def velocity(self, vorticity: Array, through: float) -> tuple[Array, Array]:
        """(ROWS, COLUMNS + 1) along and (ROWS + 1, COLUMNS) up, on the faces."""
        psi = np.zeros((ROWS + 1, COLUMNS + 1))
        psi[1:-1, 1:] = self._solve(vorticity)
        psi += through * self.heights
        return np.diff(psi, axis=0) / DZ, -np.diff(psi, axis=1) / DX

    def _solve(self, vorticity: Array) -> Array:
        rows = 0.5 * (vorticity[:-1] + vorticity[1:])
        corners = rows.copy()  # the right portal's corners have cells on one side only
        corners[:, :-1] += rows[:, 1:]
        corners[:, :-1] *= 0.5
        waves = self.sines @ fft.idst(corners, type=2, axis=1)
        return np.asarray(fft.dst(self.sines @ (waves / self.eigenvalues), type=2, axis=1))


class Tunnel:
    """A simulation: the state, and what drives it."""

    def __init__(self, fire: Fire, rng: np.random.Generator) -> None:
        self.fire = fire
        self.rng = rng
        self.seconds = 0.0
        self.state = np.zeros((3, ROWS, COLUMNS))
        self.budget = Budget()
        self._flames = flames(fire.fire_position_m, LOWEST_FLAME)
        self._streamfunction = Streamfunction()
        self._flicker = self._gust = 0.0
        self._inflow = np.zeros((3, ROWS, 1))

    @property
    def velocity(self) -> tuple[Array, Array]:
        through = self.fire.ventilation_m_s * (1 + FAN * self._gust)
        return self._streamfunction.velocity(self.state[VORTICITY], through)

    def tick(self) -> None:
        """Goes on by TICK, in as many steps as the flow asks for."""
        self._flicker = self._wander(self._flicker, FLICKER_SECONDS)
        self._gust = self._wander(self._gust, FAN_SECONDS)
        self._inflow[VORTICITY, :, 0] = INFLOW_VORTICITY * self.rng.standard_normal(ROWS)
        self._flames = flames(self.fire.fire_position_m, flame_height(self.fire.heat_release(self.seconds)))
        power = self.fire.heat_release(self.seconds) * max(0.0, 1 + FLICKER * self._flicker)
        elapsed = 0.0
        while elapsed < TICK:
            velocity = self.velocity
            left = TICK - elapsed
            steps = int(np.ceil(left * outflow_rate(*velocity) / COURANT))
            elapsed += self._step(velocity, power, left / steps) if steps > 1 else self._step(velocity, power, left)
        self.seconds += TICK

    def _step(self, velocity: tuple[Array, Array], power: float, dt: float) -> float:
        """Heun's step; returns its length."""
        before = self.state
        first, flows = self._tendency(before, velocity, power)
        self.state = before + dt * first
        second, later_flows = self._tendency(self.state, self.velocity, power)
        self.state = before + 0.5 * dt * (first + second)
        supplied, out, walls = map(float, 0.5 * dt * (flows + later_flows))
        self.budget.supplied += supplied
        self.budget.carried_out += out
        self.budget.lost_to_walls += walls
        self.budget.stored = HEAT_CAPACITY * DX * DZ * float(self.state[HEAT].sum())
        return dt

    def _tendency(self, state: Array, velocity: tuple[Array, Array], power: float) -> tuple[Array, Array]:
        """Change per second of the state, and heat supplied, carried out and lost to walls, W per metre."""
        along, up = velocity
        fluxes = along_fluxes(state, along, self._inflow)
        change = fluxes[:, :, :-1] - fluxes[:, :, 1:]
        change /= DX
        rising = up_fluxes(state, up)
        rising /= DZ
        change[:, :-1] -= rising
        change[:, 1:] += rising
        change[VORTICITY] += torque(state[HEAT]) + friction(along)
        change[HEAT] += (1 - RADIATED) * power / HEAT_CAPACITY * self._flames
        change[SMOKE] += EXTINCTION_PER_JOULE * power * self._flames
        cooling = WALL_TRANSFER / (HEAT_CAPACITY * DZ) * state[HEAT, [0, -1]]
        change[HEAT, [0, -1]] -= cooling
        out = HEAT_CAPACITY * DZ * (fluxes[HEAT, :, -1] - fluxes[HEAT, :, 0]).sum()
        return change, np.array([(1 - RADIATED) * power, out, HEAT_CAPACITY * DX * DZ * cooling.sum()])

    def _wander(self, value: float, memory: float) -> float:
        """An Ornstein-Uhlenbeck process of deviation 1, a tick later."""
        kept = np.exp(-TICK / memory)
        return float(kept * value + np.sqrt(1 - kept**2) * self.rng.standard_normal())


def frames(tunnel: Tunnel, seconds: int, ticks: int) -> Iterator[Array]:
    """The state every `ticks`, the first at the ignition."""
    for number in range(int(seconds / TICK)):
        if number % ticks == 0:
            yield tunnel.state
        tunnel.tick()


def flame_height(power: float) -> float:
    """Height in m over which `power` W per metre of width are released, up to half of the tunnel's.

    Half of the mean flame height of Heskestad (1983, Fire Safety J. 5).
    """
    mean = 0.235 * (power * WIDTH / 1e3) ** 0.4 - 1.02 * FLAME_WIDTH
    return min(HEIGHT / 2, max(LOWEST_FLAME, mean / 2))


def flames(position: float, height: float) -> Array:
    """(ROWS, COLUMNS) where the heat is released, per square metre; the integral is 1."""
    x = (np.arange(COLUMNS) + 0.5) * DX - position
    z = (np.arange(ROWS) + 0.5) * DZ
    above = (z[:, None] - FLAME_BASE) / height - 0.5
    shape = np.exp(-0.5 * (x / (0.4 * FLAME_WIDTH)) ** 2) * np.exp(-((2 * above) ** 4))
    return np.asarray(shape / (shape.sum() * DX * DZ))


def along_fluxes(state: Array, along: Array, inflow: Array) -> Array:
    """(3, ROWS, COLUMNS + 1) upwind, limited; what blows in at the right portal is ambient air at rest."""
    padded = np.concatenate([inflow, state, state[:, :, -1:]], axis=2)
    differences = padded[:, :, 1:] - padded[:, :, :-1]
    half = half_slope(differences[:, :, :-1], differences[:, :, 1:])
    ahead, back = np.maximum(along, 0), np.minimum(along, 0)
    fluxes = np.empty((3, ROWS, COLUMNS + 1))
    fluxes[:, :, :1] = ahead[:, :1] * inflow
    np.multiply(ahead[:, 1:], state + half, out=fluxes[:, :, 1:])
    fluxes[:, :, :-1] += back[:, :-1] * (state - half)
    differences *= MIXING / DX
    fluxes -= differences
    return fluxes


def up_fluxes(state: Array, up: Array) -> Array:
    """(3, ROWS - 1, COLUMNS) between the rows; nothing passes floor and ceiling."""
    differences = state[:, 1:] - state[:, :-1]
    half = np.zeros_like(state)
    half[:, 1:-1] = half_slope(differences[:, :-1], differences[:, 1:])
    rising, sinking = np.maximum(up[1:-1], 0), np.minimum(up[1:-1], 0)
    fluxes = rising * (state + half)[:, :-1] + sinking * (state - half)[:, 1:]
    return np.asarray(fluxes - MIXING / DZ * differences)


def half_slope(before: Array, after: Array) -> Array:
    """Half of van Leer's slope: the harmonic mean of the differences on both sides, 0 at an extremum."""
    product = before * after
    np.maximum(product, 0, out=product)
    total = before + after
    total += total == 0
    product /= total
    return product


def torque(heat: Array) -> Array:
    """The vorticity that buoyancy makes, s-2: d/dx of the density deficit times gravity."""
    buoyancy = GRAVITY * heat / (AMBIENT + heat)
    result = np.empty_like(buoyancy)
    result[:, 1:-1] = (buoyancy[:, 2:] - buoyancy[:, :-2]) / (2 * DX)
    result[:, 0] = (buoyancy[:, 1] - buoyancy[:, 0]) / (2 * DX)
    result[:, -1] = (buoyancy[:, -1] - buoyancy[:, -2]) / (2 * DX)
    return result


def friction(along: Array) -> Array:
    """The vorticity that the stress of floor and ceiling makes, s-2, over the two rows next to each.

    The stress acts on the outermost row; its curl lies between that row and its neighbours.
    """
    u = 0.5 * (along[[0, -1], :-1] + along[[0, -1], 1:])
    stress = -FRICTION * np.abs(u) * u / DZ  # m s-2
    result = np.zeros((ROWS, COLUMNS))
    result[[0, 1]] = stress[0] / (2 * DZ)
    result[[-2, -1]] = -stress[1] / (2 * DZ)
    return result


def outflow_rate(along: Array, up: Array) -> float:
    """The largest share of a cell that leaves it per second."""
    leaving = (np.maximum(along[:, 1:], 0) - np.minimum(along[:, :-1], 0)) / DX
    leaving += (np.maximum(up[1:], 0) - np.minimum(up[:-1], 0)) / DZ
    return float(leaving.max()) + MIXING * (1 / DX**2 + 1 / DZ**2)
