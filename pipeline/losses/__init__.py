"""Distillation methods by name: what is added to the student's prediction loss (eq. 2)."""

from pipeline.registry import Registry

LOSSES = Registry(
    "method",
    {
        "baseline": "pipeline.losses.baseline:Baseline",
        "fitnet": "pipeline.losses.fitnet:FitNet",
        "s2kd": "pipeline.losses.s2kd:S2KD",
    },
)
