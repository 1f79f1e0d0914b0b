"""The same text for every window, `caption.constant`: words, but none about the window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.errors import UserError
from pipeline.guard import judged
from pipeline.params import Caption as CaptionParams
from pipeline.store import Description


class Constant(Captioner):
    """Writes caption.constant for each window."""

    model = "constant"

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError for a text that would not be kept as it is."""
        super().__init__(settings.model_copy(update={"output": "text"}), seed, dataset)
        self.prompt = settings.constant
        kept = judged(Caption(0, self.prompt), self.settings)
        if (kept.text, kept.status) != (self.prompt, "ok"):
            problem = kept.reason or f"it would be kept as {kept.text!r}"
            raise UserError(f"caption.constant = {self.prompt!r} is no caption ({kept.status}): {problem}")

    @property
    def identity(self) -> dict[str, Any]:
        return {"text": self.prompt}

    def described(self, description: Description, frames: int) -> dict[str, Any]:
        return {}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        for request in requests:
            yield Caption(request.window, self.prompt)
