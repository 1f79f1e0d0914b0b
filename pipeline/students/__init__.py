"""Students by name."""

from pipeline.registry import Registry

STUDENTS = Registry(
    "student",
    {
        "unet": "pipeline.students.unet:UNet",
        "resnet": "pipeline.students.resnet:ResNet",
        "mlp_mixer": "pipeline.students.mlp_mixer:MLPMixer",
    },
)
