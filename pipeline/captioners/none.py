"""No captions at all: every text is empty. What a teacher without words reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline import guard
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.params import Caption as CaptionParams
from pipeline.store import Description


class Nothing(Captioner):
    """An empty text for each window. A text encoder makes its special tokens of it, the same for all windows."""

    model = "none"
    prompt = ""

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        super().__init__(settings.model_copy(update={"output": "text"}), seed, dataset)

    @property
    def identity(self) -> dict[str, Any]:
        return {}

    def described(self, description: Description, frames: int) -> dict[str, Any]:
        return {}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        for request in requests:
            yield Caption(request.window, "", "ok", guard.NO_CAPTION)
