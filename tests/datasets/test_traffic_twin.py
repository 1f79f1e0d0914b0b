from __future__ import annotations

import hashlib
import logging
import re
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import context, paths
from pipeline.datasets.traffic import city as traffic_city
from pipeline.datasets.traffic import days as traffic_days
from pipeline.datasets.traffic import liveliness as traffic_liveliness
from pipeline.datasets.traffic.city import CELLS, PURPOSES, SIDE, City, full
from pipeline.datasets.traffic.days import KINDS, SLOTS, TAIL, Incident, calendar, simulate_demand, simulate_weather
from pipeline.datasets.traffic.liveliness import Sample, check_liveliness, incident_worth, measured, peak, persistence
from pipeline.datasets.traffic_twin import Record, TrafficTwin, disturbance, flows, scattered, simulate, write
from pipeline.errors import UserError
from pipeline.params import Fetch, Ingest
from pipeline.store import Store
from stages import fetch, ingest
from tests.helpers import tiny_params

SEED, DAYS = 7, 4
WEEK = 7 * SLOTS


@pytest.fixture(scope="module")
def city() -> City:
    return City(SEED)


@pytest.fixture(scope="module")
def record() -> Record:
    return simulate(DAYS, SEED)


@pytest.fixture(scope="module")
def busy(city: City) -> np.ndarray:
    """(purposes,) trips a half hour."""
    return np.full(len(PURPOSES), 2000.0)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def incident(kind: str = "accident", slots: int = 2, start: int = 10, cells: int = 4) -> Incident:
    change = np.array([-3.0, 1.0, 2.0, 0.0])
    surge = np.zeros(3 * cells, dtype=np.float64)
    return Incident(kind, start, slots, 0.5, 100.0, np.array([0]), change, surge)


def sample(counts: np.ndarray, incidents: list[Incident] | None = None) -> Sample:
    values = counts.astype(np.float32)
    return Sample(values, values, incidents or [], np.full(len(counts), 100.0))


# ---- the city


def test_loads_on_a_line_of_cells_are_one_for_each_cell_on_the_way() -> None:
    weights = np.diag(np.full(4, 1e-4), 1) + np.diag(np.full(4, 1e-4), -1)
    reach = np.asarray(np.linalg.inv(np.eye(5) - weights), dtype=np.float64)
    trips = np.zeros((5, 5))
    trips[1, 3] = 10
    np.testing.assert_allclose(traffic_city._visits(trips, reach).sum(axis=0), [0, 10, 10, 10, 0], atol=1e-5)


def test_loads_are_the_derivative_of_the_logarithm_of_all_paths_weight() -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(0, 0.15, (6, 6))
    np.fill_diagonal(weights, 0)
    reach = np.asarray(np.linalg.inv(np.eye(6) - weights), dtype=np.float64)
    trips = np.zeros((6, 6))
    trips[0, 5] = 1
    found = traffic_city._visits(trips, reach).sum(axis=0)
    for cell in range(1, 6):
        more = weights.copy()
        more[:, cell] *= 1 + 1e-6
        slope = (np.log(np.linalg.inv(np.eye(6) - more)[0, 5]) - np.log(reach[0, 5])) / 1e-6
        assert found[cell] == pytest.approx(slope, rel=1e-4)


def test_every_trip_begins_once_and_ends_once_and_a_part_of_it_is_late(city: City) -> None:
    _, starts, ends = np.split(city.now + city.late, 3, axis=1)
    np.testing.assert_allclose(starts.sum(axis=1), 1)
    np.testing.assert_allclose(ends.sum(axis=1), 1)
    assert (city.now > -1e-12).all()
    assert (city.late > -1e-12).all()
    assert 0.1 < city.late.sum() / (city.now + city.late).sum() < 0.6
    np.testing.assert_allclose(city.shares.sum(axis=1), 1)


def test_closing_cells_gives_what_an_inversion_without_them_gives(city: City) -> None:
    cells = city.segment(np.random.default_rng(1), np.ones(CELLS))
    weights = city._weights.copy()
    weights[:, cells] *= traffic_city.CLOSED
    expected = np.linalg.inv(np.eye(CELLS) - weights)
    near = expected > 1e-12
    np.testing.assert_allclose(city._without(cells)[near], expected[near], rtol=1e-4)


