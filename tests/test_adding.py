"""docs/adding.md, followed to the letter: the files and lines it shows work as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python (file|line)=(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library in which the page's files and lines have been added."""
    root = tmp_path_factory.mktemp("adding")
    shutil.copytree(ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for kind, name, text in BLOCK.findall((ROOT / "docs/adding.md").read_text()):
        path = root / name
        if kind == "file":
            path.write_text(text)
        else:
            path.write_text(path.read_text().replace("{", "{\n" + text, 1))
    return root


def run(root: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_a_student_a_method_and_a_captioner() -> None:
    names = {name for kind, name, _ in BLOCK.findall((ROOT / "docs/adding.md").read_text()) if kind == "file"}
    assert names == {
        "pipeline/students/plain_cnn.py",
        "pipeline/losses/cosine.py",
        "pipeline/captioners/mean_only.py",
    }


def test_the_added_student_learns_by_the_added_method(followed: Path) -> None:
    code = """
import torch
from pipeline.models import Problem
from pipeline.students.base import Projection, build
from pipeline.distillation import distillation_loss
torch.manual_seed(0)
problem = Problem(t_in=2, t_out=3, variables=1, height=8, width=8, periodic=False)
student = build("plain_cnn", problem, {"width": 4})
projection = Projection(student.latent_width, student.latent_grid, 6, (4, 4))
loss = distillation_loss("cosine", 0.5, 1.0)
inputs, target = torch.randn(5, 2, 1, 8, 8), torch.randn(5, 16, 6)
optimizer = torch.optim.Adam([*student.parameters(), *projection.parameters()], 1e-2)
values = []
for _ in range(20):
    output = student(inputs)
    assert output.forecast.shape == (5, 3, 1, 8, 8)
    term = loss.terms(projection(output.latent), target, (4, 4))["cosine"]
    optimizer.zero_grad(); term.backward(); optimizer.step()
    values.append(term.item())
assert values[-1] < 0.8 * values[0], values
"""
    run(followed, code)


def test_the_added_captioner_says_the_mean(followed: Path) -> None:
    code = """
import numpy as np
from pipeline.captioners import CAPTIONERS
from pipeline.captioners.base import CaptionRequest
from pipeline.params import Caption
from pipeline.store import Description, Grid, Statistics, Variable
grid = Grid(("y", "x"), np.arange(2.0), np.arange(3.0))
zero = np.zeros((1, 2, 3), "float32")
statistics = Statistics(np.zeros(1), np.ones(1), zero, zero)
about = Description((Variable("q", "kg", "mass"),), grid, statistics, 1, "nominal", "")
request = CaptionRequest(7, np.full((2, 1, 2, 3), 5, "float32"), np.zeros(2, "datetime64[s]"), about)
(caption,) = CAPTIONERS.load("mean_only")(Caption(), 0).captions([request])
print(caption.window, caption.text)
"""
    assert run(followed, code) == "7 On average mass 5 kg.\n"
