"""The teacher's Z_fused on disk: which windows it covers, the training statistics, and random reads.

`data/dump_features/features.zarr`:

    features (window, token, feature) float16       Z_fused of eq. 9, teacher in eval mode
    window (window) int64                           the windows' numbers in the ingested store
    target_mean, target_std (token, feature) float32   over the training windows
    attributes grid (h, w), teacher (fingerprint of its weights), ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.mapped import map_array
from pipeline.store import open_group

ARRAYS = ("features", "window", "target_mean", "target_std")


class Features:
    """Features opened for random reads by window number."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if `path` is missing or not such a store."""
        group = open_group(path)
        attributes: Any = group.attrs
        try:
            arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
            numbers = np.asarray(arrays["window"][:])
            self.mean: NDArray[np.float32] = np.asarray(arrays["target_mean"][:])
            self.std: NDArray[np.float32] = np.asarray(arrays["target_std"][:])
            self.grid: tuple[int, int] = (int(attributes["grid"][0]), int(attributes["grid"][1]))
        except KeyError as error:
            raise UserError(f"{path} is not a store of teacher features: {error} is missing") from None
        self.position = np.full(numbers.max() + 2, -1)  # the last entry stands for all later windows
        self.position[numbers] = np.arange(len(numbers))
        self.values = map_array("features", path, arrays["features"])

    @property
    def width(self) -> int:
        """D, the teacher's latent width."""
        return int(self.values.shape[2])

    def of(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        """(B, L, D) for windows by number; raises UserError if one has no features."""
        positions = self.position[np.minimum(windows, len(self.position) - 1)]
        if (positions < 0).any():
            raise UserError(f"window {windows[positions < 0][0]} has no teacher features; run dump_features again")
        return np.asarray(self.values[positions])