def test_a_closed_street_empties_and_the_streets_around_it_fill(city: City, busy: np.ndarray) -> None:
    demand = (busy[:, None] * city.shares).reshape(1, -1)
    usual = city.loads(demand, demand)[0]
    cells = city.segment(np.random.default_rng(3), usual[:CELLS] ** 2)
    change = city.close(cells, busy).change
    assert change[cells].sum() < -0.7 * usual[cells].sum()
    assert (change[cells] < -0.5 * usual[cells]).all()
    rows, columns = np.divmod(cells, SIDE)
    beside = [row * SIDE + column for row in range(rows.min() - 2, rows.max() + 3) for column in range(SIDE)
              if columns.min() - 2 <= column <= columns.max() + 2 and 0 <= row < SIDE]  # fmt: skip
    assert change[[cell for cell in beside if cell not in cells]].max() > 50
    assert change[change > 0].sum() > 0.5 * -change[cells].sum()


def test_a_leaving_crowd_starts_where_it_was_and_arrives_elsewhere(city: City) -> None:
    cells = np.array([500, 501])
    _, starts, ends = np.split(city.departures(cells, 300.0), 3)
    assert starts[cells].sum() == pytest.approx(300)
    assert starts.sum() == pytest.approx(300)
    assert ends.sum() == pytest.approx(300)
    assert (ends[cells] == 0).all()


def test_full_streets_let_no_more_through_and_empty_ones_no_less_than_nothing() -> None:
    loads = np.zeros((1, 3 * CELLS))
    loads[0, :4] = [1e6, 100, -5, traffic_city.CAPACITY]
    through = full(loads)[0]
    assert through[0] == pytest.approx(traffic_city.CAPACITY)
    assert through[1] == pytest.approx(100, rel=1e-4)
    assert through[2] == 0
    assert through[3] == pytest.approx(traffic_city.CAPACITY / 2**0.25)


# ---- its days


def test_holidays_and_weekends_change_the_rhythm() -> None:
    dates, holiday = calendar(40)
    assert [str(day) for day in dates[holiday > 0]] == ["2001-01-01", *(f"2001-01-{day}" for day in range(24, 31))]
    to_work = traffic_days._rhythm(40)[:, list(PURPOSES).index("to work")].reshape(40, SLOTS)
    assert to_work[1].argmax() in (15, 16)  # about 8:00 on a Tuesday
    assert to_work[5].max() < 0.4 * to_work[4].max()  # Saturday
    assert to_work[23].max() < 0.2 * to_work[22].max()  # the long holiday


def test_weather_lasts_for_hours_and_snows_in_the_cold_alone() -> None:
    weather = simulate_weather(120, SEED)
    wet = (weather.rain + weather.snow) > 0
    assert 0.05 < wet.mean() < 0.35
    assert (wet[4:] & wet[:-4]).mean() > 0.5 * wet.mean()
    assert (weather.temperature[weather.snow > 0] < 1).all()
    assert np.array_equal(np.isin(weather.kind, [3, 4, 5, 6, 7, 8]), weather.rain > 0)
    assert np.array_equal(np.isin(weather.kind, [10, 11, 12, 13]), weather.snow > 0)


def test_rain_and_snow_change_what_people_do(city: City) -> None:
    dry = simulate_weather(2, SEED)
    dry = replace(dry, rain=np.zeros_like(dry.rain), snow=np.zeros_like(dry.snow))
    trips = {
        name: simulate_demand(city, 2, weather, SEED).reshape(2 * SLOTS, len(PURPOSES), -1).sum(axis=(0, 2))
        for name, weather in {"dry": dry, "rain": replace(dry, rain=np.ones_like(dry.rain)),
                              "snow": replace(dry, snow=np.ones_like(dry.snow))}.items()
    }  # fmt: skip
    purposes = list(PURPOSES)
    assert trips["rain"][purposes.index("to work")] > 1.1 * trips["dry"][purposes.index("to work")]
    assert trips["rain"][purposes.index("to shops")] < 0.8 * trips["dry"][purposes.index("to shops")]
    assert (trips["snow"] < 0.8 * trips["dry"]).all()


