"""The weather twin: a simulated atmosphere in WeatherBench's folder layout, for use without any download.

The Held-Suarez test case (1994, Bull. Amer. Meteor. Soc. 75, 1825-1830), a dry atmosphere without land,
seasons or day and night, on the spectral dynamical core `dinosaur` (Kochkov et al. 2024, Nature 632,
1060-1066): T21, a 64 x 32 Gaussian grid, 8 equidistant sigma layers, 30-minute steps. Kept are, 6-hourly,
geopotential at 500 hPa and temperature at 850 hPa, interpolated linearly in pressure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pipeline.datasets.weatherbench import WeatherBench
from pipeline.errors import UserError
from pipeline.params import TimeStamps
from pipeline.progress import progress
from pipeline.work import Work

log = logging.getLogger(__name__)

State = dict[str, NDArray[np.float32]]  # spectral coefficients by name
Field = NDArray[np.float32]  # (time, latitude, longitude), physical units

LAYERS = 8
STEP_SECONDS = 1800
FRAMES_PER_DAY = 4
DAYS = 440  # simulated days kept, unless fetch.days says otherwise
CHUNK_DAYS = 20  # simulated days between two saved states
NOISE_KELVIN = 0.1  # of each temperature coefficient at the start; it breaks the symmetry between longitudes
FIRST_FRAME = np.datetime64("2001-01-01T00", "ns")

PERSISTENCE_DAYS = 5
TOLERANCE = 0.15  # of a variable's `persistence`
JUDGED_DAYS = 60  # a shorter record is measured, not judged


@dataclass(frozen=True)
class Variable:
    """One field, by WeatherBench's names."""

    key: str  # in the NetCDF file
    long_name: str
    units: str
    level: int  # hPa
    persistence: float  # RMSE of a lively twin, see `persistence_rmse`


VARIABLES = {
    "geopotential_500": Variable("z", "Geopotential", "m**2 s**-2", 500, 907.0),
    "temperature_850": Variable("t", "Temperature", "K", 850, 4.4),
}


