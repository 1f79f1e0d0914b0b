from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import paths
from pipeline.errors import UserError
from pipeline.results import Results
from pipeline.store import Store
from pipeline.students import base as students
from stages import evaluate
from tests.trained import make_trained, trained_params


def results_of(root: Path) -> Results:
    return Results(root / paths.EVALUATE)


def test_it_writes_all_that_it_promises_and_leaves_no_parts_behind(evaluated: Path) -> None:
    names = {path.name for path in (evaluated / paths.EVALUATE).iterdir()}
    assert names == {
        "metrics.json",
        "differences.json",
        "cost.json",
        "setup.json",
        "scores.parquet",
        "rmse_by_lead.csv",
        "mse_by_lead.csv",
        "training.csv",
        "examples.npz",
        "examples.json",
        "captions.json",
        "field.csv",
        "extremes.csv",
        "spectra.csv",
        "sharpness.csv",
        "rollout.csv",
        "climatology.npz",
    }
    assert not list((evaluated / ".work" / "evaluate").glob("*/"))


def test_every_forecaster_is_scored_on_every_test_window_and_on_no_other(evaluated: Path) -> None:
    table = pd.read_parquet(evaluated / paths.EVALUATE / "scores.parquet")
    expected = Store(evaluated / paths.STORE).windows.of("test").tolist()
    runs = table.groupby(["model", "method", "seed"], dropna=False, observed=True)
    assert len(runs) == 4 + 3 * 2
    for _, rows in runs:
        assert sorted(rows.window.unique()) == expected


def test_a_students_mse_is_that_of_its_forecasts(evaluated: Path) -> None:
    store = Store(evaluated / paths.STORE)
    student = students.load(evaluated / paths.distilled("unet", "s2kd") / "seed-43")
    std = store.description.statistics.std[:, None, None]
    errors = []
    for window in store.windows.of("test"):
        inputs, targets = (
            np.concatenate([store.frames(frame, frame + 1) for frame in frames])
            for frames in (store.windows.input_frames(window), store.windows.target_frames(window))
        )
        with torch.no_grad():
            forecast = student(torch.from_numpy(inputs[None])).forecast[0].numpy()
        errors.append((((forecast - targets) / std) ** 2).mean())
    table = pd.read_parquet(evaluated / paths.EVALUATE / "scores.parquet")
    rows = table[(table.method == "s2kd") & (table.seed == 43) & (table.metric == "mse")]
    assert rows.value.mean() == pytest.approx(np.mean(errors), rel=1e-4)


def test_metrics_are_nested_by_student_and_method(evaluated: Path) -> None:
    tree = json.loads((evaluated / paths.EVALUATE / "metrics.json").read_text())
    assert list(tree) == ["persistence", "climatology", "teacher", "vision teacher", "unet"]
    assert list(tree["unet"]) == ["baseline", "fitnet", "s2kd"]
    assert {"mse", "mse_sd", "mae", "ssim"} <= set(tree["unet"]["s2kd"])


def test_plot_data_has_a_row_for_each_lead_time_variable_and_model(evaluated: Path) -> None:
    rmse = results_of(evaluated).rmse
    assert list(rmse.columns[:4]) == ["lead_hours", "model", "variable", "rmse"]
    assert len(rmse) == 2 * 2 * 7
    assert sorted(rmse["lead_hours"].unique()) == [6, 12]


@pytest.mark.parametrize(
    ("template", "data", "columns"),
    [("by_model", "rmse_by_lead.csv", {"variable", "model"}), ("by_run", "training.csv", {"run"})],
)
def test_dvcs_plot_templates_name_columns_that_are_there(
    evaluated: Path, template: str, data: str, columns: set[str]
) -> None:
    text = (Path(__file__).parents[2] / ".dvc" / "plots" / f"{template}.json").read_text()
    named = set(re.findall(r'"field": "(\w+)"', text)) - {"rev"}  # DVC adds the revision
    assert named == columns
    assert columns <= set(pd.read_csv(evaluated / paths.EVALUATE / data).columns)


def test_curves_hold_the_epochs_of_the_teachers_and_of_every_seed(evaluated: Path) -> None:
    training = results_of(evaluated).training
    assert training["run"].nunique() == 2 + 3 * 2
    assert training[training["method"] == "baseline"]["train_semantic"].isna().all()
    assert training[training["method"] == "s2kd"]["train_semantic"].notna().all()


def test_examples_carry_the_fields_and_the_captions_of_their_windows(evaluated: Path) -> None:
    results = results_of(evaluated)
    store = Store(evaluated / paths.STORE)
    assert len(results.examples) == 3
    for position, row in enumerate(results.examples):
        assert row["caption"] == f"A ridge & <script>alert('{row['window']}')</script>"
        frame = store.windows.target_frames(row["window"])[1]
        np.testing.assert_array_equal(results.fields["truth"][position, 1], store.frames(frame, frame + 1)[0])
    assert {"teacher", "unet baseline", "unet s2kd", "persistence"} <= set(results.fields)


def test_costs_are_those_of_the_models(evaluated: Path) -> None:
    costs = results_of(evaluated).costs
    student = students.load(evaluated / paths.distilled("unet", "s2kd") / "seed-42")
    assert set(costs) == {"teacher", "vision teacher", "unet"}
    assert costs["unet"].parameters == sum(parameter.numel() for parameter in student.parameters())
    assert costs["unet"].multiply_accumulates > costs["unet"].parameters
    assert costs["unet"].latency_ms > 0


def test_a_second_run_gives_the_same_bytes_but_for_the_latency(evaluated: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        params = trained_params()
        make_trained(params, caption="A ridge & <script>alert('{window}')</script>")
        evaluate.main(params)
    for path in (evaluated / paths.EVALUATE).iterdir():
        if path.name != "cost.json":
            assert path.read_bytes() == (tmp_path / paths.EVALUATE / path.name).read_bytes(), path.name


def test_a_missing_student_is_named(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluated)
    with pytest.raises(UserError, match="unet-baseline/seed-44"):
        evaluate.main(trained_params(seeds=[42, 43, 44]))


def test_memory_that_runs_out_names_the_batch_to_make_smaller_and_loses_nothing(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.chdir(shutil.copytree(evaluated, tmp_path / "copy"))
    before = (paths.EVALUATE / "metrics.json").read_bytes()
    monkeypatch.setattr(evaluate, "score_all", too_large)
    with pytest.raises(UserError, match=r"test windows: out of memory .* Lower evaluate.batch_size = \d+. Models that"):
        evaluate.main(trained_params())
    assert (paths.EVALUATE / "metrics.json").read_bytes() == before
