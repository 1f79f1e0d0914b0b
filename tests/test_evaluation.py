from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline import diagnostics, evaluation
from pipeline.batch import Batch
from pipeline.datasets.base import mark
from pipeline.errors import UserError
from pipeline.evaluation import Run, Scores, simulations
from pipeline.windows import WindowDataset, loader
from pipeline.work import Work
from tests.fields import MEAN, STD, describe, fields
from tests.helpers import make_store, moving_waves, record, tiny_params, write_store

LEADS = np.array([6.0, 12.0])
YARDSTICKS = evaluation.Yardsticks.plain(describe())
METRICS = YARDSTICKS.metrics


def batches(sizes: list[int], seed: int = 0) -> list[Batch]:
    inputs, targets = fields(seed, sum(sizes)), fields(seed + 1, sum(sizes))
    numbers = torch.arange(100, 100 + sum(sizes))
    parts = zip(numbers.split(sizes), inputs.split(sizes), targets.split(sizes), strict=True)
    return [Batch(*part) for part in parts]


def made_scores(values: dict[Run, np.ndarray]) -> Scores:
    windows = len(next(iter(values.values()))[0])
    return Scores(METRICS, np.arange(windows) + 100, LEADS, ("height", "temperature"), values)


def random_values(seed: int, windows: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1, (len(METRICS), windows, 2, 2))


def scored(run: Run, forecast: evaluation.Forecast, parts: Iterable[Batch], windows: int, total: int = 1) -> np.ndarray:
    values = np.full((len(METRICS), windows, 2, 2), np.nan)
    evaluation.score(run, forecast, parts, total, YARDSTICKS, values)
    return values


def test_persistence_repeats_the_last_input_frame() -> None:
    batch = batches([3])[0]
    forecast = evaluation.persistence(batch)
    assert forecast.shape == batch.targets.shape
    for lead in range(2):
        assert torch.equal(forecast[:, lead], batch.inputs[:, -1])


def test_climatology_is_the_training_mean_map_at_every_lead_time() -> None:
    batch = batches([3])[0]
    forecast = evaluation.climatology(describe())(batch)
    assert forecast.shape == batch.targets.shape
    assert torch.equal(forecast, torch.tensor(MEAN)[:, None, None].expand_as(batch.targets))


def test_the_scores_of_a_split_do_not_depend_on_how_it_is_batched() -> None:
    whole = scored(Run("p"), evaluation.persistence, batches([7]), 7)
    parts = scored(Run("p"), evaluation.persistence, batches([3, 3, 1]), 7, 3)
    assert whole.shape == (len(METRICS), 7, 2, 2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_a_forecast_off_by_one_deviation_scores_one_in_mse_and_the_deviation_in_rmse() -> None:
    step = torch.tensor(STD)[:, None, None]
    values = scored(Run("m"), lambda batch: batch.targets + step, batches([4]), 4)
    scores = made_scores({Run("m"): values})
    assert scores.score(Run("m"), "mse") == pytest.approx(1, rel=1e-4)
    assert scores.score(Run("m"), "mae") == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scores.by_lead(Run("m"), "rmse"), [STD, STD], rtol=1e-4)


def test_no_batch_outlives_its_scoring() -> None:
    seen: list[weakref.ref[Tensor]] = []

    def stream() -> Iterator[Batch]:
        for number in range(4):
            gc.collect()
            assert sum(reference() is not None for reference in seen) <= 1
            batch = batches([2], seed=number)[0]
            seen.append(weakref.ref(batch.targets))
            yield batch
            del batch

    scored(Run("p"), evaluation.persistence, stream(), 8, 4)
    assert len(seen) == 4


def test_a_forecast_that_is_not_finite_stops_with_the_run_and_the_window() -> None:
    def broken(batch: Batch) -> Tensor:
        forecast = batch.targets.clone()
        forecast[batch.windows == 103, 0, 0, 0, 0] = torch.nan
        return forecast

    with pytest.raises(UserError, match=r"unet s2kd seed 43 .* window 103"):
        scored(Run("unet", "s2kd", 43), broken, batches([2, 3]), 5, 2)