class WeatherTwin(WeatherBench):
    """A Held-Suarez atmosphere. Uses fetch.days, fetch.spin_up_days and the seed."""

    time_stamps: ClassVar[TimeStamps] = "nominal"
    description: ClassVar[str] = (
        "Simulated weather on a globe without land, moisture, seasons or day and night (Held-Suarez test case)."
    )

    def fetch(self, folder: Path) -> None:
        """Simulates and writes `<folder>/<variable>/<variable>_<year>_5.625deg.nc`.

        The state is saved every 20 simulated days; a killed run goes on from there and ends in the same bytes.
        Raises UserError if `dinosaur` is not installed or the atmosphere is not lively.
        """
        spin_up, days = self.settings.spin_up_days, self.settings.days or DAYS
        versions = [_version(package) for package in ("dinosaur", "jax", "jaxlib")]
        with Work("fetch", params=[spin_up, days, self.seed, versions], code=[__name__]) as work:
            atmosphere = Atmosphere()
            frames = simulate(atmosphere, work, spin_up + days, self.seed)
            record = {name: field[spin_up * FRAMES_PER_DAY :] for name, field in frames.items()}
            check_liveliness(record)
            for name, field in record.items():
                write_years(folder, name, self._dataset(name, field, atmosphere))

    def _dataset(self, name: str, field: Field, atmosphere: Atmosphere) -> xr.Dataset:
        variable = VARIABLES[name]
        times = FIRST_FRAME + np.arange(len(field)) * np.timedelta64(24 // FRAMES_PER_DAY, "h")
        attributes = {"units": variable.units, "long_name": variable.long_name}
        north = {"units": "degrees_north", "standard_name": "latitude"}
        east = {"units": "degrees_east", "standard_name": "longitude"}
        return xr.Dataset(
            {variable.key: (("time", "lat", "lon"), field, attributes)},
            coords={
                "time": ("time", times, {"standard_name": "time"}),
                "lat": ("lat", atmosphere.latitudes, north),
                "lon": ("lon", atmosphere.longitudes, east),
                "level": ((), np.int32(variable.level), {"units": "millibars", "long_name": "pressure_level"}),
            },
            attrs=self._attributes(),
        )

    def _attributes(self) -> dict[str, Any]:
        return {
            "title": "Weather twin: a simulated dry atmosphere, not observations and not a reanalysis",
            "simulated": "true",
            "source": f"primitive equations of dinosaur {_version('dinosaur')}",
            "forcing": "Held-Suarez (1994): relaxation to a zonally symmetric temperature and Rayleigh friction; "
            "flat surface, no moisture, no seasons, no day and night",
            "references": "doi:10.1175/1520-0477(1994)075<1825:APFTIO>2.0.CO;2",
            "resolution": f"T21, 64 x 32 grid, {LAYERS} equidistant sigma layers, {STEP_SECONDS} s steps",
            "latitudes": "Gaussian, 85.76 S to 85.76 N, where WeatherBench has equiangular ones",
            "time_stamps": "nominal: they order the frames but mean no hour and no season",
            "seed": self.seed,
            "spin_up_days": self.settings.spin_up_days,
        }


def simulate(atmosphere: Atmosphere, work: Work, days: int, seed: int) -> dict[str, Field]:
    """All frames of `days` from rest, (4 * days, latitude, longitude), going on from the last chunk in `work`."""
    chunks = [f"days-{start:05d}.npz" for start in range(0, days, CHUNK_DAYS)]
    done = next((count for count, name in enumerate(chunks) if not work.has(name)), len(chunks))
    state = _load(work, chunks[done - 1], atmosphere.STATE) if done else atmosphere.at_rest(seed)
    frames: list[dict[str, Field]] = []
    first = done * CHUNK_DAYS
    for day in progress(range(first, days), "simulate", days, "day", done=first):
        state, fields = atmosphere.advance(state)
        frames.append(fields)
        if len(frames) == CHUNK_DAYS or day == days - 1:
            _save(work, chunks[day // CHUNK_DAYS], state | _joined(frames))
            frames = []
    return _joined([_load(work, name, VARIABLES) for name in chunks])


def check_liveliness(record: dict[str, Field]) -> None:
    """Refuses an atmosphere whose weather changes too little or too much in five days.

    A twin whose eddies have died (too strong a filter, no spin-up) looks fine at a glance and teaches nothing.
    A record of fewer than 60 days is measured and logged but not judged: 30 days of a lively one already lie up
    to 9 % off the long-term figure, and such records are made for trying things out. Raises UserError.
    """
    for name, field in record.items():
        variable, measured = VARIABLES[name], persistence_rmse(field)
        low, high = variable.persistence * (1 - TOLERANCE), variable.persistence * (1 + TOLERANCE)
        finding = (
            f"{name} of the simulated atmosphere has a persistence RMSE of {measured:.4g} {variable.units} "
            f"at {PERSISTENCE_DAYS} days; {low:.4g} to {high:.4g} is allowed"
        )
        if len(field) < JUDGED_DAYS * FRAMES_PER_DAY:
            log.warning("%s, not enforced on a record of fewer than %d days", finding, JUDGED_DAYS)
        elif not low <= measured <= high:
            raise UserError(f"{finding}; a longer fetch.spin_up_days lets the eddies grow")
        else:
            log.info("%s", finding)


def persistence_rmse(field: Field) -> float:
    """Root mean square change in five days over all times and grid points, without latitude weights.

    NaN if the field holds any.
    """
    lead = PERSISTENCE_DAYS * FRAMES_PER_DAY
    change = field[lead:].astype(np.float64) - field[:-lead]
    return float(np.sqrt(np.mean(change**2)))


def write_years(folder: Path, name: str, dataset: xr.Dataset) -> None:
    """One NetCDF file a year, `<folder>/<name>/<name>_<year>_5.625deg.nc`; equal content gives equal bytes."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for year, part in dataset.groupby("time.year"):
        encoding = {"time": {"units": "hours since 1900-01-01", "dtype": "int64"}}
        part.to_netcdf(folder / name / f"{name}_{year}_5.625deg.nc", engine="netcdf4", encoding=encoding)


def _joined(parts: list[dict[str, Field]]) -> dict[str, Field]:
    return {name: np.concatenate([part[name] for part in parts]) for name in VARIABLES}


def _save(work: Work, name: str, arrays: dict[str, NDArray[np.float32]]) -> None:
    with work.part(name) as path, path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _load(work: Work, name: str, keys: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    with np.load(work.path(name), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in keys}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise UserError(
            f"dataset 'weather_twin' needs the package '{package}', which is not installed; pip install s2kd[twin]"
        ) from None


class Atmosphere:
    """The simulator: from a state at rest, day by day. States are plain arrays, so that they can be saved.

    It runs on the CPU, each operation on one thread, so that the same bits come out every time.
    """

    STATE = ("vorticity", "divergence", "temperature_variation", "log_surface_pressure")

    def __init__(self) -> None:
        import jax
        from dinosaur import coordinate_systems, primitive_equations, primitive_equations_states
        from dinosaur.sigma_coordinates import SigmaCoordinates
        from dinosaur.spherical_harmonic import Grid

        jax.config.update("jax_platforms", "cpu")  # another device gives other bits, and T21 is too small for it
        self._grid = Grid.T21()
        self._coordinates = coordinate_systems.CoordinateSystem(self._grid, SigmaCoordinates.equidistant(LAYERS))
        self._specs = primitive_equations.PrimitiveEquationsSpecs.from_si()
        self._at_rest, features = primitive_equations_states.isothermal_rest_atmosphere(self._coordinates, self._specs)
        self._reference_temperature = features["ref_temperatures"]
        self._orography = features["orography"]
        day = jax.jit(self._one_day(), compiler_options={"xla_cpu_multi_thread_eigen": False})
        self._day = day.lower(self.at_rest(0)).compile()  # here, so that it does not spoil the rate of the days

    @property
    def latitudes(self) -> NDArray[np.float64]:
        """(32,) Gaussian latitudes in degrees, from south to north."""
        return np.rad2deg(self._grid.latitudes)

    @property
    def longitudes(self) -> NDArray[np.float64]:
        """(64,) in degrees, from 0 eastwards."""
        return np.rad2deg(self._grid.longitudes)

    def at_rest(self, seed: int) -> State:
        """An isothermal atmosphere at rest, with white noise in the temperature."""
        import jax

        state = self._at_rest(jax.random.PRNGKey(0))  # the key is for a pressure perturbation, which is left at zero
        noise = np.random.default_rng(seed).standard_normal(self._coordinates.modal_shape) * self._grid.mask
        state.temperature_variation = self._grid.clip_wavenumbers(noise * NOISE_KELVIN / self._in_si("K"))
        return {name: np.asarray(getattr(state, name), dtype=np.float32) for name in self.STATE}

    def advance(self, state: State) -> tuple[State, dict[str, Field]]:
        """The state a day later, and the day's 4 frames of each of `VARIABLES`, the first at its start."""
        import jax

        after, fields = jax.device_get(self._day(state))
        return after, {name: np.ascontiguousarray(field.swapaxes(1, 2)) for name, field in fields.items()}

    def _one_day(self) -> Callable[[State], Any]:
        from dinosaur.primitive_equations import State as DinosaurState
        from dinosaur.time_integration import trajectory_from_step

        steps = 24 * 3600 // FRAMES_PER_DAY // STEP_SECONDS
        run = trajectory_from_step(
            self._step(), FRAMES_PER_DAY, steps, start_with_input=True, post_process_fn=self._on_pressure_levels
        )

        def day(arrays: State) -> Any:
            state, fields = run(DinosaurState(**arrays))
            return {name: getattr(state, name) for name in self.STATE}, fields

        return day

    def _step(self) -> Callable[[Any], Any]:
        """One time step. The filter spares what is below 0.8 of the highest wavenumber; else the eddies die."""
        from dinosaur import time_integration
        from dinosaur.held_suarez import HeldSuarezForcing
        from dinosaur.primitive_equations import PrimitiveEquations

        seconds = self._specs.nondimensionalize(STEP_SECONDS * self._units("second"))
        orography = self._grid.to_modal(self._orography)
        dynamics = PrimitiveEquations(self._reference_temperature, orography, self._coordinates, self._specs)
        forcing = HeldSuarezForcing(self._coordinates, self._specs, self._reference_temperature)
        step = time_integration.imex_rk_sil3(time_integration.compose_equations([dynamics, forcing]), seconds)
        damping = time_integration.exponential_step_filter(self._grid, seconds, tau=0.0087504, order=1.5, cutoff=0.8)
        return time_integration.step_with_filters(step, [damping])

    def _on_pressure_levels(self, state: Any) -> dict[str, Any]:
        """Each of `VARIABLES` in SI units, (longitude, latitude)."""
        import jax.numpy as jnp
        from dinosaur.primitive_equations import get_geopotential_on_sigma
        from dinosaur.vertical_interpolation import PressureCoordinates, interp_sigma_to_pressure

        levels = np.array([variable.level for variable in VARIABLES.values()])
        pressures = PressureCoordinates(self._specs.nondimensionalize(levels * self._units("hPa")))
        temperature = self._reference_temperature[:, None, None] + self._grid.to_nodal(state.temperature_variation)
        geopotential = get_geopotential_on_sigma(
            temperature,
            nodal_orography=self._orography,
            sigma=self._coordinates.vertical,
            gravity_acceleration=self._specs.gravity_acceleration,
            ideal_gas_constant=self._specs.ideal_gas_constant,
        )
        surface_pressure = jnp.exp(self._grid.to_nodal(state.log_surface_pressure))
        sources = {"z": geopotential, "t": temperature}
        on_levels = interp_sigma_to_pressure(sources, pressures, self._coordinates.vertical, surface_pressure)
        return {
            name: on_levels[variable.key][index] * self._in_si(variable.units)
            for index, (name, variable) in enumerate(VARIABLES.items())
        }

    def _in_si(self, unit: str) -> float:
        return float(self._specs.dimensionalize(1.0, self._units(unit)).magnitude)

    @staticmethod
    def _units(expression: str) -> Any:
        from dinosaur.scales import units

        return units(expression)
