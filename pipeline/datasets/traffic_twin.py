"""The traffic twin: a simulated city in TaxiBJ's files, for use without any download.

Modelled: a city of 32 x 32 cells (`traffic.city`) with homes, offices, shops, stations, main streets, a river and
its bridges; trips between cells by a gravity model, over all streets not much longer than the shortest; how many
there are by hour, weekday, holiday, weather and chance that lasts for hours and days (`traffic.days`); streets that
are closed for one to four hours and the detours around them; counts more scattered than a Poisson process. As in
TaxiBJ, a cell's inflow counts trips that come into it in a half hour and its outflow those that leave it; a long
trip is counted partly in the half hour in which it sets out, partly in the next.

An incident (accident, demonstration, emergency roadworks, public event) is visible from its first half hour: the
closed cells empty and their neighbours fill. Its kind is not: kinds begin alike, at the same places and hours, and
differ in how long they last and how they end. Their kinds stand in `context/events.csv` alone, which reaches the
captioner's prompt and no model.

Not modelled: single vehicles, queues and how they grow backwards, signals, speeds that fall with the load, other
means of travel, seasons of a holiday, days or slots without data, and any real place.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.taxibj import TaxiBJ
from pipeline.datasets.traffic.city import CELLS, SIDE, Array, City, full
from pipeline.datasets.traffic.context import WEATHER
from pipeline.datasets.traffic.days import (
    FIRST_DAY,
    SLOTS,
    TAIL,
    Incident,
    Weather,
    calendar,
    simulate_demand,
    simulate_incidents,
    simulate_weather,
)
from pipeline.datasets.traffic.liveliness import Sample, check_liveliness
from pipeline.progress import progress

log = logging.getLogger(__name__)

DAYS = 120
OVERDISPERSION = 1.6  # variance of a count over its mean; 1 would be a Poisson process
README = """Simulated: an invented city, no observations of any real one. Seed {seed}, {days} days from {first};
the dates are nominal. Written by the data set 'traffic_twin' of s2kd in TaxiBJ's formats (Zhang, Zheng, Qi 2017).

BJ<yy>_M32x32_T30_InOut.h5  data (time, 2, 32, 32) inflow and outflow a half hour; date YYYYMMDDSS, SS from 01 to 48
BJ_Meteorology.h5           date, Temperature (degrees Celsius), WindSpeed (miles an hour), Weather (one of 17 kinds)
BJ_Holiday.txt              the holidays, YYYYMMDD
context/events.csv          what closed which street; from time up to, and without, until
"""


class TrafficTwin(TaxiBJ):
    """An invented city. Uses fetch.days (null: 120) and the seed."""

    description: ClassVar[str] = (
        "Simulated traffic of an invented city on a grid of 32 x 32 cells: trips that enter (inflow) and leave "
        "(outflow) each cell in a half hour. Closed streets empty and the streets around them fill."
    )

    def fetch(self, folder: Path) -> None:
        """Simulates and writes TaxiBJ's files and `context/events.csv`; raises UserError if the city is not lively.

        A minute or less for 120 days, so a killed run begins anew.
        """
        days = self.settings.days or DAYS
        record = simulate(days, self.seed)
        check_liveliness(record.sample)
        write(folder, record, self.seed)


@dataclass(frozen=True)
class Record:
    counts: NDArray[np.float32]  # (time, 2, SIDE, SIDE) inflow, outflow a half hour
    expected: NDArray[np.float32]  # the same without the counts' own scatter
    weather: Weather
    incidents: list[Incident]
    levels: Array  # (time,) trips that set out in the city

    @property
    def sample(self) -> Sample:
        return Sample(self.counts, self.expected, self.incidents, self.levels)


def simulate(days: int, seed: int) -> Record:
    """A city and `days` of its traffic; a shorter record is the start of a longer one."""
    city = City(seed)
    weather = simulate_weather(days, seed)
    demand = simulate_demand(city, days, weather, seed)
    incidents = simulate_incidents(city, demand, seed)
    before = np.concatenate([demand[:1], demand[:-1]])
    levels = demand.sum(axis=1)
    counts, expected = (np.empty((days * SLOTS, 2, SIDE, SIDE), dtype=np.float32) for _ in range(2))
    for day in progress(range(days), "count", days, "day"):
        slots = slice(day * SLOTS, (day + 1) * SLOTS)
        loads = full(city.loads(demand[slots], before[slots]) + disturbance(incidents, levels, slots))
        loads = np.round(loads, 4)  # rounding errors, which differ between machines, must not reach the counts
        counts[slots] = flows(scattered(loads, np.random.default_rng([seed, 4, day])))
        expected[slots] = flows(loads)
    return Record(counts, expected, weather, incidents, levels)


def disturbance(incidents: list[Incident], levels: Array, slots: slice) -> Array:
    """(slots, 3 * CELLS) what incidents add to the loads, and take from them, in some slots of the record."""
    added = np.zeros((slots.stop - slots.start, 3 * CELLS))
    for incident in incidents:
        first, last = max(incident.start, slots.start), min(incident.end + TAIL, slots.stop)
        if first < last:
            closed, surge = incident.effect(levels[incident.start : incident.end + TAIL])
            part = slice(first - incident.start, last - incident.start)
            rows = added[first - slots.start : last - slots.start]
            rows[:, :CELLS] += closed[part, None] * incident.change
            rows += surge[part, None] * incident.surge
    return added


def scattered(loads: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Counts with the mean `loads` and OVERDISPERSION times its variance: negative binomial, as Gamma and Poisson."""
    excess = OVERDISPERSION - 1
    return rng.poisson(rng.gamma(loads / excess, excess))


