"""The types that carry samples, with their shapes, units and invariants.

Shape letters, used throughout: B windows in a batch, T frames, C variables, H latitudes (rows),
W longitudes (columns), L tokens, D feature width. Fields are float32 in physical units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Token embeddings of a batch's captions.

    tokens: (B, L, d_text) float, from the frozen text encoder.
    mask: (B, L) bool, True where there is a token, False where there is padding.
    """

    tokens: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.tokens.shape[:2] != self.mask.shape or self.mask.dtype != torch.bool:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)} do not fit")

    def to(self, device: Any) -> Text:
        return Text(self.tokens.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Batch:
    """A mini-batch of windows.

    windows: (B,) int64, the windows' numbers in the store.
    inputs: (B, T_in, C, H, W) and targets: (B, T_out, C, H, W), physical units.
    text: captions of the same windows, for the teacher.
    features: (B, L, D), the teacher's Z_fused of the same windows, for distillation.
    forecasts: (B, T_out, C, H, W), the teacher's forecasts of the same windows, *z-scores*, for distillation.
    labelled: (B,) bool, whose targets may be learnt from; None for all.
    """

    windows: Tensor
    inputs: Tensor
    targets: Tensor
    text: Text | None = None
    features: Tensor | None = None
    forecasts: Tensor | None = None
    labelled: Tensor | None = None

    def __post_init__(self) -> None:
        size = len(self.windows)
        if not (len(self.inputs) == len(self.targets) == size):
            raise ValueError(f"{size} windows, {len(self.inputs)} inputs, {len(self.targets)} targets")
        if self.inputs.shape[2:] != self.targets.shape[2:]:
            raise ValueError(f"inputs {tuple(self.inputs.shape)}, targets {tuple(self.targets.shape)}: grids differ")
        for extra in (self.text.tokens if self.text else None, self.features):
            if extra is not None and len(extra) != size:
                raise ValueError(f"{size} windows, {len(extra)} captions or features")
        if self.labelled is not None and (self.labelled.shape != (size,) or self.labelled.dtype != torch.bool):
            raise ValueError(f"{size} windows, labelled {tuple(self.labelled.shape)} {self.labelled.dtype}")
        if self.forecasts is not None and self.forecasts.shape != self.targets.shape:
            raise ValueError(f"forecasts {tuple(self.forecasts.shape)}, targets {tuple(self.targets.shape)}")

    @property
    def labels(self) -> int:
        """Of how many windows the targets may be learnt from."""
        return len(self.windows) if self.labelled is None else int(self.labelled.sum())

    def to(self, device: Any) -> Batch:
        """The same batch on another device (also what Lightning Fabric calls)."""
        return replace(
            self,
            windows=self.windows.to(device),
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            text=self.text.to(device) if self.text else None,
            features=self.features.to(device) if self.features is not None else None,
            forecasts=self.forecasts.to(device) if self.forecasts is not None else None,
            labelled=self.labelled.to(device) if self.labelled is not None else None,
        )
