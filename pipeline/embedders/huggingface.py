"""Any text encoder in Hugging Face's format, by its name on the hub or its folder: `embed.model`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedders.base import Embedder
from pipeline.errors import UserError
from pipeline.params import Embed

DECISIVE_FILES = (
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
)


class HuggingFace(Embedder):
    """Hidden states of the last layer, in float32 on the CPU. Weights must be safetensors; no code is run."""

    def __init__(self, settings: Embed) -> None:
        """Raises UserError if the model is not named, missing, without safetensors or no text encoder."""
        super().__init__(settings)
        if settings.model is None:
            raise UserError("embed.model is null; embedder 'huggingface' needs a name on the hub or a folder")
        self._load(settings.model, settings.revision)

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        encoded = self._tokenizer(self._filled(texts), truncation=False, verbose=False)["input_ids"]
        return np.array([len(ids) for ids in encoded], dtype=np.int64)

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        import torch

        encoded = self._tokenizer(
            self._filled(texts), truncation=True, max_length=self.settings.max_tokens, padding=True, return_tensors="pt"
        )
        mask = encoded["attention_mask"].bool()
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state
        return hidden.masked_fill(~mask[..., None], 0.0).numpy(), mask.numpy()

    def _filled(self, texts: Sequence[str]) -> list[str]:
        """The texts; an empty one that had no token gets one of padding, so that something can be attended."""
        return [text or self._blank for text in texts]

    def _load(self, model: str, revision: str | None) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights: it would fill a log
        local = Path(model).is_dir()
        options: dict[str, Any] = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, **options)
            loaded = AutoModel.from_pretrained(model, use_safetensors=True, dtype="float32", **options)
        except (OSError, ValueError) as error:  # what transformers raises for anything missing or unknown
            where = "folder" if local else f"hub model (revision {revision or 'main'})"
            raise UserError(f"embed.model = {model!r}: this {where} cannot be loaded: {_first_line(error)}") from None
        self._model = _text_encoder(loaded, model).eval().requires_grad_(False)
        self._check_tokenizer(model)
        self.dimension = int(loaded.config.get_text_config().hidden_size)
        self.name = _folder_name(Path(model)) if local else f"{model}@{loaded.config._commit_hash or revision}"

    def _check_tokenizer(self, model: str) -> None:
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token  # never seen: the mask hides it
        if self._tokenizer.pad_token is None:
            raise UserError(f"embed.model = {model!r}: its tokenizer has no padding token; choose another model")
        self._blank = "" if self._tokenizer("")["input_ids"] else self._tokenizer.pad_token
        limit = getattr(self._model.config, "max_position_embeddings", None) or self.settings.max_tokens
        if self.settings.max_tokens > limit:
            allowed = f"{model!r} takes at most {limit}"
            raise UserError(f"embed.max_tokens = {self.settings.max_tokens} is not allowed: {allowed}")


def _text_encoder(loaded: Any, model: str) -> Any:
    """The part that reads text: the encoder of an encoder-decoder, else the whole model."""
    if loaded.config.is_encoder_decoder:
        return loaded.get_encoder()
    required = inspect.signature(loaded.forward).parameters
    if "input_ids" not in required or "pixel_values" in required:
        raise UserError(f"embed.model = {model!r} is a {type(loaded).__name__}; a text encoder is needed")
    return loaded


def _folder_name(folder: Path) -> str:
    """The folder's own name and a hash of what decides the embeddings, so that no path of a machine is kept."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in DECISIVE_FILES for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{folder.resolve().name}@sha256:{digest.hexdigest()[:16]}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
