"""Students by name."""

from pipeline.registry import Registry

STUDENTS = Registry(
    "student",
    {
        "unet": "pipeline.students.unet:UNet",
    },
)
