"""The traffic twin's time: hours and weekdays, holidays, weather, how many people travel, and what closes a street.

Every random series is drawn time step by time step or day by day, so that a shorter record is the start of a
longer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pipeline.datasets.traffic.city import PARTS, PURPOSES, SIDE, Array, City
from pipeline.datasets.traffic.context import WEATHER
from pipeline.progress import progress

SLOTS = 48  # half hours of a day
FIRST_DAY = np.datetime64("2001-01-01")  # a Monday; nominal, like the year of the weather twin
HOLIDAYS = ((1, 1, 1), (1, 24, 7), (3, 8, 1), (4, 5, 1), (4, 20, 3), (6, 25, 1), (8, 15, 1), (10, 1, 7), (12, 25, 2))
LONG = 5  # days of a holiday on which many leave the city

Bumps = tuple[tuple[float, float, float], ...]  # (hour, width in hours, height) each


@dataclass(frozen=True)
class Rhythm:
    """How the trips of a purpose spread over the day, and what weather does to them (as a share at its worst)."""

    trips: float  # a half hour at height 1
    weekday: Bumps
    weekend: Bumps
    floor: float = 0.03
    rain: float = 0.0
    snow: float = -0.3
    cold: float = 0.0


RHYTHMS = {
    "to work": Rhythm(7600, ((8.0, 1.0, 1.0),), ((9.0, 1.5, 0.2),), rain=0.2, cold=0.12),
    "from work": Rhythm(6800, ((18.3, 1.3, 1.0), (21.0, 1.3, 0.25)), ((17.5, 2.0, 0.2),), rain=0.2, cold=0.12),
    "business": Rhythm(4800, ((10.5, 1.7, 0.8), (15.0, 2.0, 1.0)), ((14.0, 3.0, 0.25),), rain=0.1),
    "to shops": Rhythm(4000, ((12.2, 1.5, 0.4), (18.8, 1.8, 0.8)), ((14.5, 3.0, 1.0),), rain=-0.35, cold=-0.2),
    "from shops": Rhythm(4000, ((13.6, 1.4, 0.35), (21.3, 1.8, 0.8)), ((18.5, 3.0, 1.0),), rain=-0.2, cold=-0.2),
    "to stations": Rhythm(1050, ((7.0, 2.0, 0.7), (14.5, 3.5, 0.8)), ((9.5, 3.0, 0.7), (16.0, 3.0, 0.7))),
    "from stations": Rhythm(1050, ((9.5, 2.5, 0.6), (19.5, 3.5, 1.0)), ((12.0, 3.0, 0.6), (20.5, 3.0, 0.9))),
    "other": Rhythm(
        4800, ((9.5, 2.5, 0.6), (15.0, 4.0, 0.8), (22.0, 2.2, 0.7)), ((15.0, 4.5, 1.0), (23.0, 2.5, 0.7)), floor=0.12
    ),
}
HOLIDAY_SHARE, LONG_HOLIDAY_SHARE = 0.85, 0.6  # of the trips of a weekend
WEEKDAY_SHARE = (1.02, 1.0, 1.0, 1.02, 1.08, 1.0, 0.92)  # Monday to Sunday
GROWTH_PER_DAY = 0.001
SPREADS = {  # of the logarithm of demand, and the hours for which such a change lasts
    "city": (0.14, 200.0),
    "purpose": (0.12, 24.0),
    "district and purpose": (0.15, 8.0),
    "district": (0.28, 700.0),
}

INCIDENTS_A_DAY = 6.0
ONSETS = (13, 41)  # slots of the day between which incidents begin: 6:30 to 20:00
TAIL = 2  # slots after the end in which it is still felt
SURGE_TRIPS = 1500.0  # a half hour, when the crowd of an event leaves


@dataclass(frozen=True)
class Weather:
    """(time,) each."""

    kind: NDArray[np.int64]  # index into WEATHER
    temperature: Array  # degrees Celsius
    wind: Array  # miles an hour, as in TaxiBJ
    rain: Array  # 0 to 1
    snow: Array  # 0 to 1


@dataclass(frozen=True)
class Kind:
    """What closes a street. Its beginning looks the same whatever it is; `course` tells the kinds apart."""

    share: float  # of all incidents
    slots: Mapping[int, float]  # how many half hours it lasts, with which probability
    opening: tuple[float, ...] = ()  # the closed share in its last half hours
    after: tuple[float, float] = (0.0, 0.0)  # the same once it is over; below zero the street carries more than usual
    surge: tuple[float, float] = (0.0, 0.0)  # of people who then leave the place, as a share of SURGE_TRIPS

    def course(self, slots: int) -> tuple[Array, Array]:
        """(slots + TAIL,) the closed share and the surge from the first half hour on."""
        closed = np.concatenate([np.ones(slots - len(self.opening)), self.opening, self.after])
        return closed, np.concatenate([np.zeros(slots), self.surge])


KINDS = {
    "accident": Kind(0.4, {2: 0.7, 3: 0.3}, after=(-0.4, -0.2)),  # those held up come all at once
    "demonstration": Kind(0.2, {4: 0.6, 5: 0.4}),  # over from one moment to the next
    "emergency roadworks": Kind(0.2, {6: 0.4, 7: 0.4, 8: 0.2}, opening=(0.67, 0.33)),  # lane by lane
    "public event": Kind(0.2, {4: 0.5, 5: 0.5}, surge=(1.0, 0.4)),  # the crowd goes home
}


@dataclass(frozen=True)
class Incident:
    kind: str
    start: int  # slot of the record
    slots: int
    strength: float  # share of the traffic that keeps away
    level: float  # trips a half hour in the city when it begins
    cells: NDArray[np.int64]
    change: Array  # (CELLS,) trips that pass, when it begins, were all of them to keep away
    surge: Array  # (3 * CELLS,) trips of the crowd that leaves

    @property
    def end(self) -> int:
        return self.start + self.slots

    @property
    def words(self) -> str:
        """Kind and place, in cells; in one, so that they stay together where several incidents are told."""
        rows, columns = np.divmod(self.cells, SIDE)
        return f"{self.kind} on the main street at {_range('x', columns)}, {_range('y', rows)}"

    def effect(self, levels: Array) -> tuple[Array, Array]:
        """(slots + TAIL,) what `change` and `surge` are multiplied by, for the record's `levels` from its start."""
        closed, surge = KINDS[self.kind].course(self.slots)
        return closed[: len(levels)] * self.strength * levels / self.level, surge[: len(levels)]


