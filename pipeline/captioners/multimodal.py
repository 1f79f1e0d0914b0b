"""What captioners that show pictures to a model have in common: the prompt, the pictures, and drawing ahead."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from pipeline import pictures, prompting
from pipeline.captioners.base import Captioner, CaptionRequest, Shown
from pipeline.params import Caption as CaptionParams
from pipeline.pictures import Drawn
from pipeline.store import Description


class Multimodal(Captioner):
    """A captioner whose model reads a prompt and pictures of the input frames."""

    asks_again = True

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError for a template that is missing or names a placeholder no window can fill."""
        super().__init__(settings, seed, dataset)
        self.template = prompting.load(settings, dataset)
        self.prompt = self.template.text

    @property
    def identity(self) -> dict[str, Any]:
        sampling = self.settings.sampling.model_dump()
        picture = self.settings.picture.model_dump()
        return {
            "seed": self.seed,
            "sampling": sampling,
            "output": self.settings.output,
            "picture": picture,
            "drawing": pictures.VERSION,
        }

    def described(self, description: Description, frames: int) -> dict[str, Any]:
        """What the pictures are drawn from beside the frames, and the prompt of it.

        Of the training statistics that is the rounded ends of the colour scales, so that a window drawn from a
        record with another stride is still the same picture.
        """
        everything = super().described(description, frames)
        scales = [[scale.low, scale.high] for scale in pictures.scales(description)]
        kept = {name: everything[name] for name in ("variables", "grid", "time_stamps")}
        kept |= {"scales": scales, "prompt": self.template.of_record(description)}
        drawing = pictures.drawing(description, self.settings.picture, frames)
        return kept | {"drawing": drawing} if drawing else kept

    def prompt_for(self, request: CaptionRequest) -> str:
        return self.template.fill(request)

    def shown(self, request: CaptionRequest) -> Shown:
        return Shown(self.prompt_for(request), pictures.draw(request, self.settings.picture))

    def drawn(self, requests: Iterable[CaptionRequest]) -> Generator[Drawn, None, None]:
        """The requests in their order, each with its pictures or what kept them from being drawn.

        Worker processes draw a few windows ahead, so that a model never waits for pictures.
        """
        return pictures.drawn_ahead(requests, self.settings.picture, self.settings.workers)

    def temperature(self, request: CaptionRequest) -> float:
        """The sampling temperature: a second attempt at zero would only repeat the first."""
        sampling = self.settings.sampling
        return max(sampling.temperature, sampling.retry_temperature) if request.attempt else sampling.temperature
