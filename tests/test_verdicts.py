from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import paths, verdicts
from pipeline.results import Results
from tests.rewritten import changed, rewrite, row, with_int8


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    """A copy whose numbers a test may rewrite."""
    return Path(shutil.copytree(evaluated / paths.EVALUATE, tmp_path / "evaluate"))


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
    first, second = verdicts.sentences(Results(folder))
    assert first == (
        "U-Net, S2-KD against FitNet: not distinguishable, "
        "MSE difference \N{MINUS SIGN}0.00200 (95 % interval \N{MINUS SIGN}0.00300 to +0.00100)."
    )
    assert "no interval, under two blocks of 10 windows" in second


@pytest.mark.parametrize("verdict", ["better", "not distinguishable", "worse"])
def test_the_claim_says_better_only_where_the_verdict_does(folder: Path, verdict: str) -> None:
    changed(folder, "s2kd", "baseline", verdict=verdict)
    (claim,) = verdicts.claims(changed(folder, "s2kd", "fitnet", verdict="not distinguishable"))
    words = {"worse": "worse than the baseline", "better": "better than the baseline"}
    expected = words.get(verdict, "not distinguishable from the baseline and FitNet")
    assert claim.startswith(f"U-Net, S2-KD: {expected}")
    assert ("better" in claim) == (verdict == "better")


def test_the_verdicts_table_has_a_row_for_each_comparison_with_both_intervals(folder: Path) -> None:
    numbers = {"difference": -0.002, "low": -0.003, "high": -0.001, "corrected_low": -0.004, "corrected_high": 0.001}
    results = changed(folder, "s2kd", "fitnet", **numbers, verdict="not distinguishable")
    table, compared = verdicts.verdict_table(results)
    assert len(table.rows) == len(compared) == len(results.comparisons)
    cells = row(table, "U-Net, S2-KD against FitNet")
    assert cells["verdict"] == "not distinguishable"
    assert cells["95 % interval"] == "\N{MINUS SIGN}0.00300 to \N{MINUS SIGN}0.00100"
    assert cells["corrected interval"] == "\N{MINUS SIGN}0.00400 to +0.00100"
    assert [verdicts.of_methods(each) for each in compared] == [each.method in ("fitnet", "s2kd") for each in compared]


def test_controls_are_named_for_people_and_say_what_they_show(folder: Path) -> None:
    results = changed(folder, "s2kd", "fitnet", against="s2kd_vision")
    (sentence,) = [each for each in verdicts.control_sentences(results) if "S2-KD" in each]
    assert sentence.startswith("U-Net, S2-KD against S2-KD without text: ")
    assert sentence.endswith(": what the text adds to the loss.")


def test_what_8_bits_cost_is_a_sentence_with_its_interval_where_they_were_asked_for(folder: Path) -> None:
    assert verdicts.precision_sentence(Results(folder)) == ""
    assert verdicts.precision_sentence(with_int8(folder)) == (
        "U-Net S2-KD, seed 43, int8 against float32: worse, MSE difference +0.25000 "
        "(95 % interval +0.12500 to +0.37500); +50.00 % of float32's MSE."
    )
