"""How stage scripts start and end, in a process of their own as DVC runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.stage import code

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = '''
import logging
from pipeline.errors import UserError
from pipeline.stage import run

def main(params, student, method, count=1):
    """Prints what it was given."""
    logging.getLogger("x").info("begins")
    print(params.beta, student, method, count + 1)
    if method == "bad":
        raise UserError("method = 'bad' is not known; known: good")
    if method == "bug":
        raise ValueError("a bug")

if __name__ == "__main__":
    run(main)
'''


@pytest.fixture(autouse=True)
def _scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "__init__.py").touch()
    (tmp_path / "things" / "act.py").write_text(SCRIPT)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("beta: 0.5", "beta: 0.75"))


def act(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "things.act", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_main_gets_the_parameters_and_the_options_by_name() -> None:
    done = act("--student", "unet", "--method", "good")
    assert (done.returncode, done.stdout) == (0, "0.75 unet good 2\n")
    assert done.stderr == "act: begins\n"


def test_an_option_with_a_default_may_be_left_out_and_has_its_type() -> None:
    assert act("--student", "unet", "--method", "good", "--count", "6").stdout == "0.75 unet good 7\n"
    assert "invalid int value: 'six'" in act("--student", "unet", "--method", "good", "--count", "six").stderr


def test_a_users_mistake_is_one_sentence_without_a_traceback() -> None:
    done = act("--student", "unet", "--method", "bad")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "act: error: method = 'bad' is not known; known: good"
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback() -> None:
    done = act("--student", "unet", "--method", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_wrong_parameters_stop_before_main() -> None:
    Path("params.yaml").write_text("seed: 1\n")
    done = act("--student", "unet", "--method", "good")
    assert (done.returncode, done.stdout) == (1, "")
    assert "act: error: params.yaml: key 'dataset' is missing" in done.stderr


def test_a_missing_option_is_named() -> None:
    done = act("--student", "unet")
    assert done.returncode == 2
    assert "--method" in done.stderr


def test_the_code_that_decides_a_stage_is_what_it_depends_on_with_the_chosen_names() -> None:
    modules = code("distill", student="resnet", method="kd")
    assert {"stages.distill", "pipeline.windows", "pipeline.students.resnet", "pipeline.losses.kd"} <= set(modules)
    assert "pipeline.students.unet" not in modules
    assert {"pipeline.datasets", "pipeline.datasets.files.netcdf3"} <= set(code("ingest"))  # whole rooms


def test_a_stage_without_the_name_of_what_it_trains_is_a_bug() -> None:
    with pytest.raises(KeyError, match="method"):
        code("distill", student="resnet")
