"""What params.yaml must fulfil beyond types and ranges: known names, and sizes that the models accept."""

from __future__ import annotations

import torch

from pipeline import models
from pipeline.captioners import CAPTIONERS
from pipeline.choice import exportable
from pipeline.datasets import DATASETS
from pipeline.embedders import EMBEDDERS
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.models import Problem
from pipeline.params import Params
from pipeline.registry import Registry
from pipeline.students import STUDENTS
from pipeline.students import base as students
from pipeline.teachers import TEACHERS
from pipeline.teachers import base as teachers


def check(params: Params) -> None:
    """Raises UserError naming the key, its value and what is allowed."""
    for key, table, names in (
        ("dataset", DATASETS, [params.dataset]),
        ("captioner", CAPTIONERS, [params.captioner]),
        ("caption.shuffle", CAPTIONERS, [params.caption.shuffle]),
        ("embedder", EMBEDDERS, [params.embedder]),
        ("teacher", TEACHERS, [params.teacher]),
        ("students", STUDENTS, params.students),
        ("methods", LOSSES, params.methods),
    ):
        for name in names:
            _known(key, table, name)
    CAPTIONERS.load(params.captioner)(params.caption, params.seed, params.dataset)  # its prompt and settings
    _sizes("train_teacher.sizes", TEACHERS, params.train_teacher.sizes)
    _sizes("distill.sizes", STUDENTS, params.distill.sizes)
    for name in params.distill.tuned:
        _tuned(name)
    _buildable(params)
    _taught(params)
    if "baseline" not in params.methods:
        raise UserError("params.yaml: methods must list 'baseline', the control that every method is held against")
    exportable(params)


def _tuned(name: str) -> None:
    student, hyphen, method = name.partition("-")
    if not hyphen:
        _known("distill.tuned", LOSSES, name)
    else:
        _known(f"distill.tuned.{name}: student", STUDENTS, student)
        _known(f"distill.tuned.{name}: method", LOSSES, method)


def _buildable(params: Params) -> None:
    """Builds the models without memory or work, so that sizes which do not fit together are found now."""
    ingest, teacher = params.ingest, params.train_teacher
    variables = len(ingest.variables)
    problem = Problem(t_in=ingest.t_in, t_out=ingest.t_out, variables=variables, height=64, width=64, periodic=False)
    with torch.device("meta"):
        sizes = teacher.sizes.get(params.teacher, {})
        teachers.build(params.teacher, problem, sizes, 8, teacher.fusion_layers, teacher.fusion_heads)
        for name in params.students:
            students.build(name, problem, params.distill.sizes.get(name, {}))


def _taught(params: Params) -> None:
    """Every method needs its teacher; those that learn from forecasts need them stored."""
    if "multimodal" not in params.modalities:
        raise UserError(
            f"params.yaml: modalities = [{', '.join(params.modalities)}] must list 'multimodal', the teacher whose "
            "lead every method is held against"
        )
    for method in params.methods:
        kind = LOSSES.load(method)
        if method != "baseline" and kind.teacher not in params.modalities:
            given = ", ".join(params.modalities)
            raise UserError(
                f"params.yaml: method '{method}' learns from the {kind.teacher} teacher and modalities = [{given}]; "
                f"it must list '{kind.teacher}'"
            )
        if kind.uses_forecasts and not params.dump_features.forecasts:
            raise UserError(
                f"params.yaml: method '{method}' learns from the teacher's forecasts and dump_features.forecasts is "
                "false; it must be true"
            )


def _known(key: str, table: Registry, name: str) -> None:
    if name not in table:
        raise UserError(f"params.yaml: {key} = '{name}' is not a known {table.kind}; known: {', '.join(table)}")


def _sizes(key: str, table: Registry, given: dict[str, dict[str, object]]) -> None:
    for name, sizes in given.items():
        _known(key, table, name)
        models.sizes(table.load(name), sizes, f"params.yaml: {key}.{name}")
