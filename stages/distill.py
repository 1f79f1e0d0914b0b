"""python -m stages.distill --student unet --method s2kd: trains one student by one method (eq. 10-12 and 14)."""

from typing import Any

import torch

from pipeline import paths, training
from pipeline.distillation import DistilledStudent, StudentObjective, decisive, distillation_loss
from pipeline.embeddings import read_by
from pipeline.features import Features, Forecasts, origin
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.stage import code, run
from pipeline.store import Store
from pipeline.students.base import build, save_student
from pipeline.windows import WindowDataset
from pipeline.work import Work


def main(params: Params, student: str, method: str) -> None:
    """Trains a student for each of `seeds`."""
    params = params.of_pair(student, method)
    settings, store = params.distill, Store(paths.STORE)
    loss = distillation_loss(method, params.beta, params.lambda_, settings)
    left, taught = paths.features(loss.teacher), loss.uses_features or loss.uses_forecasts
    made_from = origin(store.path, paths.teacher(loss.teacher), read_by(loss.teacher)) if taught else None
    features = Features(left, made_from) if loss.uses_features else None
    forecasts = Forecasts(left, made_from) if loss.uses_forecasts else None
    arguments: dict[str, Any] = {"name": student, "sizes": settings.sizes.get(student, {})}
    statistics = store.description.statistics
    objective = StudentObjective(statistics, loss, features, settings.target_scale)
    limit, targets = settings.train_windows, settings.target_windows
    train = WindowDataset(store, "train", features=features, forecasts=forecasts, limit=limit, targets=targets)
    validation = WindowDataset(store, "validation", features=features, forecasts=forecasts)
    inputs = [paths.STORE, *([left] if taught else [])]
    values = [student, method, decisive(settings, student, method), loss.weights]
    decided_by = code("distill", student=student, method=method)
    # kept, because a sweep of beta comes back to a baseline that beta does not touch
    kept = Work("distill", inputs, values, decided_by, keep=24, node=params.runtime.node)
    with kept as work, work.output(paths.distilled(student, method)) as folder:
        for seed in params.seeds:
            torch.manual_seed(seed)
            model = DistilledStudent(build(problem=Problem.of(store, settings.residual), **arguments), features, loss)
            model.student.normaliser.set(statistics.mean, statistics.std)
            history = training.fit(
                model,
                objective,
                train,
                validation,
                settings,
                seed=seed,
                runtime=params.runtime,
                work=work,
                name=f"seed-{seed}",
            )
            save_student(model.student, folder / f"seed-{seed}", **arguments)
            training.write_history(history, folder / f"seed-{seed}")


if __name__ == "__main__":
    run(main)
