"""Text encoders by name."""

from pipeline.registry import Registry

EMBEDDERS = Registry(
    "embedder",
    {
        "minilm": "pipeline.embedders.minilm:MiniLM",
        "huggingface": "pipeline.embedders.huggingface:HuggingFace",
    },
)
