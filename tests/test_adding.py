"""docs/adding.md, followed to the letter: the files and lines it shows work as it says."""

from __future__ import annotations

import os
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
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", root)
    for kind, name, text in BLOCK.findall((ROOT / "docs/adding.md").read_text()):
        path = root / name
        if kind == "file":
            path.write_text(text)
        else:
            path.write_text(path.read_text().replace("{", "{\n" + text, 1))
    return root


def run(root: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{ROOT}"}  # the copy's library, our tests' helpers
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_students_a_teacher_a_method_and_a_captioner() -> None:
    names = {name for kind, name, _ in BLOCK.findall((ROOT / "docs/adding.md").read_text()) if kind == "file"}
    assert names == {
        "pipeline/students/plain_cnn.py",
        "pipeline/students/their_net.py",
        "pipeline/teachers/their_video_net.py",
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


def test_wrapped_networks_are_trained_dumped_and_distilled_by_the_stages(followed: Path) -> None:
    code = """
import json
import numpy as np
from pipeline import paths
from pipeline.check import check
from pipeline.features import Features
from pipeline.teachers.base import load
from stages import distill, dump_features, train_teacher
from tests.core import make_text_and_store, training_params
params = training_params(
    teacher="their_video_net",
    students=["their_net"],
    methods=["baseline", "fitnet", "s2kd"],
    train_teacher={"sizes": {"their_video_net": {"hidden": 4}}},
    distill={"sizes": {"their_net": {"hidden": 4}}},
)
check(params)
make_text_and_store()
for modality in ("multimodal", "vision"):
    train_teacher.main(params, modality)
    dump_features.main(params, modality)
    assert load(paths.teacher(modality)).latent_width == 2 * 4
    assert Features(paths.features(modality)).width == 2 * 4
for method in params.methods:
    distill.main(params, "their_net", method)
    (folder,) = paths.distilled("their_net", method).iterdir()
    history = json.loads((folder / "history.json").read_text())
    print(method, history[-1]["validation_prediction"] < history[0]["validation_prediction"])
"""
    assert run(followed, code) == "baseline True\nfitnet True\ns2kd True\n"


def test_wrapped_networks_are_saved_and_loaded_and_take_odd_grids(followed: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
import torch
from pipeline.batch import Text
from pipeline.models import Problem
from pipeline.students import base as students
from pipeline.teachers import base as teachers
folder, problem = Path({str(tmp_path)!r}), Problem(t_in=2, t_out=3, variables=2, height=7, width=9, periodic=True)
student = students.build("their_net", problem, {{"hidden": 4}}).eval()
students.save_student(student, folder / "student", name="their_net", sizes={{"hidden": 4}})
inputs, text = torch.randn(5, 2, 2, 7, 9), Text(torch.randn(5, 3, 6), torch.ones(5, 3, dtype=torch.bool))
output = student(inputs)
assert output.forecast.shape == (5, 3, 2, 7, 9)
assert output.latent.shape == (5, student.latent_width, *student.latent_grid)
assert torch.equal(students.load(folder / "student")(inputs).forecast, output.forecast)
exported = torch.export.export(student, (inputs,)).module()
assert torch.allclose(exported(inputs).forecast, output.forecast, atol=1e-6)
for width, words in ((6, text), (None, None)):
    arguments = dict(name="their_video_net", sizes={{"hidden": 4}}, text_width=width, layers=1, heads=2)
    teacher = teachers.build(problem=problem, **arguments).eval()
    teachers.save_teacher(teacher, folder / "teacher", **arguments)
    taught = teacher(inputs, words)
    assert taught.forecast.shape == (5, 3, 2, 7, 9)
    assert taught.fused.shape == (5, 4 * 5, 8)
    assert torch.equal(teachers.load(folder / "teacher")(inputs, words).forecast, taught.forecast)
    taught.forecast.sum().backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())
"""
    run(followed, code)
