"""python -m stages.train_teacher --modality multimodal

Trains the teacher on fields and captions (eq. 3-9 and 13); `vision`: the same without text.
"""

from typing import Any

import torch

from pipeline import paths, training
from pipeline.distillation import TeacherObjective
from pipeline.embeddings import read_by
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.stage import code, run
from pipeline.store import Store
from pipeline.teachers.base import build, save_teacher
from pipeline.windows import WindowDataset
from pipeline.work import Work


def main(params: Params, modality: str = "multimodal") -> None:
    """Trains one teacher; validation chooses the checkpoint."""
    settings, store, text = params.train_teacher, Store(paths.STORE), read_by(modality)
    statistics = store.description.statistics
    arguments: dict[str, Any] = {
        "name": params.teacher,
        "sizes": settings.sizes.get(params.teacher, {}),
        "text_width": text.dimension if text else None,
        "layers": settings.fusion_layers,
        "heads": settings.fusion_heads,
    }
    torch.manual_seed(params.seed)
    teacher = build(problem=Problem.of(store, settings.residual), **arguments)
    teacher.normaliser.set(statistics.mean, statistics.std)
    decided_by = code("train_teacher", teacher=params.teacher, modality=modality)
    inputs = [paths.STORE, *([paths.EMBEDDINGS] if text else [])]
    with Work(
        "train_teacher", inputs, [arguments, settings, params.seed], decided_by, node=params.runtime.node
    ) as work:
        history = training.fit(
            teacher,
            TeacherObjective(statistics),
            WindowDataset(store, "train", text=text),
            WindowDataset(store, "validation", text=text),
            settings,
            seed=params.seed,
            runtime=params.runtime,
            work=work,
            name=f"{modality}-teacher",
        )
        with work.output(paths.teacher(modality)) as folder:
            save_teacher(teacher, folder, **arguments)
            training.write_history(history, folder)


if __name__ == "__main__":
    run(main)
