"""Trains the model beside this file, in about 10 minutes on one core; the tests only read it.

    OMP_NUM_THREADS=1 python -m tests.captioners.maps_reader.train

A vision-language model of 1.2 million parameters learns to read the contact sheets that `pipeline/pictures/` draws of
the scenes in `scenes.py`. Train again where pictures look different than they did: `test_vllm.py` tells.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

from pipeline import pictures
from tests.captioners.maps_reader.scenes import PICTURE, PROMPT, SCENES, request, scene
from tests.captioners.tiny_vlm import END, make_model, make_processor

HERE = Path(__file__).parent
PIXELS, LAYERS = 128, 3
IMAGES, STEPS, BATCH, RATE = 12_000, 1_000, 48, 2e-3
SHIFT = 2  # pixels


def main(folder: Path = HERE) -> None:
    torch.manual_seed(0)
    start = time.monotonic()
    captions = [scene(kind, np.random.default_rng(0)).caption for kind in range(len(SCENES))]
    processor = make_processor([PROMPT, *captions], PIXELS)
    model = make_model(processor, LAYERS)
    images, captions = examples(processor, range(IMAGES))
    print(f"{model.num_parameters():,} parameters, {IMAGES} pictures, {time.monotonic() - start:.0f} s")
    fit(model, processor, images, captions)
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)
    share = exact(model.float(), processor, *examples(processor, range(IMAGES, IMAGES + 256)))
    print(f"{share:.1%} of 256 unseen captions exact, {time.monotonic() - start:.0f} s")


def examples(processor: Idefics3Processor, numbers: range) -> tuple[NDArray[np.uint8], list[str]]:
    """(N, 3, P, P) pictures as the model's processor sizes them, before it scales the values, and their captions."""
    images = np.empty((len(numbers), 3, PIXELS, PIXELS), dtype=np.uint8)
    captions = []
    for row, number in enumerate(numbers):
        example = scene(number, np.random.default_rng(number))
        (png,) = pictures.draw(request(number, example.inputs), PICTURE)
        image = Image.open(io.BytesIO(png)).convert("RGB")
        sized = processor.image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"]
        images[row] = np.asarray(sized[0][0]).clip(0, 255)
        captions.append(example.caption)
    return images, captions


def tokens(processor: Idefics3Processor, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Prompt and captions as tokens, and the labels: captions only."""
    tokenizer = processor.tokenizer
    opening = tokenizer(question(processor), add_special_tokens=False)["input_ids"]
    answers = [tokenizer(f"{caption}{END}", add_special_tokens=False)["input_ids"] for caption in captions]
    ids = torch.full((len(captions), len(opening) + max(map(len, answers))), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, answer in enumerate(answers):
        ids[row, : len(opening)] = torch.tensor(opening)
        ids[row, len(opening) : len(opening) + len(answer)] = torch.tensor(answer)
        labels[row, len(opening) : len(opening) + len(answer)] = torch.tensor(answer)
    return ids, labels


def question(processor: Idefics3Processor) -> str:
    """The chat up to the answer, with the picture's place filled as the processor fills it."""
    content: Any = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    filled = processor.replace_image_token({"rows": [[0]], "cols": [[0]]}, 0)
    return str(chat).replace("<image>", filled)


def values(images: NDArray[np.uint8]) -> Tensor:
    """(N, 1, 3, P, P): pictures scaled as the processor scales them."""
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1


def varied(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Moved by a few pixels and with another contrast, so that a small change of the drawing does no harm."""
    down, right = random.integers(-SHIFT, SHIFT + 1, 2).tolist()
    return pixels.roll((down, right), (-2, -1)) * random.uniform(0.95, 1.05) + random.normal(0, 0.02)


def fit(
    model: Idefics3ForConditionalGeneration,
    processor: Idefics3Processor,
    images: NDArray[np.uint8],
    captions: list[str],
) -> None:
    ids, labels = tokens(processor, captions)
    attended = (ids != processor.tokenizer.pad_token_id).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    random = np.random.default_rng(0)
    model.train()
    begun = time.monotonic()
    for step in range(STEPS):
        rows = random.integers(0, len(images), BATCH)
        pixels = varied(values(images[rows]), random)
        loss = model(input_ids=ids[rows], attention_mask=attended[rows], labels=labels[rows], pixel_values=pixels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.monotonic() - begun:.0f} s", flush=True)


def exact(
    model: Idefics3ForConditionalGeneration,
    processor: Idefics3Processor,
    images: NDArray[np.uint8],
    captions: list[str],
) -> float:
    """The share of captions that greedy decoding writes exactly."""
    model.eval()
    opening = processor.tokenizer(question(processor), add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = opening.expand(len(images), -1)
    with torch.no_grad():
        written = cast(Any, model).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=values(images),
            max_new_tokens=60,
            do_sample=False,
        )
    texts = processor.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return float(np.mean([text == caption for text, caption in zip(texts, captions, strict=True)]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
