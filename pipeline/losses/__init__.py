"""Distillation methods by name: what is added to the student's prediction loss (eq. 2)."""

from pipeline.registry import Registry

LOSSES = Registry(
    "method",
    {
        "baseline": "pipeline.losses.baseline:Baseline",
        "kd": "pipeline.losses.kd:KD",
        "fitnet": "pipeline.losses.fitnet:FitNet",
        "reviewkd": "pipeline.losses.reviewkd:ReviewKD",
        "sdkd": "pipeline.losses.sdkd:SDKD",
        "s2kd": "pipeline.losses.s2kd:S2KD",
        "s2kd_vision": "pipeline.losses.s2kd_vision:S2KDVision",
        "semantic": "pipeline.losses.semantic:Semantic",
        "spectral": "pipeline.losses.spectral:Spectral",
    },
)