def calendar(days: int) -> tuple[NDArray[np.datetime64], NDArray[np.int64]]:
    """(days,) the dates and how long a holiday each belongs to, 0 for none."""
    dates = FIRST_DAY + np.arange(days)
    holiday = np.zeros(days, dtype=np.int64)
    for year in np.unique(dates.astype("datetime64[Y]")):
        for month, day, length in HOLIDAYS:
            first = year.astype("datetime64[M]") + (month - 1)
            first = first.astype("datetime64[D]") + (day - 1)
            holiday[(dates >= first) & (dates < first + length)] = length
    return dates, holiday


def simulate_weather(days: int, seed: int) -> Weather:
    """Weather that lasts: series that forget within hours (showers) and days (highs and lows)."""
    noise = np.random.default_rng([seed, 1]).standard_normal((days * SLOTS, 4))
    low, shower, warmth, breeze = (_lasting(noise[:, i], hours) for i, hours in enumerate((30.0, 4.0, 72.0, 8.0)))
    hour = np.arange(days * SLOTS) / 2
    wet = 0.8 * low + 0.6 * shower
    amount = np.clip((wet - 1.0) / 1.6, 0, 1)
    season = 12 - 14 * np.cos(2 * np.pi * (hour / 24 - 15) / 365)
    temperature = season + 4 * np.cos(2 * np.pi * (hour - 15) / 24) + 3 * warmth - 3 * (amount > 0)
    wind = 8 * np.exp(0.5 * breeze + 0.15 * low)
    snow = np.where(temperature < 1, amount, 0)
    rain = np.where(temperature < 1, 0, amount)
    return Weather(_named(wet, rain, snow, temperature, wind), temperature, wind, rain, snow)


def _named(wet: Array, rain: Array, snow: Array, temperature: Array, wind: Array) -> NDArray[np.int64]:
    """TaxiBJ's number of each half hour's weather; of its 17 kinds, all but freezing rain, sandstorms and dust."""
    name = WEATHER.index
    dry = np.select([wet < -0.3, wet < 0.4], [name("sunny"), name("cloudy")], name("overcast"))
    dry = np.where((dry == name("overcast")) & (wind < 4), name("fog"), dry)
    rains = [name(kind) for kind in ("sprinkle", "rain", "moderate rain", "heavy rain")]
    worst = np.where(temperature > 20, name("thunderstorm"), name("rainstorm"))
    snows = [name(kind) for kind in ("light snow", "snow", "moderate snow")]
    raining = np.select([rain < 0.15, rain < 0.35, rain < 0.6, rain < 0.9], rains, worst)
    snowing = np.select([snow < 0.2, snow < 0.45, snow < 0.75], snows, name("heavy snow"))
    return np.where(rain > 0, raining, np.where(snow > 0, snowing, dry)).astype(np.int64)