def test_a_shorter_record_is_the_start_of_a_longer_one(city: City, record: Record) -> None:
    for name in ("kind", "temperature", "wind", "rain", "snow"):
        assert np.array_equal(getattr(simulate_weather(2, SEED), name), getattr(record.weather, name)[: 2 * SLOTS])
    demand = simulate_demand(city, 2, simulate_weather(2, SEED), SEED)
    np.testing.assert_array_equal(demand.sum(axis=1), record.levels[: 2 * SLOTS])


def test_kinds_begin_alike_and_differ_in_how_long_they_last_and_how_they_end() -> None:
    courses = {kind: [kind_.course(slots) for slots in kind_.slots] for kind, kind_ in KINDS.items()}
    for course in courses.values():
        assert all(np.array_equal(closed[:2], [1, 1]) and not surge[:2].any() for closed, surge in course)
    mean = {kind: sum(slots * chance for slots, chance in KINDS[kind].slots.items()) / 2 for kind in KINDS}
    assert mean["accident"] < 1.5 < mean["demonstration"] < 3 < mean["emergency roadworks"]
    assert courses["accident"][0][0][-TAIL:].max() < 0
    assert courses["public event"][0][1][-TAIL:].min() > 0
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    assert all(sum(kind.slots.values()) == pytest.approx(1) for kind in KINDS.values())


def test_fields_are_the_same_whatever_the_kind_until_the_first_could_be_over(record: Record) -> None:
    found = record.incidents[0]
    slots = slice(found.start, found.start + 10)
    effects = {}
    for kind in KINDS:
        other = replace(found, kind=kind, slots=min(KINDS[kind].slots), surge=np.ones(3 * CELLS))
        effects[kind] = disturbance([other], record.levels, slots)
    for kind, effect in effects.items():
        np.testing.assert_array_equal(effect[:2], effects["accident"][:2])
        assert kind == "accident" or not np.array_equal(effect[2:], effects["accident"][2:])


def test_incidents_are_several_a_day_by_day_on_main_streets(record: Record) -> None:
    assert 0.5 * 6 * DAYS < len(record.incidents) < 1.6 * 6 * DAYS
    city = City(SEED)
    for found in record.incidents:
        assert 13 <= found.start % SLOTS < 41
        rows, columns = np.divmod(found.cells, SIDE)
        assert set(rows) <= set(city.main_rows) or set(columns) <= set(city.main_columns)
        assert found.slots in KINDS[found.kind].slots


def test_the_fields_show_an_incident_while_it_lasts(record: Record) -> None:
    """Against the same half hour of the day before and after, most closed cells are emptier."""
    emptier = []
    for found in record.incidents:
        for slot in range(found.start, min(found.start + 2, len(record.counts))):
            others = [at for at in (slot - SLOTS, slot + SLOTS) if 0 <= at < len(record.counts)]
            flat = record.expected[:, 0].reshape(-1, CELLS)
            emptier.append((flat[slot, found.cells] < 0.7 * flat[others].mean(axis=0)[found.cells]).mean())
    assert np.mean(emptier) > 0.6


# ---- counts and files


