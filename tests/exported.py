"""A small exported student on disk, with the record that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import export
from pipeline.choice import Candidate
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


def make_exported(root: Path) -> Exported:
    """An untrained U-Net: three frames in, two out, two record frames (12 hours) apart."""
    store = make_store(root / "store.zarr", frames=90, t_in=3, t_out=2, step=2)
    torch.manual_seed(0)
    student = build("unet", Problem.of(store, residual=True), {"width": 2}).eval()
    student.normaliser.set(store.description.statistics.mean, store.description.statistics.std)
    spec = export.spec_of(student, Candidate("unet", "s2kd", 42, 0.5), store, tiny_params())
    folder = root / "model"
    folder.mkdir()
    write_json(folder / specs.CONFIG, spec.model_dump(mode="json"))
    export.write_onnx(export.trace(student, torch.zeros(2, *spec.input_shape)), folder / specs.ONNX)
    return Exported(folder, student, store)
