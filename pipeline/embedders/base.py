"""What a text encoder must offer: token embeddings with a mask (eq. 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Embed


class Embedder(ABC):
    """A frozen text encoder. Built from the `embed` section."""

    name: str  # which weights: a package's or hub's name and revision, or a folder's content hash
    dimension: int  # width of a token's embedding, d_text

    def __init__(self, settings: Embed) -> None:
        self.settings = settings

    @abstractmethod
    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, special ones included, before any cut to max_tokens."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Token embeddings (B, L, d_text) and mask (B, L), True where there is a token; L <= max_tokens.

        Padded positions hold zeros and follow the tokens. A text's embedding does not depend on its
        neighbours in the batch, but for rounding.
        """