def test_the_parquet_table_holds_every_value_once(tmp_path: Path) -> None:
    runs = {Run("persistence"): random_values(0), Run("unet", "s2kd", 42): random_values(1)}
    evaluation.write_scores(made_scores(runs), tmp_path / "scores.parquet")
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(table) == 2 * random_values(0).size
    one = table[(table.model == "unet") & (table.method == "s2kd") & (table.seed == 42) & (table.metric == "mae")]
    one = one[(one.window == 103) & (one.lead_hours == 12) & (one.variable == "temperature")]
    assert one.value.tolist() == [runs[Run("unet", "s2kd", 42)][list(METRICS).index("mae"), 3, 1, 1]]
    assert table[table.model == "persistence"][["method", "seed"]].isna().all(axis=None)


def test_equal_scores_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluation.write_scores(made_scores({Run("m"): random_values(0)}), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_by_lead_average_the_finished_metric_over_seeds() -> None:
    runs = {Run("unet", "s2kd", seed): random_values(seed) for seed in (1, 2, 3)}
    rows = pd.DataFrame(evaluation.rows_by_lead(made_scores(runs), "rmse"))
    assert len(rows) == 2 * 2
    row = rows[(rows.lead_hours == 12) & (rows.variable == "height")].iloc[0]
    index = list(METRICS).index("rmse")
    roots = [np.sqrt(values[index, :, 1, 0].mean()) for values in runs.values()]
    assert row.model == "unet s2kd"
    assert row.rmse == pytest.approx(np.mean(roots))
    assert row.sd_over_seeds == pytest.approx(np.std(roots, ddof=1))


def test_examples_are_spread_over_the_split_and_never_more_than_there_are() -> None:
    assert evaluation.example_positions(9, 3) == [1, 4, 7]
    assert evaluation.example_positions(2, 5) == [0, 1]


def test_only_test_windows_are_scored_and_a_killed_run_takes_up_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_store(tmp_path / "store.zarr")
    test = WindowDataset(store, "test")
    calls: list[list[int]] = []

    def counted(batch: Batch) -> Tensor:
        calls.append(batch.windows.tolist())
        return evaluation.persistence(batch)

    def broken(batch: Batch) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Work("evaluate") as work:
        evaluation.score_all({Run("a"): counted, Run("b"): broken}, test, 4, work)
    first = [number for windows in calls for number in windows]
    assert first == store.windows.of("test").tolist()
    with Work("evaluate") as work:
        scores = evaluation.score_all({Run("a"): counted, Run("b"): evaluation.persistence}, test, 4, work)
    assert [number for windows in calls for number in windows] == first  # not scored again
    np.testing.assert_array_equal(scores.values[Run("a")], scores.values[Run("b")])
    np.testing.assert_array_equal(scores.windows, store.windows.of("test"))
    assert scores.lead_hours.tolist() == [6, 12]


def test_examples_hold_the_fields_of_the_first_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batch = next(iter(loader(WindowDataset(make_store(tmp_path / "store.zarr"), "test"), 2)))
    forecasters: dict[Run, evaluation.Forecast] = {
        Run("unet", "s2kd", 1): lambda batch: batch.targets + 1,
        Run("unet", "s2kd", 2): lambda batch: batch.targets + 2,
        Run("persistence"): evaluation.persistence,
    }
    fields_of = evaluation.examples(forecasters, batch)
    assert list(fields_of) == ["last_input", "truth", "unet s2kd", "persistence"]
    np.testing.assert_array_equal(fields_of["unet s2kd"], batch.targets.numpy() + 1)
    np.testing.assert_array_equal(fields_of["last_input"], batch.inputs[:, -1].numpy())


def test_windows_of_seen_and_unseen_environments_are_told_apart(tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(6), 12)
    names = np.array(["calm", "calm", "storm", "calm", "calm", "storm"])[numbers]
    raw = record({"z500": moving_waves(72), "t850": moving_waves(72, seed=1)}, names=("time", "latitude", "longitude"))
    marked = mark(raw, segment=numbers, environment=names, environments={"calm": {}, "storm": {}})
    changes = {"stride": 2, "splits": {"train": 0.5, "validation": 0.25, "test": 0.25}}
    store = write_store(
        tmp_path / "store", marked, tiny_params(ingest=changes | {"environments": {"unseen": ["storm"]}})
    )
    test = store.windows.of("test")
    simulation, domains = simulations(store, test)
    assert simulation is not None
    starts = store.windows.start[test]
    assert simulation.tolist() == (starts // 12).tolist()
    assert domains["unseen"].tolist() == (names[starts] == "storm").tolist()
    assert (domains["seen"] == ~domains["unseen"]).all()
    train = store.windows.of("train")
    assert simulations(store, train)[1] == {}  # of one kind alone
    assert simulations(make_store(tmp_path / "plain"), np.arange(3)) == (None, {})


def test_tallies_add_up_over_batches_and_metrics_of_anomalies_get_fields_less_the_climate() -> None:
    shift = torch.arange(2.0)[:, None, None]
    yardsticks = evaluation.Yardsticks(
        {"acc": METRICS["acc"]},
        lambda batch: batch.targets - 1 - shift,
        {"count": lambda forecast, batch: (forecast - batch.targets).sum((0, 1, 3, 4), dtype=torch.float64)},
    )
    values = np.empty((1, 7, 2, 2))
    sums = evaluation.score(Run("m"), lambda b: b.targets + 1, batches([3, 4]), 2, yardsticks, values)
    np.testing.assert_allclose(sums["count"], 7 * 2 * 16 * 32, rtol=1e-3)
    np.testing.assert_allclose(values, 1, rtol=1e-3)  # anomalies of one sign everywhere


def test_what_sums_variables_is_their_sum_and_what_does_not_their_mean() -> None:
    values = random_values(0)
    scores = made_scores({Run("m"): values})
    index = list(METRICS).index
    assert scores.score(Run("m"), "mse") == pytest.approx(values[index("mse")].mean())
    assert scores.score(Run("m"), "mse_openstl") == pytest.approx(values[index("mse_openstl")].mean((0, 1)).sum())


def test_memory_does_not_grow_with_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tiny_params(evaluate={"fss_cells": 3}).evaluate
    peaks = []
    for frames in (400, 1600):
        store = make_store(tmp_path / f"store-{frames}", frames, splits={"train": 0.1, "validation": 0.1, "test": 0.8})
        test = WindowDataset(store, "test")
        with Work(f"evaluate-{frames}") as work:
            gauges = diagnostics.yardsticks(test, settings)
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            scores = evaluation.score_all({Run("p"): evaluation.persistence}, test, 8, work, yardsticks=gauges)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.stop()
        assert len(scores.windows) > 0.7 * frames
    assert peaks[1] < 1.1 * peaks[0] + 8 * 1600  # a number for each window


def test_a_table_in_several_row_groups_holds_every_value_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_values(0)
    evaluation.write_scores(made_scores({Run("m"): values}), tmp_path / "whole")
    monkeypatch.setattr(evaluation, "WINDOWS_AT_ONCE", 2)
    evaluation.write_scores(made_scores({Run("m"): values}), tmp_path / "parts")
    keys = ["metric", "window", "lead_hours", "variable"]
    whole, parts = (
        pd.read_parquet(tmp_path / name).astype({"metric": str, "variable": str}) for name in ("whole", "parts")
    )
    whole, parts = (table.sort_values(keys).reset_index(drop=True) for table in (whole, parts))
    pd.testing.assert_frame_equal(whole, parts)
