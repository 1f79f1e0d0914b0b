"""What 8 bits cost the exported student on the test split.

`evaluate` alone reads that split and runs before `export`, so it makes the 8-bit model for itself: the student is
chosen by validation, and the same student and training windows give the same bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline import choice, export
from pipeline.batch import Batch
from pipeline.comparison import Precisions, compare_precisions
from pipeline.evaluation import Run, Scores, Yardsticks, score_all
from pipeline.params import Params
from pipeline.quantisation import add_int8
from pipeline.serving.model import Model
from pipeline.students import base as students
from pipeline.windows import WindowDataset
from pipeline.work import Work


def measure(params: Params, test: WindowDataset, scores: Scores, gauges: Yardsticks, work: Work) -> Precisions:
    """Scores the 8-bit model of the student that `export` chooses, and holds it against the student itself.

    scores: of all trained students, made with `gauges` on the windows of `test`. What a killed run had done is kept
    in `work`.
    """
    chosen = choice.choose(params)
    run = Run(chosen.student, chosen.method, chosen.seed)
    int8 = Run(chosen.student, f"{chosen.method} int8", chosen.seed)
    if not work.has(f"{int8} model"):
        with work.part(f"{int8} model") as folder:
            folder.mkdir()
            student = students.load(chosen.folder)
            export.write(student, export.spec_of(student, chosen, test.store, params), folder)
            add_int8(folder, test.store)
    model = Model(work.path(f"{int8} model"), "int8")

    def forecast(batch: Batch) -> Tensor:
        return torch.from_numpy(model.forecast(batch.inputs.numpy()))

    settings = params.evaluate
    quantised = score_all({int8: forecast}, test, settings.batch_size, work, params.runtime.loader_workers, gauges)
    return compare_precisions(run, scores, quantised, settings, params.seed)
