"""The models on disk as forecasters: which there are, loaded one at a time, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import paths
from pipeline.batch import Batch
from pipeline.cost import Cost, measure
from pipeline.evaluation import Forecast, Run, climatology, persistence
from pipeline.params import Params
from pipeline.store import Description, Store
from pipeline.students import base as students
from pipeline.teachers import base as teachers

TEACHER = Run("teacher")
VISION_TEACHER = Run("vision teacher")  # the same without text
PERSISTENCE = Run("persistence")
CLIMATOLOGY = Run("climatology")
TEACHERS = {"multimodal": TEACHER, "vision": VISION_TEACHER}


@dataclass(frozen=True)
class Forecasters(Mapping[Run, Forecast]):
    """Loads a forecaster when it is asked for and keeps none, so memory holds one model at a time.

    folders: where each trained model lies. device: where models compute; forecasts come back from it.
    """

    folders: Mapping[Run, Path]
    description: Description
    device: torch.device

    @classmethod
    def of(cls, params: Params, store: Store) -> Forecasters:
        """The teachers and every student, method and seed that `params` names."""
        from lightning_fabric import Fabric

        torch.use_deterministic_algorithms(True, warn_only=True)
        folders = {TEACHERS[modality]: paths.teacher(modality) for modality in params.modalities}
        for student in params.students:
            for method in params.methods:
                for seed in params.seeds:
                    folders[Run(student, method, seed)] = paths.distilled(student, method) / f"seed-{seed}"
        device = Fabric(accelerator=params.runtime.accelerator, devices=1).device
        return cls(folders, store.description, device)

    def __iter__(self) -> Iterator[Run]:
        yield from (PERSISTENCE, CLIMATOLOGY, *self.folders)

    def __len__(self) -> int:
        return 2 + len(self.folders)

    def __getitem__(self, run: Run) -> Forecast:
        if run == PERSISTENCE:
            return persistence
        if run == CLIMATOLOGY:
            return climatology(self.description)
        return self._forecast(self.model(run), run)

    def model(self, run: Run) -> nn.Module:
        """The trained model of a run, on the device, in eval mode; raises UserError if it is missing."""
        load: Any = teachers.load if run in TEACHERS.values() else students.load
        model: nn.Module = load(self.folders[run])
        return model.to(self.device).eval()

    def costs(self, batch: Batch, runs: int) -> dict[str, Cost]:
        """Of the teacher and each student; the method changes a student's weights, not its cost."""
        costs: dict[str, Cost] = {}
        for run in self.folders:
            if run.model not in costs:
                model = self.model(run)
                costs[run.model] = measure(model, self._forecast(model, run), batch, runs, self.device)
        return costs

    def _forecast(self, model: Any, run: Run) -> Forecast:
        def teacher(batch: Batch) -> Tensor:
            batch = batch.to(self.device)
            forecast: Tensor = model(batch.inputs, batch.text if run == TEACHER else None).forecast
            return forecast.float().cpu()

        def student(batch: Batch) -> Tensor:
            forecast: Tensor = model(batch.inputs.to(self.device)).forecast
            return forecast.float().cpu()

        return teacher if run in TEACHERS.values() else student
