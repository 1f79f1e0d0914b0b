from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import paths, tables, verdicts
from pipeline.errors import UserError
from pipeline.results import Results
from tests.rewritten import changed, rewrite, row, with_int8


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    """A copy whose numbers a test may rewrite."""
    return Path(shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate"))


def test_the_main_table_has_teacher_students_and_references_in_order(folder: Path) -> None:
    table = tables.main_table(Results(folder))
    names = ["teacher", "vision teacher", "U-Net baseline", "U-Net FitNet", "U-Net S2-KD", "persistence", "climatology"]
    assert [row.name for row in table.rows] == names
    assert table.head[1:] == ("MSE", "MAE", "SSIM", "parameters", "operations", "latency, ms", "share of lead")


def test_cells_show_mean_and_deviation_over_seeds_and_the_share_in_per_cent(folder: Path) -> None:
    leaf = {"mse": 0.5, "mse_sd": 0.1, "mae": 0.25, "mae_sd": 0.02, "ssim": 0.75, "ssim_sd": 0.001}
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["unet"]["s2kd"] = leaf | {"share_of_lead": 0.364, "share_of_lead_sd": 0.05}
    rewrite(folder / "metrics.json", metrics)
    cells = row(tables.main_table(Results(folder)), "U-Net S2-KD")
    assert cells["MSE"] == "0.5000 ± 0.1000"
    assert cells["SSIM"] == "0.7500 ± 0.0010"
    assert cells["share of lead"] == "36 ± 5 %"


def test_a_teacher_that_does_not_lead_is_said_not_to(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    for method in ("fitnet", "s2kd"):
        metrics["unet"][method] = {key: value for key, value in metrics["unet"][method].items() if "share" not in key}
    rewrite(folder / "metrics.json", metrics)
    differences = json.loads((folder / "differences.json").read_text())
    differences[0] |= {"difference": 0.1, "low": 0.05, "high": 0.2, "verdict": "worse"}
    rewrite(folder / "differences.json", differences)
    results = Results(folder)
    assert row(tables.main_table(results), "U-Net S2-KD")["share of lead"] == "no lead"
    assert "the teacher does not lead" in verdicts.sentences(results)[0]


def test_text_columns_line_up_and_markdown_is_a_table(folder: Path) -> None:
    table = tables.main_table(Results(folder))
    assert len({len(line) for line in tables.as_text(table).splitlines()}) == 1
    lines = tables.as_markdown(table).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(table.rows)


def test_the_scope_says_how_many_windows_and_seeds(folder: Path) -> None:
    results = Results(folder)
    windows = results.setup["windows"]["test"]
    assert f"{windows} test windows" in tables.scope(results)
    assert "2 seeds (42, 43)" in tables.scope(results)


def test_missing_results_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json is missing; `dvc repro evaluate` makes it"):
        Results(tmp_path)


@pytest.mark.parametrize(("verdict", "bold"), [("better", {0}), ("not distinguishable", set()), ("worse", set())])
def test_bold_is_an_mse_whose_interval_excludes_zero_on_the_good_side(
    folder: Path, verdict: str, bold: set[int]
) -> None:
    results = changed(folder, "s2kd", "baseline", verdict=verdict)
    for table, first in ((tables.main_table(results), 0), (tables.paper_table(results), 3)):
        found = {row.name + row.cells[0]: row.bold for row in table.rows}
        name = "U-NetS2-KD" if first else next(key for key in found if key.startswith("U-Net S2-KD"))
        assert found[name] == {first + number for number in bold}
    mse = tables.main_table(results).rows[4].cells[0]
    assert (f"**{mse}**" in tables.as_markdown(tables.main_table(results))) == bool(bold)


def test_forecasters_have_names_for_people(folder: Path) -> None:
    results = Results(folder)
    assert tables.label(results, "vision teacher") == "vision teacher"
    assert tables.label(results, "unet s2kd_vision") == "U-Net S2-KD without text"


def test_seeds_and_their_mean_agree_with_the_main_score(folder: Path) -> None:
    results = Results(folder)
    scores = tables.seed_scores(results)
    for method in ("baseline", "fitnet", "s2kd"):
        mean = sum(scores["unet", method, seed] for seed in (42, 43)) / 2
        assert mean == pytest.approx(results.metrics["unet"][method]["mse"])
    assert row(tables.seed_table(results), "U-Net S2-KD")["seed 43"] == f"{scores['unet', 's2kd', 43]:.5f}"


def test_a_student_in_8_bits_stands_below_its_method_beside_the_same_seed_in_float32(folder: Path) -> None:
    plain = tables.main_table(Results(folder))
    results = with_int8(folder)
    table = tables.main_table(results)
    place = [row.name for row in plain.rows].index("U-Net S2-KD") + 1
    added = ["U-Net S2-KD, float32, seed 43", "U-Net S2-KD, int8, seed 43"]
    assert [row.name for row in table.rows[place : place + 2]] == added
    assert (*table.rows[:place], *table.rows[place + 2 :]) == plain.rows
    assert [row(table, name)["MSE"] for name in added] == ["0.5000", "0.7500"]
    changed(folder, "s2kd", "baseline", verdict="better")
    bold = [row.name for row in tables.main_table(Results(folder)).rows if row.bold]
    assert bold == ["U-Net S2-KD"], "one seed has not been held against the baseline"
    assert [row.cells[0] for row in tables.paper_table(results).rows if row.name == "U-Net"] == [
        *("baseline", "FitNet", "S2-KD", "S2-KD, float32, seed 43", "S2-KD, int8, seed 43")
    ]
    others = tables.other_scores(results)
    assert others is not None
    assert row(others, added[1]) == row(others, added[0])


def test_the_ablation_is_there_where_a_term_was_tried_alone(folder: Path) -> None:
    assert tables.ablation_table(Results(folder), "unet") is None
    setup = json.loads((folder / "setup.json").read_text())
    setup["runs"] = [run | ({"method": "semantic"} if run["method"] == "fitnet" else {}) for run in setup["runs"]]
    rewrite(folder / "setup.json", setup)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["unet"]["semantic"] = metrics["unet"].pop("fitnet")
    rewrite(folder / "metrics.json", metrics)
    table = tables.ablation_table(Results(folder), "unet")
    assert table is not None
    assert [each.name for each in table.rows] == ["baseline", "semantic term alone", "S2-KD"]
    assert [each.cells[:3] for each in table.rows] == [
        ("yes", "\N{EN DASH}", "\N{EN DASH}"),
        ("yes", "\N{EN DASH}", "yes"),
        ("yes", "yes", "yes"),
    ]


def with_domains(folder: Path) -> Results:
    """The results as if the test split had seen and unseen environments."""
    setup = json.loads((folder / "setup.json").read_text())
    setup["domains"] = {"seen": 12, "unseen": 5}
    names = {"calm": True, "windy": True, "storm": False}
    setup["environments"] = [{"name": n, "seen": seen, "parameters": {"wind": 3.0}} for n, seen in names.items()]
    rewrite(folder / "setup.json", setup)
    metrics = json.loads((folder / "metrics.json").read_text())
    leaves = [metrics[name] for name in ("teacher", "vision teacher", "persistence", "climatology")] + list(
        metrics["unet"].values()
    )
    for number, leaf in enumerate(leaves):
        for key in ("mse", "mae", "ssim"):
            leaf |= {f"{key}_seen": 0.25 + number, f"{key}_unseen": 2 * (0.25 + number)}
    rewrite(folder / "metrics.json", metrics)
    differences = json.loads((folder / "differences.json").read_text())
    rewrite(folder / "differences.json", [*differences, differences[0] | {"domain": "unseen", "simulations": 4}])
    return Results(folder)


def test_seen_and_unseen_environments_have_a_table_of_their_own(folder: Path) -> None:
    assert tables.domain_table(Results(folder)) is None
    results = with_domains(folder)
    table = tables.domain_table(results)
    assert table is not None
    names = ["teacher", "vision teacher", "U-Net baseline", "U-Net FitNet", "U-Net S2-KD", "persistence", "climatology"]
    assert [row.name for row in table.rows] == names
    assert row(table, "teacher")["MSE, seen"] == "0.2500"
    assert row(table, "teacher")["MSE, unseen"] == "0.5000"
    assert row(table, "teacher")["MSE, unseen / seen"] == "2.00"
    assert tables.domain_scope(results) == (
        "12 test windows of 2 seen environments (calm, windy) and 5 test windows of 1 unseen environments (storm). "
        "Training and validation hold simulations of seen environments alone."
    )
    (sentence,) = verdicts.sentences(results, domains=True)
    assert sentence.startswith("Unseen environments: U-Net, the teacher against the baseline: ")
    assert len(verdicts.sentences(results)) == len(results.comparisons) - 1


@pytest.mark.parametrize(
    ("step_hours", "text"), [(12, "12 h"), (0.5, "30 min"), (2 / 3600, "2 s"), (0.25 / 3600, "0.25 s")]
)
def test_times_are_told_in_a_unit_that_suits_the_step(folder: Path, step_hours: float, text: str) -> None:
    setup = json.loads((folder / "setup.json").read_text())
    rewrite(folder / "setup.json", setup | {"step_hours": step_hours})
    results = Results(folder)
    assert results.duration(step_hours) == text
    assert f", {text} apart." in tables.scope(results)
