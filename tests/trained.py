"""A tiny trained pipeline on disk, up to `evaluate`: real store, captions, embeddings and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline import captions, embeddings, paths
from pipeline.batch import Batch
from pipeline.distillation import TeacherObjective
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.store import Store
from pipeline.students import base as students
from pipeline.teachers import base as teachers
from pipeline.windows import WindowDataset, loader
from pipeline.work import write_json
from tests.helpers import make_store, tiny_params

TEACHER_SIZES = {"spatial_width": 4, "translator_width": 8, "translator_blocks": 2, "mlp_ratio": 1.0}
STUDENT_SIZES = {"width": 2}
TEXT_WIDTH = 6


def trained_params(**overrides: Any) -> Params:
    """Three methods, two seeds, small numbers everywhere."""
    sections: dict[str, Any] = {
        "methods": ["baseline", "fitnet", "s2kd"],
        "train_teacher": {"sizes": {"simvp": TEACHER_SIZES}, "fusion_heads": 2},
        "seeds": [42, 43],
        "distill": {"sizes": {"unet": STUDENT_SIZES}},
        "evaluate": {"batch_size": 4, "latency_runs": 2, "bootstrap_samples": 100, "block_windows": 3},
    }
    for key, value in overrides.items():
        sections[key] = {**sections.get(key, {}), **value} if isinstance(value, dict) else value
    return tiny_params(**sections)


def make_trained(params: Params, caption: str = "Window {window}: a ridge moves east.", **store: Any) -> Store:
    """Fills data/ in the working directory with all that `evaluate` reads; models have seen one window."""
    store.setdefault("shape", (16, 32))  # the smallest grid that the default teacher takes
    ready = make_store(paths.STORE, t_in=params.ingest.t_in, t_out=params.ingest.t_out, **store)
    _write_text(ready, caption)
    statistics = ready.description.statistics
    text = embeddings.Embeddings(paths.EMBEDDINGS)
    batch = next(iter(loader(WindowDataset(ready, "train", text=text), 8)))
    sizes: dict[str, Any] = {"name": "simvp", "sizes": TEACHER_SIZES}
    for modality in params.modalities:
        read = batch.text if modality == "multimodal" else None
        arguments = sizes | {"text_width": TEXT_WIDTH if read else None, "layers": 1, "heads": 2}
        teacher = _seeded(0, lambda arguments=arguments: teachers.build(problem=Problem.of(ready), **arguments))
        teacher.normaliser.set(statistics.mean, statistics.std)
        forecast = _forecaster(teacher, batch, read)
        history = _train(teacher, forecast, ready, batch, steps=30)
        teachers.save_teacher(teacher, paths.teacher(modality), **arguments)
        write_json(paths.teacher(modality) / "history.json", history)
    for number, method in enumerate(params.methods):
        for seed in params.seeds:
            _write_student(ready, batch, method, seed, steps=4 + 8 * number)
    return ready


def _write_student(store: Store, batch: Batch, method: str, seed: int, steps: int) -> None:
    statistics = store.description.statistics
    arguments: dict[str, Any] = {"name": "unet", "sizes": STUDENT_SIZES}
    student = _seeded(seed, lambda: students.build(problem=Problem.of(store), **arguments))
    student.normaliser.set(statistics.mean, statistics.std)
    history = _train(student, lambda: student(batch.inputs).forecast, store, batch, steps)
    folder = paths.distilled("unet", method) / f"seed-{seed}"
    students.save_student(student, folder, **arguments)
    if method != "baseline":
        history = [row | {"train_semantic": 0.5 / row["epoch"], "gradient_semantic": 0.1} for row in history]
    write_json(folder / "history.json", history)


def _train(model: Any, forecast: Any, store: Store, batch: Batch, steps: int) -> list[dict[str, float]]:
    loss_of = TeacherObjective(store.description.statistics).prediction
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    history = []
    for step in range(steps):
        loss = loss_of(forecast(), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = {"train_prediction": loss.item(), "gradient_prediction": 1.0, "validation_prediction": loss.item()}
        history.append({"epoch": float(step + 1), "learning_rate": 1e-2} | values)
    model.eval()
    return history


def _forecaster(teacher: Any, batch: Batch, read: Any) -> Any:
    return lambda: teacher(batch.inputs, read).forecast


def _seeded(seed: int, make: Any) -> Any:
    torch.manual_seed(seed)
    return make()


def _write_text(store: Store, caption: str) -> None:
    texts = [caption.replace("{window}", str(window)) for window in range(len(store.windows))]
    columns: dict[str, Any] = {name: [""] * len(texts) for name in captions.SCHEMA.names}
    columns |= {"window": list(range(len(texts))), "caption": texts, "status": ["ok"] * len(texts)}
    columns |= {"attempts": [1] * len(texts)}
    columns |= {name: [None] * len(texts) for name in ("t_start", "t_end")}
    captions.write(paths.CAPTIONS, [pa.table(columns, schema=captions.SCHEMA)])
    distinct, of_window = embeddings.distinct(texts)
    lengths = np.full(len(distinct), 3)
    embeddings.create(paths.EMBEDDINGS, lengths, TEXT_WIDTH, of_window, {})
    for _ in embeddings.fill(paths.EMBEDDINGS, distinct, _encode, 16):
        pass


def _encode(texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three tokens for every text, from its bytes."""
    tokens = [np.random.default_rng(list(text.encode())).normal(size=(3, TEXT_WIDTH)) for text in texts]
    return np.stack(tokens).astype(np.float32), np.ones((len(texts), 3), dtype=bool)
