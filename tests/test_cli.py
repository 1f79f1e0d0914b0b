from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import cli, paths


def test_table_prints_the_main_table_the_verdicts_and_where_the_report_is(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated / paths.EVALUATE, paths.EVALUATE)
    paths.REPORT.mkdir()
    (paths.REPORT / "index.html").touch()
    cli.main(["table"])
    printed = capsys.readouterr().out
    assert "U-Net S2-KD" in printed
    assert "S2-KD against FitNet" in printed
    assert printed.splitlines()[-1] == "Report: data/report/index.html"


def test_without_results_table_says_so_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        cli.main(["table"])
    assert error.value.code == 1
    assert capsys.readouterr().err.startswith("s2kd: error: data/evaluate/metrics.json is missing")


def test_apply_merges_an_overlay_and_says_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[1] / "params.yaml", "params.yaml")
    Path("mine.yaml").write_text("beta: 0.25\n")
    cli.main(["apply", "mine.yaml"])
    assert capsys.readouterr().out.splitlines() == ["beta: 0.25", "params.yaml: 1 changed by mine.yaml"]
    assert "beta: 0.25 " in Path("params.yaml").read_text()


def test_an_unknown_key_in_an_overlay_ends_with_a_sentence_and_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = (Path(__file__).parents[1] / "params.yaml").read_bytes()
    Path("params.yaml").write_bytes(own)
    Path("mine.yaml").write_text("betta: 0.25\n")
    with pytest.raises(SystemExit) as error:
        cli.main(["apply", "mine.yaml"])
    assert error.value.code == 1
    assert "unknown key 'betta'" in capsys.readouterr().err
    assert Path("params.yaml").read_bytes() == own
