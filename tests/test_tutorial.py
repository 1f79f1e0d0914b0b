"""docs/tutorial.md: its files and commands, in its order, in a copy of the repository."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.pipeline_copy import ROOT, VERSIONED, Clone

BLOCK = re.compile(r"^```(sh|python|yaml)(?: (first|file=\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs/tutorial.md").read_text())
FURTHER = (".dvc/plots", "experiments", "pyproject.toml", "requirements.lock")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which everything lies, and what all commands printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    clone = _cloned(folder / "s2kd")
    for kind, option, text in BLOCKS:
        if kind != "sh":
            (clone.root / option.removeprefix("file=")).write_text(text)
    scripts = [text for kind, option, text in BLOCKS if kind == "sh" and option != "first"]
    return folder, "".join(clone.run("bash", "-eux", "-c", script).output for script in scripts)


def test_the_page_starts_with_a_clone() -> None:
    kind, option, text = BLOCKS[0]
    assert (kind, option) == ("sh", "first")
    assert text.startswith("git clone ")
    assert "make repro" in text
    assert "repro:" in (ROOT / "Makefile").read_text()
    assert [option for _, option, _ in BLOCKS[1:] if option] == ["file=make_data.py", "file=experiments/mine.yaml"]


@pytest.mark.slow
def test_all_commands_work_and_the_second_clone_has_nothing_to_compute(followed: tuple[Path, str]) -> None:
    folder, printed = followed
    before, after = printed.split("+ cd ../colleague")
    assert "Running stage 'train_teacher@multimodal'" in before
    assert "Everything is up to date" not in before.split("+ dvc push")[1].split("+ git init")[0]
    assert "Data and pipelines are up to date." in after
    assert "Running stage" not in after
    assert "U-Net S2-KD" in after
    assert (folder / "colleague/data/report/index.html").is_file()


@pytest.mark.slow
def test_the_experiment_runs_what_beta_decides_and_arrives(followed: tuple[Path, str]) -> None:
    folder, printed = followed
    ran = re.findall(r"^Running stage '([^'@]+)", printed.split("+ dvc exp run")[1].split("+ git checkout")[0], re.M)
    assert {"distill", "evaluate", "report"} <= set(ran) <= {"check", "distill", "export", "evaluate", "report"}
    assert "beta: 0.9 " in (folder / "colleague/params.yaml").read_text()
    assert "beta: 0.5 " in (folder / "s2kd/params.yaml").read_text()


def _cloned(root: Path) -> Clone:
    """The versioned files of the working tree, as a clone has them."""
    for name in dict.fromkeys((*VERSIONED, *FURTHER)):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, target)
    clone = Clone(root)
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.commit("The pipeline")
    return clone
