"""Builds vision-language models of about a million parameters that vLLM and transformers load: Idefics3's design.

The weights are random: such a model says nonsense, quickly. `maps_reader/` holds one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

PATCH, SHUFFLE = 16, 2  # pixels of a patch's side; patches of a side that share one token
END, PAD = "<end_of_utterance>", "<pad>"
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
SPECIAL = [PAD, END, "<image>", "<fake_token_around_image>", "<global-img>", *TILES]
CHAT = (
    "{% for message in messages %}{{ message['role'] }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_processor(sentences: Iterable[str], pixels: int = 128) -> Idefics3Processor:
    """A byte-level tokenizer fitted to `sentences` (any text can be written), with square images of `pixels`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, extra_special_tokens=TILES)
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": pixels},
        max_image_size={"longest_edge": pixels},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tokens = (pixels // PATCH // SHUFFLE) ** 2
    return Idefics3Processor(images, fast, image_seq_len=tokens, chat_template=CHAT)


def make_model(
    processor: Idefics3Processor, layers: int = 2, positions: int = 1024
) -> Idefics3ForConditionalGeneration:
    """A random model of width 128 for this processor; seed torch before. positions: the longest context, in tokens."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer = processor.tokenizer
    size: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = Idefics3Config(
        text_config={
            **size,
            **special,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "intermediate_size": 256,
            "num_key_value_heads": 4,
            "max_position_embeddings": positions,
        },
        vision_config={
            **size,
            "intermediate_size": 256,
            "image_size": processor.image_processor.max_image_size["longest_edge"],
            "patch_size": PATCH,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SHUFFLE,
        **special,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save_tiny_vlm(folder: Path, seed: int = 0, pixels: int = 64) -> Path:
    """Saves a random model with its processor to `folder`."""
    import torch

    torch.manual_seed(seed)
    processor = make_processor(["Describe the weather map. Warm air lies in the north, cold air in the south."], pixels)
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
