"""The stage `check` as DVC runs it: from the command line, in a folder with a params.yaml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import UserError
from stages import check
from tests.helpers import tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_check() -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "stages.check"], env=environment, capture_output=True, text=True)


def test_its_output_never_changes_so_that_a_valid_edit_runs_nothing_else() -> None:
    check.main(tiny_params())
    first = (paths.CHECK / "params.json").read_bytes()
    check.main(tiny_params(beta=0.7, seed=1))
    assert (paths.CHECK / "params.json").read_bytes() == first
    assert [path.name for path in paths.CHECK.iterdir()] == ["params.json"]


def test_a_mistake_leaves_no_output() -> None:
    with pytest.raises(UserError, match="nonesuch"):
        check.main(tiny_params(teacher="nonesuch"))
    assert not paths.CHECK.exists()


def test_on_the_command_line_a_mistake_is_one_sentence_and_a_failure() -> None:
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    assert run_check().returncode == 0
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("beta: 0.5", "beta: -1"))
    run = run_check()
    assert run.returncode == 1
    message = "check: error: params.yaml: beta = -1 is not allowed: Input should be greater than or equal to 0\n"
    assert run.stderr == message
