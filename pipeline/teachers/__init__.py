"""Teachers by name."""

from pipeline.registry import Registry

TEACHERS = Registry(
    "teacher",
    {
        "simvp": "pipeline.teachers.simvp:SimVP",
        "earthfarseer": "pipeline.teachers.earthfarseer:EarthFarseer",
        "triton": "pipeline.teachers.triton:Triton",
    },
)