def test_counts_have_the_mean_and_the_variance_that_are_stated() -> None:
    drawn = scattered(np.full((4000, 50), 80.0), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(80, rel=0.005)
    assert drawn.var() / drawn.mean() == pytest.approx(1.6, rel=0.02)
    assert (scattered(np.zeros((3, 3)), np.random.default_rng(0)) == 0).all()


def test_flows_count_who_comes_in_and_who_leaves() -> None:
    loads = np.zeros((1, 3 * CELLS))
    loads[0, [5, CELLS + 5, 2 * CELLS + 5]] = [100, 7, 20]
    inflow, outflow = flows(loads)[0].reshape(2, CELLS)[:, 5]
    assert (inflow, outflow) == (120, 107)


def test_the_same_seed_gives_the_same_bytes_at_another_time_and_another_seed_another_city(
    record: Record, tmp_path: Path
) -> None:
    write(tmp_path / "one", record, SEED)
    time.sleep(1.1)  # HDF5 keeps seconds, where it keeps times
    write(tmp_path / "two", simulate(DAYS, SEED), SEED)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert not np.array_equal(simulate(1, SEED + 1).counts, record.counts[:SLOTS])


def test_files_have_taxibjs_names_and_contents_and_are_marked_as_simulated(record: Record, tmp_path: Path) -> None:
    write(tmp_path, record, SEED)
    assert sorted(hashes(tmp_path)) == [
        *("BJ01_M32x32_T30_InOut.h5", "BJ_Holiday.txt", "BJ_Meteorology.h5", "README.txt", "context/events.csv")
    ]
    with h5py.File(tmp_path / "BJ01_M32x32_T30_InOut.h5") as file:
        assert file["data"].shape == (DAYS * SLOTS, 2, 32, 32)
        assert (file["date"][0], file["date"][47], file["date"][48]) == (b"2001010101", b"2001010148", b"2001010201")
        np.testing.assert_array_equal(file["data"], record.counts)
        assert (record.counts >= 0).all()
        assert (record.counts == record.counts.round()).all()
        assert file.attrs["simulated"] == "true"
    with h5py.File(tmp_path / "BJ_Meteorology.h5") as file:
        assert file["Weather"].shape == (DAYS * SLOTS, 17)
        assert (file["Weather"][:].sum(axis=1) == 1).all()
        assert len(file["Temperature"]) == len(file["WindSpeed"]) == len(file["date"]) == DAYS * SLOTS
        assert file.attrs["simulated"] == "true"
    assert (tmp_path / "BJ_Holiday.txt").read_text() == "20010101\n"
    assert (tmp_path / "README.txt").read_text().startswith("Simulated: an invented city")


def test_a_file_a_year(tmp_path: Path) -> None:
    days = 367
    weather = simulate_weather(days, SEED)
    counts = np.zeros((days * SLOTS, 2, 2, 2), dtype=np.float32)
    write(tmp_path, Record(counts, counts, weather, [], np.ones(days * SLOTS)), SEED)
    with h5py.File(tmp_path / "BJ02_M32x32_T30_InOut.h5") as file:
        assert len(file["data"]) == 2 * SLOTS
        assert file["date"][0] == b"2002010101"


def test_the_table_of_events_tells_kind_and_place_while_an_incident_lasts(record: Record, tmp_path: Path) -> None:
    write(tmp_path, record, SEED)
    (facts,) = context.read(tmp_path / "context")
    assert len(facts.words) == len(record.incidents)
    for start, end, (words,), found in zip(facts.start, facts.end, facts.words, record.incidents, strict=True):
        assert start == np.datetime64("2001-01-01", "ms") + found.start * np.timedelta64(30, "m")
        assert end - start == found.slots * np.timedelta64(30, "m")
        assert re.fullmatch(rf"incident: {found.kind} on the main street at x \d.*, y \d.*", words)


@pytest.mark.slow
def test_the_stages_fetch_and_ingest_it_with_what_was_known_at_each_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(traffic_days, "INCIDENTS_A_DAY", 1.0)
    windows = {"variables": ["inflow", "outflow"], "t_in": 4, "t_out": 4, "stride": 4, "shard_megabytes": 5}
    params = tiny_params(dataset="traffic_twin", fetch={"days": 30}, ingest=windows)
    fetch.main(params)
    ingest.main(params)
    store = Store(paths.STORE)
    assert len(store.times) == 30 * SLOTS
    assert store.context is not None
    (facts,) = context.read(paths.FETCH / "context")
    under_way = np.zeros(len(store.times), dtype=bool)
    for start, end, (words,) in zip(facts.start, facts.end, facts.words, strict=True):
        inside = (store.times >= start) & (store.times < end)
        assert all(words in line for line in store.context[inside])
        under_way |= inside
    assert not any("incident" in line for line in store.context[~under_way])
    assert all("weather: " in line and "temperature: " in line for line in store.context)
    assert "holiday" in store.context[0]
    assert "holiday" not in store.context[SLOTS]


def test_the_twin_takes_days_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record) -> None:
    asked = []

    def simulated(days: int, seed: int) -> Record:
        asked.append((days, seed))
        return record

    monkeypatch.setattr("pipeline.datasets.traffic_twin.simulate", simulated)
    for days in (None, 31):
        TrafficTwin(Fetch(days=days), Ingest(variables=("inflow",)), 3).fetch(tmp_path)
    assert asked == [(120, 3), (31, 3)]
    assert TrafficTwin.time_stamps == "local"


