from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import paths
from stages import report
from tests.trained import trained_params


def test_it_writes_page_tables_and_a_map_for_each_example_and_variable(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated / paths.EVALUATE, paths.EVALUATE)
    for _ in range(2):  # the second run replaces the first one's output
        report.main(trained_params(report={"title": "Mine & yours"}))
    assert {path.name for path in paths.REPORT.iterdir()} == {"index.html", "tables.md", "tables.tex", "maps"}
    assert "<title>Mine &amp; yours</title>" in (paths.REPORT / "index.html").read_text()
    assert len(list((paths.REPORT / "maps").glob("window-*-*.png"))) == 3 * 2
    assert [path.name for path in paths.DATA.iterdir() if path.name.startswith(".")] == []
