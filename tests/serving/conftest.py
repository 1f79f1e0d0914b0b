from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline import export
from pipeline.models import Problem
from pipeline.serving import spec as specs
from pipeline.store import Store
from pipeline.students.base import Student, build
from pipeline.work import write_json
from tests.helpers import make_store, tiny_params


@dataclass(frozen=True)
class Exported:
    """An exported student in `folder`, the student itself, and the record it was made for."""

    folder: Path
    student: Student
    store: Store

    @property
    def spec(self) -> specs.Spec:
        return specs.read(self.folder)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Not to be written to: three frames in, two out, two record frames (12 hours) apart."""
    root = tmp_path_factory.mktemp("exported")
    store = make_store(root / "store.zarr", frames=90, t_in=3, t_out=2, step=2)
    torch.manual_seed(0)
    student = build("unet", Problem.of(store, residual=True), {"width": 2}).eval()
    student.normaliser.set(store.description.statistics.mean, store.description.statistics.std)
    spec = export.spec_of(student, export.Candidate("unet", "s2kd", 42, 0.5), store, tiny_params())
    folder = root / "model"
    folder.mkdir()
    write_json(folder / specs.CONFIG, spec.model_dump(mode="json"))
    export.write_onnx(export.trace(student, torch.zeros(2, *spec.input_shape)), folder / specs.ONNX)
    return Exported(folder, student, store)
