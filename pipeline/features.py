"""What the teacher left on disk: which windows it covers, the training statistics, and random reads.

`data/dump_features/features.zarr`:

    features (window, token, feature) float16       Z_fused of eq. 9, teacher in eval mode
    forecast (window, lead, variable, row, column) float16   z-scores; only with `dump_features.forecasts`
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
from pipeline.store import array, open_group

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
        self.position = _positions(numbers)
        self.values = map_array("features", path, arrays["features"])

    @property
    def width(self) -> int:
        """D, the teacher's latent width."""
        return int(self.values.shape[2])

    def of(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        """(B, L, D) for windows by number; raises UserError if one has no features."""
        return np.asarray(self.values[_found(self.position, windows)])


class Forecasts:
    """The teacher's forecasts opened for random reads by window number."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if `path` is missing or holds no forecasts."""
        group = open_group(path)
        if "forecast" not in group or "window" not in group:
            raise UserError(f"{path} holds no forecasts of the teacher; set dump_features.forecasts = true")
        forecast, window = array(group, "forecast"), array(group, "window")
        self.position = _positions(np.asarray(window[:]))
        self.values = map_array("forecast", path, forecast)

    def of(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        """(B, T_out, C, H, W), z-scores, for windows by number; raises UserError if one has none."""
        return np.asarray(self.values[_found(self.position, windows)])


def _positions(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each window's row is, by its number; -1 for none. The last entry stands for all later windows."""
    position = np.full(numbers.max() + 2, -1)
    position[numbers] = np.arange(len(numbers))
    return position


def _found(position: NDArray[np.int64], windows: NDArray[np.int64]) -> NDArray[np.int64]:
    found = position[np.minimum(windows, len(position) - 1)]
    if (found < 0).any():
        raise UserError(f"window {windows[found < 0][0]} has no teacher features; run dump_features again")
    return found
