from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import climatology, diagnostics, extremes, paths, rollout, spectra
from pipeline.batch import Batch
from pipeline.evaluation import Run, persistence, score_all
from pipeline.evaluation import climatology as mean_map
from pipeline.results import Results
from pipeline.store import Store
from pipeline.windows import WindowDataset
from pipeline.work import Work
from tests.helpers import make_store, moving_waves, record, tiny_params, write_store

SETTINGS = tiny_params(evaluate={"fss_cells": 3}).evaluate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shifted(batch: Batch) -> torch.Tensor:
    return batch.targets.roll(1, -1)


def written(store: Store, folder: Path) -> Path:
    """Tables of persistence, the mean map and two seeds of a student."""
    test = WindowDataset(store, "test")
    runs = {Run("persistence"): persistence, Run("climatology"): mean_map(store.description)}
    runs |= {Run("unet", "s2kd", seed): shifted for seed in (1, 2)}
    folder.mkdir()
    with Work("evaluate") as work:
        gauges = diagnostics.yardsticks(test, SETTINGS)
        scores = score_all(runs, test, 4, work, yardsticks=gauges)
        rolled = rollout.errors_of_all(runs, test, 2, 4, work)
        diagnostics.write(folder, scores, gauges, store.description, rolled)
    return folder


def test_training_frames_are_those_that_training_windows_read(folder: Path) -> None:
    store = make_store(folder / "store", step=2, stride=3)
    read = {f for w in store.windows.of("train") for f in store.windows.input_frames(w).tolist()}
    read |= {f for w in store.windows.of("train") for f in store.windows.target_frames(w).tolist()}
    assert diagnostics.training_frames(store).tolist() == sorted(read)


def test_nothing_from_beyond_the_training_split_enters_climatology_or_thresholds(folder: Path) -> None:
    store = make_store(folder / "store")
    test = WindowDataset(store, "test")
    frames = diagnostics.training_frames(store)
    spoilt = np.array(test.fields)
    spoilt[frames[-1] + 1 :] = -1e6
    np.testing.assert_array_equal(extremes.thresholds(spoilt, frames), extremes.thresholds(test.fields, frames))
    one, other = (climatology.fit(each, store.times, frames, "calendar").coefficients for each in (spoilt, test.fields))
    np.testing.assert_array_equal(one, other)


def test_the_tables_have_the_columns_that_were_agreed_and_a_row_for_each_key(folder: Path) -> None:
    tables = {
        path.stem: pd.read_csv(path) for path in written(make_store(folder / "store"), folder / "out").glob("*.csv")
    }
    assert {name: list(table.columns) for name, table in tables.items()} == {
        "field": ["model", "seed", "metric", "variable", "lead_hours", "value", "units"],
        "extremes": ["model", "seed", "variable", "tail", "quantile", "pod", "far", "csi", "sedi", "fss", "base_rate"],
        "spectra": ["model", "variable", "wavenumber", "wavelength_km", "power"],
        "sharpness": ["model", "seed", "variable", "log_spectral_distance", "effective_resolution", "units"],
        "rollout": ["model", "seed", "variable", "lead_hours", "rmse"],
    }
    metrics = 7 * 2 + 2  # and the sums over variables
    sizes = {
        "field": 4 * metrics * 2,
        "extremes": 4 * 2 * 6,
        "spectra": 4 * 2 * 8,
        "sharpness": 4 * 2,
        "rollout": 4 * 2 * 4,
    }
    assert {name: len(table) for name, table in tables.items()} == sizes
    assert set(tables["extremes"]["model"]) == {"persistence", "climatology", "unet s2kd"}
    assert tables["spectra"]["model"].drop_duplicates().tolist() == ["truth", "persistence", "climatology", "unet s2kd"]
    assert tables["rollout"]["lead_hours"].drop_duplicates().tolist() == [6, 12, 18, 24]


def test_sums_over_variables_are_called_all_and_units_go_with_the_metric(folder: Path) -> None:
    field = pd.read_csv(written(make_store(folder / "store"), folder / "out") / "field.csv")
    rows = field[(field.model == "persistence") & (field.lead_hours == 12)].set_index(["metric", "variable"])
    for metric in ("mse_openstl", "mae_openstl"):
        parts = rows.value[metric]
        assert parts["all"] == pytest.approx(parts["z500"] + parts["t850"])
        assert rows.units[metric, "all"] == "mixed"
    assert rows.units["rmse", "t850"] == "K"
    assert rows.units["mse_openstl", "t850"] == "(K)^2"
    assert rows.units["acc", "t850"] == "1"


