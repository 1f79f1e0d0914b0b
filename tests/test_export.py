from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline import export
from pipeline.errors import UserError
from pipeline.models import Problem
from pipeline.serving import spec as specs
from pipeline.serving.model import Model
from pipeline.students import STUDENTS
from pipeline.students.base import Student, build
from pipeline.work import write_json

MEAN, STD = np.array([54000.0, 275.0]), np.array([3000.0, 15.0])
SIZES: dict[str, dict[str, Any]] = {"unet": {"width": 2}, "resnet": {"width": 4, "blocks": 2}}
SIZES |= {"mlp_mixer": {"width": 8, "layers": 2}}


def student(name: str) -> Student:
    """On a globe whose rows and columns no level divides."""
    torch.manual_seed(1)
    problem = Problem(t_in=2, t_out=3, variables=2, height=9, width=14, periodic=True, residual=True)
    made = build(name, problem, SIZES[name]).eval()
    made.normaliser.set(MEAN, STD)
    return made


def fields(windows: int, frames: int = 2) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(windows, frames, 2, 9, 14))
    return (scores * STD[:, None, None] + MEAN[:, None, None]).astype(np.float32)


def written(made: Student, folder: Path) -> Path:
    folder.mkdir()
    axis = {"mean": 0.0, "std": 1.0, "long_name": "", "units": "K"}
    variables = [{"name": name} | axis | {"mean": m, "std": s} for name, m, s in zip("zt", MEAN, STD, strict=True)]
    grid = {"dims": ["latitude", "longitude"], "y": list(range(9)), "x": list(range(14))}
    tree: dict[str, Any] = {"student": "s", "method": "m", "seed": 1, "parameters": 1, "description": ""}
    tree |= {"time_stamps": "calendar", "t_in": 2, "t_out": 3, "step_seconds": 60, "variables": variables, "grid": grid}
    spec = specs.Spec.model_validate(tree | {"reader": {"dataset": "xarray", "variables": ["z", "t"]}})
    write_json(folder / specs.CONFIG, spec.model_dump(mode="json"))
    program = export.trace(made, torch.zeros(2, 2, 2, 9, 14))
    export.write_torch(program, folder / specs.TORCH)
    export.write_onnx(program, folder / specs.ONNX)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_both_formats_forecast_what_the_student_does_for_any_number_of_windows(name: str, tmp_path: Path) -> None:
    made = student(name)
    folder = written(made, tmp_path / "model")
    difference = export.check(made, folder, fields(5))
    assert difference.keys() == {"onnx", "torch"}
    assert max(difference.values()) < export.TOLERANCE
    graph = onnx.load(folder / specs.ONNX).graph
    assert [end.name for end in (*graph.input, *graph.output)] == ["inputs", "forecast"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    with torch.no_grad():
        expected = made(torch.from_numpy(fields(1))).forecast.numpy()
    np.testing.assert_allclose(Model(folder).forecast(fields(1)), expected, rtol=1e-5)


@pytest.mark.slow
def test_an_export_repeats_byte_for_byte_and_names_no_file_of_this_machine(tmp_path: Path) -> None:
    first, second = (written(student("unet"), tmp_path / name) for name in ("a", "b"))
    for name in (specs.ONNX, specs.TORCH):
        content = (first / name).read_bytes()
        assert content == (second / name).read_bytes()
        assert os.fsencode(Path(export.__file__).parent) not in content
    with zipfile.ZipFile(first / specs.TORCH) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".pkl", ".pt")) and archive.read(name)]


@pytest.mark.slow
def test_a_model_that_forecasts_otherwise_than_the_student_is_refused(tmp_path: Path) -> None:
    made = student("unet")
    folder = written(made, tmp_path / "model")
    with torch.no_grad():
        made.readout.bias += 1e-4  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match=r"the onnx model forecasts z up to 0\.3\d* K off the trained student; allowed"):
        export.check(made, folder, fields(2))
