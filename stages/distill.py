"""python -m stages.distill --student unet --method s2kd: trains one student by one method (eq. 10-12 and 14)."""

from typing import Any

import torch

from pipeline import paths, training
from pipeline.distillation import DistilledStudent, StudentObjective, decisive, distillation_loss
from pipeline.features import Features, Forecasts
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.stage import run
from pipeline.store import Store
from pipeline.students.base import build, save_student
from pipeline.windows import WindowDataset
from pipeline.work import Work, replacing


def main(params: Params, student: str, method: str) -> None:
    """Trains `distill.repeats` students, with seeds seed, seed + 1, ..."""
    settings, store = params.distill, Store(paths.STORE)
    loss = distillation_loss(method, params.beta, params.lambda_, settings)
    features = Features(paths.FEATURES) if loss.uses_features else None
    forecasts = Forecasts(paths.FEATURES) if loss.uses_forecasts else None
    arguments: dict[str, Any] = {"name": student, "sizes": settings.sizes.get(student, {})}
    statistics = store.description.statistics
    objective = StudentObjective(statistics, loss, features, settings.target_scale)
    train = WindowDataset(store, "train", features=features, forecasts=forecasts, limit=settings.train_windows)
    validation = WindowDataset(store, "validation", features=features, forecasts=forecasts)
    inputs = [paths.STORE, *([paths.FEATURES] if features or forecasts else [])]
    values = [student, method, decisive(settings, student, method), params.seed, loss.weights]
    code = [f"pipeline.{name}" for name in ("training", "checkpoint", "devices", "distillation", "layers")]
    code += ["pipeline.students.base"]
    code += [f"pipeline.students.{student}", f"pipeline.losses.{method}", "pipeline.losses.spectrum"]
    # kept, because a sweep of beta comes back to a baseline that beta does not touch
    with Work("distill", inputs, values, code, keep=24) as work, replacing(paths.distilled(student, method)) as folder:
        for seed in range(params.seed, params.seed + settings.repeats):
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
