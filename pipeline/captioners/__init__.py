"""Captioners by name."""

from pipeline.registry import Registry

CAPTIONERS = Registry(
    "captioner",
    {
        "narrator": "pipeline.captioners.narrator:Narrator",
        "vllm": "pipeline.captioners.vllm:VLLM",
        "openai": "pipeline.captioners.openai:OpenAI",
        "none": "pipeline.captioners.none:Nothing",
        "constant": "pipeline.captioners.constant:Constant",
        "shuffled": "pipeline.captioners.shuffled:Shuffled",
    },
)