def flows(loads: NDArray[Any]) -> NDArray[Any]:
    """(time, 3 * CELLS) trips of `PARTS` -> (time, 2, SIDE, SIDE) inflow, outflow."""
    through, starts, ends = np.split(loads, 3, axis=1)
    return np.stack([through + ends, through + starts], axis=1).reshape(len(loads), 2, SIDE, SIDE)


def write(folder: Path, record: Record, seed: int) -> None:
    """TaxiBJ's files, the incidents and a README; equal records give equal bytes."""
    (folder / "context").mkdir(parents=True, exist_ok=True)
    dates, holiday = calendar(len(record.counts) // SLOTS)
    stamps = np.array([f"{date}{slot:02d}" for date in _compact(dates) for slot in range(1, SLOTS + 1)], dtype="S10")
    years = np.repeat([text[2:4] for text in _compact(dates)], SLOTS)
    for year in np.unique(years):
        _write_hdf5(
            folder / f"BJ{year}_M32x32_T30_InOut.h5",
            {"data": record.counts[years == year], "date": stamps[years == year]},
            seed,
        )
    weather = record.weather
    one_hot = np.eye(len(WEATHER), dtype=np.float32)[weather.kind]
    fields = {"Temperature": weather.temperature.round(1), "WindSpeed": weather.wind.round(1)}
    _write_hdf5(folder / "BJ_Meteorology.h5", {"date": stamps, **fields, "Weather": one_hot}, seed)
    (folder / "BJ_Holiday.txt").write_text("".join(f"{date}\n" for date in _compact(dates[holiday > 0])))
    _write_events(folder / "context" / "events.csv", record.incidents)
    (folder / "README.txt").write_text(README.format(seed=seed, days=len(dates), first=dates[0]))


def _write_hdf5(path: Path, arrays: dict[str, NDArray[Any]], seed: int) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["title"] = "Traffic twin: a simulated city, not observations"
        file.attrs["simulated"] = "true"
        file.attrs["seed"] = seed
        for name, values in arrays.items():
            chunks = (min(SLOTS, len(values)), *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, compression="gzip", shuffle=True, track_times=False)


def _write_events(path: Path, incidents: list[Incident]) -> None:
    with path.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["time", "until", "incident"])
        for incident in incidents:
            table.writerow([_moment(incident.start), _moment(incident.end), incident.words])


def _moment(slot: int) -> str:
    return str(FIRST_DAY.astype("datetime64[m]") + slot * (24 * 60 // SLOTS)).replace("T", " ")


def _compact(dates: NDArray[np.datetime64]) -> list[str]:
    return [str(date).replace("-", "") for date in dates]