def simulate_demand(city: City, days: int, weather: Weather, seed: int) -> Array:
    """(time, purposes * DISTRICTS) trips that set out in each half hour, by purpose and district of origin."""
    count = days * SLOTS
    shares = city.shares
    purposes, districts = shares.shape
    sizes = (1, purposes, purposes * districts, districts)
    noise = np.random.default_rng([seed, 2]).standard_normal((count, sum(sizes)))
    parts = np.split(noise, np.cumsum(sizes)[:-1], axis=1)
    whole, purpose, both, district = (
        sigma * _lasting(part, hours) for part, (sigma, hours) in zip(parts, SPREADS.values(), strict=True)
    )
    trips = _rhythm(days) * _weather_share(weather) * np.exp(whole + purpose)
    by_district = shares * np.exp(both.reshape(count, purposes, districts) + district[:, None])
    return (trips[:, :, None] * by_district).reshape(count, -1)


def simulate_incidents(city: City, demand: Array, seed: int) -> list[Incident]:
    """What closes streets, by start. Kind, place, hour and strength are drawn independently of each other."""
    by_purpose = demand.reshape(len(demand), len(PURPOSES), -1).sum(axis=2)
    usual = demand[: 7 * SLOTS].mean(axis=0)  # of the first week, so that a longer record has the same incidents
    flow = city.loads(usual, usual)[: SIDE * SIDE]
    found, days = [], len(demand) // SLOTS
    for day in progress(range(days), "divert traffic", days, "day"):
        rng = np.random.default_rng([seed, 3, day])
        starts = np.sort(rng.integers(*ONSETS, size=rng.poisson(INCIDENTS_A_DAY)))
        found += [_incident(city, day * SLOTS + int(start), by_purpose, flow, rng) for start in starts]
    return found


def _incident(city: City, start: int, by_purpose: Array, flow: Array, rng: np.random.Generator) -> Incident:
    kind = str(rng.choice(list(KINDS), p=[kind.share for kind in KINDS.values()]))
    lengths = KINDS[kind].slots
    slots = int(rng.choice(list(lengths), p=list(lengths.values())))
    cells, strength = city.segment(rng, flow), float(rng.uniform(0.7, 1.0))
    closure = city.close(cells, by_purpose[start])
    leaving = city.departures(cells, SURGE_TRIPS) if any(KINDS[kind].surge) else np.zeros(len(PARTS) * len(flow))
    return Incident(kind, start, slots, strength, float(by_purpose[start].sum()), cells, closure.change, leaving)


def _rhythm(days: int) -> Array:
    """(time, purposes) trips a half hour before weather and chance."""
    dates, holiday = calendar(days)
    weekday = (dates.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    free = (weekday >= 5) | (holiday > 0)
    size = np.array(WEEKDAY_SHARE)[weekday] * (1 + GROWTH_PER_DAY * np.arange(days))
    size *= np.select([holiday >= LONG, holiday > 0], [LONG_HOLIDAY_SHARE, HOLIDAY_SHARE], 1.0)
    working = np.stack([_day(r.weekday, r) for r in RHYTHMS.values()], axis=1)
    resting = np.stack([_day(r.weekend, r) for r in RHYTHMS.values()], axis=1)
    shapes = np.where(free[:, None, None], resting, working) * size[:, None, None]
    return shapes.reshape(days * SLOTS, len(RHYTHMS))


def _day(bumps: Bumps, rhythm: Rhythm) -> Array:
    """(SLOTS,) trips a half hour; what is late in the evening goes on after midnight."""
    hour = (np.arange(SLOTS) + 0.5) / 2
    away = [(hour - at + 12) % 24 - 12 for at, _, _ in bumps]
    heights = [h * np.exp(-(d**2) / (2 * w * w)) for d, (_, w, h) in zip(away, bumps, strict=True)]
    return rhythm.trips * (rhythm.floor + np.sum(heights, axis=0))


def _weather_share(weather: Weather) -> Array:
    """(time, purposes)"""
    cold = np.clip((4 - weather.temperature) / 12, 0, 1)
    return np.stack(
        [1 + r.rain * weather.rain + r.snow * weather.snow + r.cold * cold for r in RHYTHMS.values()], axis=1
    )


def _lasting(noise: Array, hours: float) -> Array:
    """A series (time, ...) of unit variance whose autocorrelation falls to 1/e in `hours`."""
    keep = float(np.exp(-0.5 / hours))
    drive = noise * np.sqrt(1 - keep**2)
    drive[:1] = noise[:1]  # so that the first value has unit variance too
    series: Any = lfilter([1.0], [1.0, -keep], drive, axis=0)
    return np.asarray(series, dtype=np.float64)


def _range(word: str, values: NDArray[np.int64]) -> str:
    first, last = int(values.min()), int(values.max())
    return f"{word} {first}" if first == last else f"{word} {first} to {last}"