def test_a_field_shifted_around_the_globe_keeps_its_spectrum_and_loses_its_skill(folder: Path) -> None:
    out = written(make_store(folder / "store"), folder / "out")
    sharpness = pd.read_csv(out / "sharpness.csv")
    rows = sharpness[sharpness.model == "unet s2kd"]
    assert rows.seed.tolist() == [1, 1, 2, 2]
    np.testing.assert_allclose(rows.log_spectral_distance, 0, atol=1e-5)
    np.testing.assert_allclose(rows.effective_resolution, 2 * np.pi * spectra.EARTH_RADIUS / 8)
    field = pd.read_csv(out / "field.csv")
    acc = field[(field.metric == "acc") & (field.model == "unet s2kd")].value
    assert (acc < 0.99).all()


def test_equal_inputs_give_equal_bytes(folder: Path) -> None:
    store = make_store(folder / "store")
    first, second = (written(store, folder / name) for name in ("a", "b"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_traffic_gets_errors_above_the_threshold_in_vehicles(folder: Path) -> None:
    generator = np.random.default_rng(0)
    values = {name: generator.poisson(12, (120, 8, 8)).astype(np.float32) for name in ("inflow", "outflow")}
    raw = record(values, hours=1, names=("time", "y", "x"), units=dict.fromkeys(values, "vehicles per slot"))
    raw = raw.assign_coords(y=np.arange(8.0), x=np.arange(8.0))
    store = write_store(folder / "store", raw, tiny_params(ingest={"variables": ["inflow", "outflow"]}), "local")
    out = written(store, folder / "out")
    field = pd.read_csv(out / "field.csv")
    field = field[(field.model == "persistence") & (field.lead_hours == 2)].set_index(["metric", "variable"])
    test = WindowDataset(store, "test")
    batch = test.__getitems__(list(range(len(test))))
    said, true = batch.inputs[:, -1, 0].numpy(), batch.targets[:, 1, 0].numpy()
    kept = true >= 10
    assert field.units["mape_above", "inflow"] == "%"
    expected = 100 * (np.abs(said - true)[kept] / true[kept]).mean()
    assert field.value["mape_above", "inflow"] == pytest.approx(expected, rel=1e-6)
    assert field.units["mae_above", "inflow"] == "vehicles per slot"
    assert field.units["mse_openstl", "all"] == "(vehicles per slot)^2"
    assert "wavelength_cells" in pd.read_csv(out / "spectra.csv").columns


def test_every_column_and_metric_has_its_legend_in_the_setup(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    legends = results.setup["legends"]
    assert {*diagnostics.EXTREMES[4:]} <= set(legends)
    assert {"power", "log_spectral_distance", "effective_resolution"} <= set(legends)
    assert "10 vehicles" in legends["mae_above"]
    field = pd.read_csv(evaluated / paths.EVALUATE / "field.csv")
    assert set(field["metric"]) <= set(results.setup["metrics"]) | set(legends)


def test_anomalies_are_from_the_day_and_hour_of_each_target(folder: Path) -> None:
    store = make_store(folder / "store")
    test = WindowDataset(store, "test")
    climate = diagnostics.yardsticks(test, SETTINGS).climate
    found = climate(test.__getitems__([0, 3]))
    fitted = climatology.fit(test.fields, store.times, diagnostics.training_frames(store), "calendar")
    frames = store.windows.target_frames(test.numbers[3])
    np.testing.assert_array_equal(found[1], fitted.at(store.times[frames]))


def test_extremes_are_told_apart_by_the_events_known_before_them(folder: Path) -> None:
    values = {"z500": moving_waves(120), "t850": moving_waves(120, seed=1)}
    raw = record(values, names=("time", "latitude", "longitude"))
    told = np.full(120, "weather: rain", dtype="<U40")
    told[108:110] = "weather: rain; incident: a closed bridge"
    store = write_store(folder / "store", raw.assign_coords(context=("time", told)), tiny_params())
    test = WindowDataset(store, "test")
    known = diagnostics.eventful(store)
    starts = store.windows.start
    assert np.flatnonzero(known).tolist() == np.flatnonzero((starts >= 107) & (starts <= 109)).tolist()
    out = written(store, folder / "out")
    events = pd.read_csv(out / "events.csv")
    assert events.events.drop_duplicates().tolist() == ["known", "none"]
    batch = test.__getitems__(np.flatnonzero(known[test.numbers]).tolist())
    tally = diagnostics.yardsticks(test, SETTINGS).tallies["extremes"]
    expected = extremes.scores(tally(persistence(batch), batch).numpy())["csi"]
    rows = events[(events.events == "known") & (events.model == "persistence")]
    np.testing.assert_allclose(rows.csi, expected.reshape(-1), rtol=1e-9)
    assert not (written(make_store(folder / "plain"), folder / "no events") / "events.csv").exists()