# ---- liveliness


def test_persistence_and_the_peak_of_a_wave_have_their_closed_forms() -> None:
    hours = np.arange(10 * SLOTS, dtype=np.float32)[:, None, None, None]
    day = np.sin(2 * np.pi * hours / SLOTS) * np.ones((1, 2, 2, 2), dtype=np.float32)
    assert persistence(day, SLOTS) == pytest.approx(0, abs=1e-4)
    assert persistence(day, SLOTS // 2) == pytest.approx(2)  # the wave's negative
    assert peak(day.mean(axis=(1, 2, 3)).astype(np.float64), SLOTS, SLOTS // 4) == pytest.approx(1, abs=0.03)
    assert np.isnan(persistence(day[:10], 10))


def test_the_historical_average_misses_what_changed_since() -> None:
    week = np.random.default_rng(0).uniform(0, 50, (WEEK, 2, 2, 2))
    counts = np.concatenate([week, week, week + 5]).astype(np.float32)
    errors = traffic_liveliness.historical_error(counts)
    np.testing.assert_allclose(errors, 5, rtol=1e-4)
    assert len(errors) == WEEK
    assert traffic_liveliness.of_largest(counts, errors) == pytest.approx(5 / counts.max(), rel=1e-4)


def test_what_an_incident_is_worth_equals_a_plain_enumeration() -> None:
    """One accident of 2 slots, 1 slot ahead: after its second slot it is over, which nobody but the third knows."""
    counts = np.random.default_rng(0).normal(100, 10, (2 * WEEK, 2, 2, 2))
    found = incident("accident", slots=2)
    size = 2 * np.sum((0.5 * found.change) ** 2)  # inflow and outflow, half of the traffic keeps away
    truth = [1.0, -0.4]  # one slot after the first and after the second
    by_kind = [1.0, 0.7 * -0.4 + 0.3 * 1.0]
    in_general = [1.0, 0.4 * by_kind[1] + 0.6 * 1.0]
    values = (2 * WEEK - 1) * 8
    worth = incident_worth(sample(counts, [found]), lead=1)
    assert worth.kind_known == pytest.approx(size * sum((np.array(by_kind) - truth) ** 2) / values)
    assert worth.unknown == pytest.approx(size * sum((np.array(in_general) - truth) ** 2) / values)
    assert worth.frames == pytest.approx(2 / (2 * WEEK))
    assert 0 < worth.kind_share < worth.end_share


def test_knowing_the_kind_never_costs_anything_on_average(record: Record) -> None:
    for lead in (1, 2, 4):
        worth = incident_worth(record.sample, lead)
        assert 0 < worth.kind_known < worth.unknown
    assert incident_worth(record.sample, lead=10).unknown == 0  # by then, each one is over


def test_a_short_record_is_measured_and_logged_but_not_judged(
    record: Record, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(traffic_liveliness.LIVELY, "scatter", (3.0, 4.0))
    with caplog.at_level(logging.INFO):
        check_liveliness(record.sample)
    assert re.search(
        r"scatter of the simulated city is 1\.(6|59), not judged on a record of fewer than 60 days", caplog.text
    )
    assert "persistence error at 30 min of the simulated city is 0." in caplog.text
    figures = measured(record.sample)
    for name in ("persistence error at 30 min", "persistence error at 2 h", "rhythm of a day"):
        low, high = traffic_liveliness.LIVELY[name]
        assert low <= figures[name] <= high


@pytest.mark.parametrize("kind", ["still", "noise"])
def test_a_dead_or_shapeless_city_is_refused_with_the_measured_and_the_allowed_values(kind: str) -> None:
    rng = np.random.default_rng(0)
    still = np.linspace(0, 1, 60 * SLOTS)[:, None, None, None] * rng.uniform(1, 2, (1, 2, 2, 2))
    counts = still if kind == "still" else rng.normal(0, 1, (60 * SLOTS, 2, 2, 2))
    with pytest.raises(
        UserError, match=r"persistence error at 30 min of the simulated city is .*; 0\.\d+ to 0\.\d+ is allowed"
    ):
        check_liveliness(sample(counts))
