"""Captioners by name."""

from pipeline.registry import Registry

CAPTIONERS = Registry(
    "captioner",
    {
        "narrator": "pipeline.captioners.narrator:Narrator",
    },
)
