"""What the teacher left on disk: which windows it covers, the training statistics, and random reads.

`data/dump_features/<modality>/features.zarr`, of the teacher that reads captions and of the one without text:

    features (window, token, feature) float16       Z_fused of eq. 9, teacher in eval mode
    forecast (window, lead, variable, row, column) float16   z-scores; only with `dump_features.forecasts`
    window (window) int64                           the windows' numbers in the ingested store
    target_mean, target_std (token, feature) float32   over the training windows
    attributes grid (h, w), teacher (its name), and what the features were made from, see `origin`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embeddings import Embeddings
from pipeline.errors import UserError
from pipeline.mapped import map_array
from pipeline.store import array, open_group
from pipeline.work import fingerprint

ARRAYS = ("features", "window", "target_mean", "target_std")


Origin = dict[str, Any]


def origin(store: Path, teacher: Path, text: Embeddings | None) -> Origin:
    """What decides a teacher's features: its weights, the captions as it reads them, the windows and statistics.

    store: the ingested record, whose windows and training statistics are taken in, and not all its values again.
    """
    windows = [store / "zarr.json", store / "window_start", store / "window_split", store / "time"]
    return {
        "weights": fingerprint([teacher / "model.safetensors"]),
        "captions": fingerprint([], text.origin) if text else "none",
        "preprocessing": fingerprint(windows),
    }


class Features:
    """Features opened for random reads by window number."""

    def __init__(self, path: Path, made_from: Origin | None = None) -> None:
        """Raises UserError if `path` is missing, not such a store, or made from something else than `made_from`."""
        group = open_group(path)
        _check_origin(path, group.attrs, made_from)
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

    def __init__(self, path: Path, made_from: Origin | None = None) -> None:
        """Raises UserError if `path` is missing, holds no forecasts, or was made from something else."""
        group = open_group(path)
        _check_origin(path, group.attrs, made_from)
        if "forecast" not in group or "window" not in group:
            raise UserError(f"{path} holds no forecasts of the teacher; set dump_features.forecasts = true")
        forecast, window = array(group, "forecast"), array(group, "window")
        self.position = _positions(np.asarray(window[:]))
        self.values = map_array("forecast", path, forecast)

    def of(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        """(B, T_out, C, H, W), z-scores, for windows by number; raises UserError if one has none."""
        return np.asarray(self.values[_found(self.position, windows)])


def _check_origin(path: Path, attributes: Any, made_from: Origin | None) -> None:
    """Features of another teacher, other captions or another record would teach, and teach wrongly."""
    for key, expected in (made_from or {}).items():
        if attributes.get(key) != expected:
            raise UserError(
                f"{path} was made from other {key} ({attributes.get(key, 'unknown')}) than there are now ({expected}); "
                "run dump_features again"
            )


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
