"""Another captioner's captions, given to other windows of the same split: words of the right kind, about nothing.

Each caption is made for its own window first, so finished captions are shared with runs of the other captioner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners import CAPTIONERS
from pipeline.captioners.base import Caption, Captioner, CaptionRequest, Shown
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.splits import deranged
from pipeline.store import Description


class Shuffled(Captioner):
    """Asks the captioner of caption.shuffle; `arrangement` says which window gets which caption."""

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError for a name that is unknown or its own."""
        super().__init__(settings, seed, dataset)
        if settings.shuffle == "shuffled":
            known = ", ".join(name for name in CAPTIONERS if name != "shuffled")
            raise UserError(f"caption.shuffle = 'shuffled' would shuffle itself; allowed: {known}")
        self.inner: Captioner = CAPTIONERS.load(settings.shuffle)(settings, seed, dataset)
        self.model, self.prompt = self.inner.model, self.inner.prompt
        self.asks_again, self.settings = self.inner.asks_again, self.inner.settings

    @property
    def identity(self) -> dict[str, Any]:
        return self.inner.identity

    def described(self, description: Description, frames: int) -> dict[str, Any]:
        return self.inner.described(description, frames)

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        return self.inner.captions(requests)

    def prompt_for(self, request: CaptionRequest) -> str:
        return self.inner.prompt_for(request)

    def shown(self, request: CaptionRequest) -> Shown:
        return self.inner.shown(request)

    def arrangement(self, split: NDArray[np.int8]) -> NDArray[np.int64]:
        """A seeded permutation within each split; where a split has several windows, none keeps its own caption."""
        return deranged(split, np.random.default_rng(self.seed))

    def close(self) -> str:
        return self.inner.close()
