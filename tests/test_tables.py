from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import paths, tables
from pipeline.errors import UserError
from pipeline.results import Results


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    """A copy whose numbers a test may rewrite."""
    return Path(shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate"))


def rewrite(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree))


def row(table: tables.Table, name: str) -> dict[str, str]:
    (found,) = [row for row in table.rows if row.name == name]
    return dict(zip(table.head[1:], found.cells, strict=True))


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
    assert row(tables.main_table(results), "U-Net S2-KD")["share of lead"] == "the teacher does not lead"
    assert "the teacher does not lead" in tables.sentences(results)[0]


def test_each_comparison_is_a_sentence_with_interval_and_verdict(folder: Path) -> None:
    comparison = {"student": "unet", "method": "s2kd", "against": "fitnet", "seeds": 3, "windows": 60}
    numbers = {
        "difference": -0.002,
        "low": -0.003,
        "high": 0.001,
        "verdict": "not distinguishable",
        "block_windows": 10,
    }
    rewrite(folder / "differences.json", [comparison | numbers, comparison | numbers | {"low": None, "high": None}])
    first, second = tables.sentences(Results(folder))
    assert first == (
        "U-Net, S2-KD against FitNet: not distinguishable, "
        "MSE difference \N{MINUS SIGN}0.00200 (95 % interval \N{MINUS SIGN}0.00300 to +0.00100)."
    )
    assert "no interval, under two blocks of 10 windows" in second


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


def changed(folder: Path, method: str, against: str, /, **numbers: object) -> Results:
    """The results with other numbers in one comparison."""
    differences = json.loads((folder / "differences.json").read_text())
    (found,) = [each for each in differences if (each["method"], each["against"]) == (method, against)]
    found |= numbers
    rewrite(folder / "differences.json", differences)
    return Results(folder)


@pytest.mark.parametrize("verdict", ["better", "not distinguishable", "worse"])
def test_the_claim_says_better_only_where_the_verdict_does(folder: Path, verdict: str) -> None:
    changed(folder, "s2kd", "baseline", verdict=verdict)
    (claim,) = tables.claims(changed(folder, "s2kd", "fitnet", verdict="not distinguishable"))
    words = {"worse": "worse than the baseline", "better": "better than the baseline"}
    expected = words.get(verdict, "not distinguishable from the baseline and FitNet")
    assert claim.startswith(f"U-Net, S2-KD: {expected}")
    assert ("better" in claim) == (verdict == "better")


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


def test_the_verdicts_table_has_a_row_for_each_comparison_with_both_intervals(folder: Path) -> None:
    numbers = {"difference": -0.002, "low": -0.003, "high": -0.001, "corrected_low": -0.004, "corrected_high": 0.001}
    results = changed(folder, "s2kd", "fitnet", **numbers, verdict="not distinguishable")
    table, compared = tables.verdict_table(results)
    assert len(table.rows) == len(compared) == len(results.comparisons)
    cells = row(table, "U-Net, S2-KD against FitNet")
    assert cells["verdict"] == "not distinguishable"
    assert cells["95 % interval"] == "\N{MINUS SIGN}0.00300 to \N{MINUS SIGN}0.00100"
    assert cells["corrected interval"] == "\N{MINUS SIGN}0.00400 to +0.00100"
    assert [tables.of_methods(each) for each in compared] == [each.method in ("fitnet", "s2kd") for each in compared]


def test_seeds_and_their_mean_agree_with_the_main_score(folder: Path) -> None:
    results = Results(folder)
    scores = tables.seed_scores(results)
    for method in ("baseline", "fitnet", "s2kd"):
        mean = sum(scores["unet", method, seed] for seed in (42, 43)) / 2
        assert mean == pytest.approx(results.metrics["unet"][method]["mse"])
    assert row(tables.seed_table(results), "U-Net S2-KD")["seed 43"] == f"{scores['unet', 's2kd', 43]:.5f}"


def test_controls_are_named_for_people_and_say_what_they_show(folder: Path) -> None:
    results = changed(folder, "s2kd", "fitnet", against="s2kd_vision")
    (sentence,) = [each for each in tables.control_sentences(results) if "S2-KD" in each]
    assert sentence.startswith("U-Net, S2-KD against S2-KD without text: ")
    assert sentence.endswith(": what the text adds to the loss.")
    assert tables.label(results, "vision teacher") == "vision teacher"
    assert tables.label(results, "unet s2kd_vision") == "U-Net S2-KD without text"


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
    (sentence,) = tables.sentences(results, domains=True)
    assert sentence.startswith("Unseen environments: U-Net, the teacher against the baseline: ")
    assert len(tables.sentences(results)) == len(results.comparisons) - 1


@pytest.mark.parametrize(
    ("step_hours", "text"), [(12, "12 h"), (0.5, "30 min"), (2 / 3600, "2 s"), (0.25 / 3600, "0.25 s")]
)
def test_times_are_told_in_a_unit_that_suits_the_step(folder: Path, step_hours: float, text: str) -> None:
    setup = json.loads((folder / "setup.json").read_text())
    rewrite(folder / "setup.json", setup | {"step_hours": step_hours})
    results = Results(folder)
    assert results.duration(step_hours) == text
    assert f", {text} apart." in tables.scope(results)
