"""What a captioner must offer: a stream of requests in, a stream of captions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Caption as CaptionParams
from pipeline.store import Description

Status = Literal["ok", "truncated", "empty", "repeated", "refused", "malformed", "failed"]


@dataclass(frozen=True)
class CaptionRequest:
    """All that a caption may see of one window: its input frames, their time stamps, the description.

    inputs: (T_in, C, H, W) float32, physical units. times: (T_in,) datetime64[ms], UTC. context: for each input
    frame what was known at its time (weather, a holiday), text from outside; empty if the record has none.
    Target frames are not in it, so no captioner can leak them.
    """

    window: int
    inputs: NDArray[np.float32]
    times: NDArray[np.datetime64]
    description: Description
    attempt: int = 0  # how often this window has been asked for before, because the caption was bad
    seed: int = 0  # for sampling; another one for each window's input and attempt
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caption:
    """One answer as the captioner gave it. `reason` says what went wrong unless status is "ok".

    A captioner knows of an answer that was cut off ("truncated"), withheld by a filter ("refused") or never
    came ("failed"); what is wrong with a text itself is found by `pipeline/guard.py`.
    """

    window: int
    text: str
    status: Status = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Shown:
    """What is put to a model for one window: the prompt, and PNG pictures in their order."""

    prompt: str
    pictures: tuple[bytes, ...] = ()


class Captioner(ABC):
    """A captioner. Built from the `caption` section, the seed and the data set's name, without any heavy work:
    engines and connections start with the first request in `captions`, and end in `close`.
    """

    asks_again: bool = False  # True: another attempt with another seed may come out better
    model: str  # what writes the captions: a model's name and revision, or the rules' version
    prompt: str  # the template put to the model, or a description of the rules; hashed into each row

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError for settings that this captioner cannot work with."""
        self.settings = settings
        self.seed = seed
        self.dataset = dataset

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides a caption beside `model` and the request, as plain values: revision, sampling, pictures.

        Finished captions are known by it, so whatever changes a caption must be in it, and nothing else.
        """

    def described(self, description: Description, frames: int) -> dict[str, Any]:
        """What of the record's description decides a caption of so many frames, as plain values: all of it, unless
        overridden.
        """
        grid, statistics = description.grid, description.statistics
        return {
            "variables": [[variable.name, variable.units, variable.long_name] for variable in description.variables],
            "grid": [list(grid.dims), grid.y.tolist(), grid.x.tolist(), *([grid.units] if grid.units else [])],
            "statistics": [array.tolist() for array in vars(statistics).values()],
            "time_stamps": description.time_stamps,
            "text": description.text,
        }

    @abstractmethod
    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """Yields one caption for each request, in any order.

        `requests` is read lazily, so a batched engine or a server can keep as many in flight as it likes and
        answer as they finish. A request that fails yields a caption with status "failed", it never raises;
        a captioner that cannot work at all (no such model, no server) raises UserError.
        """

    def prompt_for(self, request: CaptionRequest) -> str:
        """The words put to the model for this window."""
        return self.prompt

    def shown(self, request: CaptionRequest) -> Shown:
        """Prompt and pictures for this window."""
        return Shown(self.prompt_for(request))

    def arrangement(self, split: NDArray[np.int8]) -> NDArray[np.int64]:
        """Whose caption each window gets: its own, but for controls. split: (window,) the windows' splits."""
        return np.arange(len(split))

    def close(self) -> str:
        """Ends engines and connections; returns what is worth saying of the run (tokens, price), or nothing."""
        return ""
