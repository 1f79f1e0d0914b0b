from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import figures, paths, tables
from pipeline.results import Results


@pytest.fixture(scope="module")
def results(evaluated: Path) -> Results:
    return Results(evaluated / paths.EVALUATE)


def test_every_kind_of_figure_has_a_chart_for_each_student_and_variable(results: Results) -> None:
    assert len(figures.lead_charts(results)) == 2
    assert len(figures.rollout_charts(results)) == 2
    assert len(figures.spectrum_charts(results)) == 2
    assert len(figures.extreme_charts(results)) == 2 * 2  # both tails


def test_lines_are_means_over_seeds_with_teachers_and_references(results: Results) -> None:
    chart = figures.rollout_charts(results)[0]
    assert [line.name for line in chart.legend] == [
        "persistence",
        "climatology",
        "teacher",
        "vision teacher",
        "baseline",
        "FitNet",
        "S2-KD",
    ]
    variable = results.setup["variables"][0]["name"]
    assert results.rollout is not None
    rows = results.rollout[(results.rollout["model"] == "unet s2kd") & (results.rollout["variable"] == variable)]
    assert rows["seed"].nunique() == 2
    _, table = figures.rollout_tables(results)[0]
    (cells,) = [row.cells for row in table.rows if row.name == "U-Net S2-KD"]
    first = rows[rows["lead_hours"] == rows["lead_hours"].min()]["rmse"].mean()
    assert float(cells[0]) == pytest.approx(first, rel=1e-3)


def test_the_roll_out_marks_where_training_ended(results: Results) -> None:
    chart = figures.rollout_charts(results)[0]
    (line, *_) = chart.lines
    assert results.rollout is not None
    leads = sorted(results.rollout["lead_hours"].unique())
    trained = results.setup["t_out"] * results.setup["step_hours"]
    assert chart.mark == pytest.approx(line.points[leads.index(trained)][0])


def test_spectra_show_the_truth_first_on_logarithmic_axes(results: Results) -> None:
    chart = figures.spectrum_charts(results)[0]
    assert chart.lines[0].style == "truth"
    assert chart.x_label == "wavenumber"
    table = figures.sharpness_table(results)
    assert table is not None
    assert "U-Net S2-KD" in {row.name for row in table.rows}
    assert all(len(row.cells) == 2 * 2 for row in table.rows)


def test_extremes_have_a_table_for_each_variable_tail_and_quantile(results: Results) -> None:
    found = figures.extreme_tables(results)
    assert len(found) == 2 * 2 * 3
    captions = [caption for caption, _ in found]
    assert any("above the 99 % quantile" in caption for caption in captions)
    assert any("below the 1 % quantile" in caption for caption in captions)
    assert {table.head for _, table in found} == {("", "POD", "FAR", "CSI", "SEDI", "FSS")}


def test_the_fields_metrics_leave_out_what_other_figures_show(results: Results) -> None:
    titles = [chart.title for chart in figures.field_charts(results)]
    assert any(title.startswith("ACC, ") for title in titles)
    assert not any(title.startswith(("RMSE", "MSE", "MAE,", "SSIM")) for title in titles)
    captions = [caption for caption, _ in figures.field_tables(results)]
    assert any("MSE (OpenSTL), all variables" in caption for caption in captions)


def test_an_older_evaluation_has_no_such_figures(evaluated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate"))
    for name in ("field", "extremes", "spectra", "sharpness", "rollout"):
        (folder / f"{name}.csv").unlink()
    older = Results(folder)
    drawn = (figures.field_charts, figures.extreme_charts, figures.spectrum_charts, figures.rollout_charts)
    assert [draw(older) for draw in drawn] == [[], [], [], []]
    assert [figures.field_tables(older), figures.extreme_tables(older), figures.rollout_tables(older)] == [[], [], []]
    assert figures.sharpness_table(older) is None


def test_roll_outs_that_were_not_asked_for_leave_no_figure(evaluated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate"))
    head, _, _ = (folder / "rollout.csv").read_text().partition("\n")
    (folder / "rollout.csv").write_text(head + "\n")  # what `evaluate.rollout: 0` writes
    results = Results(folder)
    assert results.rollout is None
    assert [figures.rollout_charts(results), figures.rollout_tables(results)] == [[], []]


def test_undefined_scores_are_a_dash_and_large_ones_have_all_digits(results: Results) -> None:
    results = Results(results.folder)
    assert results.sharpness is not None
    results.sharpness = results.sharpness.assign(effective_resolution=1234.5, log_spectral_distance=float("nan"))
    table = figures.sharpness_table(results)
    assert table is not None
    assert table.rows[0].cells[:2] == (tables.ABSENT, "1,234")


def test_every_method_has_a_style_and_controls_look_like_what_they_control() -> None:
    assert figures.style("s2kd_vision", []) == f"{figures.style('s2kd', [])} dashed"
    assert figures.style("vision teacher", []) == f"{figures.style('teacher', [])} dashed"
    own = ["mine", "yours"]
    assert [figures.style(method, own) for method in own] == ["m1", "m2"]


def test_a_forecaster_that_a_file_does_not_tell_of_has_no_line(results: Results) -> None:
    results = Results(results.folder)
    assert results.rollout is not None
    results.rollout = pd.DataFrame(results.rollout[results.rollout["model"] != "teacher"])
    names = [line.name for line in figures.rollout_charts(results)[0].legend]
    assert "teacher" not in names
    assert "vision teacher" in names
