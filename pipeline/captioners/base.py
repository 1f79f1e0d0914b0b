"""What a captioner must offer: a stream of requests in, a stream of captions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Caption as CaptionParams
from pipeline.store import Description


@dataclass(frozen=True)
class CaptionRequest:
    """All that a caption may see of one window: its input frames, their time stamps, the description.

    inputs: (T_in, C, H, W) float32, physical units. times: (T_in,) datetime64[s], UTC.
    Target frames are not in it, so no captioner can leak them.
    """

    window: int
    inputs: NDArray[np.float32]
    times: NDArray[np.datetime64]
    description: Description


@dataclass(frozen=True)
class Caption:
    """One window's caption and how it came about. `reason` says what went wrong unless status is "ok"."""

    window: int
    text: str
    status: Literal["ok", "empty", "truncated", "refused", "failed"] = "ok"
    reason: str = ""


class Captioner(ABC):
    """A captioner. Built from the `caption` section and the seed; heavy engines start in `captions`."""

    model: str  # what wrote the captions: a model's name and revision, or the rules' version
    prompt: str  # the template put to the model, or a description of the rules; hashed into each row

    def __init__(self, settings: CaptionParams, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    @abstractmethod
    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """Yields one caption for each request, in any order.

        `requests` is read lazily, so a batched engine or a server can keep as many in flight as it likes and
        answer as they finish. A request that fails yields a caption with a status, it never raises.
        """
