"""What training reads, tiny: token embeddings and teacher features known in closed form, a record, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import embeddings, paths
from pipeline.embeddings import Embeddings
from pipeline.features import Features
from pipeline.params import Params
from pipeline.store import create_array, write_array
from tests.helpers import make_store, tiny_params

TEXT_WIDTH = 6
LONGEST = 4


def tokens_of(window: int) -> NDArray[np.float16]:
    """(L, d_text): window i has 2 + i % 3 tokens."""
    rng = np.random.default_rng([7, window])
    return rng.normal(size=(2 + window % 3, TEXT_WIDTH)).astype(np.float16)


def write_embeddings(path: Path, windows: int) -> Embeddings:
    """Each window has a caption of its own, embedded as `tokens_of` says."""
    texts = [str(window) for window in range(windows)]
    distinct, of_window = embeddings.distinct(texts)
    lengths = np.array([len(tokens_of(window)) for window in range(windows)])
    embeddings.create(path, lengths, TEXT_WIDTH, of_window, {})
    for _ in embeddings.fill(path, distinct, _encode, 16):
        pass
    return Embeddings(path)


def _encode(texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    values = np.zeros((len(texts), LONGEST, TEXT_WIDTH), dtype=np.float32)
    mask = np.zeros((len(texts), LONGEST), dtype=bool)
    for row, text in enumerate(texts):
        tokens = tokens_of(int(text))
        values[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
    return values, mask


def features_of(window: int, grid: tuple[int, int], width: int) -> NDArray[np.float16]:
    """(L, D): a pattern that all windows share, plus what is the window's own."""
    shared = 3 * np.random.default_rng(1).normal(size=(grid[0] * grid[1], width))
    own = np.random.default_rng([3, window]).normal(size=shared.shape)
    return (shared + own).astype(np.float16)


def forecast_of(window: int, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """(T_out, C, H, W), z-scores: a teacher's forecast of window i."""
    return np.random.default_rng([5, window]).normal(size=shape).astype(np.float16)


def write_features(
    path: Path,
    windows: NDArray[np.int64],
    grid: tuple[int, int] = (2, 4),
    width: int = 6,
    forecast: tuple[int, ...] | None = None,
    made_from: dict[str, Any] | None = None,
) -> Features:
    """Features of `windows`, with statistics over all of them; forecasts of that shape too, if it is given."""
    values = np.stack([features_of(int(window), grid, width) for window in windows])
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.attrs.update({"grid": list(grid), **(made_from or {})})
    create_array(group, "features", values.shape, "float16", ["window", "token", "feature"], 1)[:] = values
    write_array(group, "window", windows, ["window"], {})
    if forecast is not None:
        forecasts = np.stack([forecast_of(int(window), forecast) for window in windows])
        dims = ["window", "lead", "variable", "row", "column"]
        create_array(group, "forecast", forecasts.shape, "float16", dims, 1)[:] = forecasts
    for name, statistic in (("target_mean", values.mean(0, np.float64)), ("target_std", values.std(0, np.float64))):
        write_array(group, name, statistic.astype(np.float32), ["token", "feature"], {})
    return Features(path)


def make_text_and_store() -> None:
    """The record and embeddings that the teacher reads, where the stages look for them."""
    store = make_store(paths.STORE, frames=60, shape=(8, 16))
    write_embeddings(paths.EMBEDDINGS, len(store.windows))


def training_params(**overrides: Any) -> Params:
    """Small models, two epochs, all three methods."""
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}
    sizes = {"spatial_width": 4, "translator_width": 8, "translator_blocks": 2, "mlp_ratio": 1.0}
    sections: dict[str, Any] = {
        "methods": ["baseline", "fitnet", "s2kd"],
        "train_teacher": training | {"sizes": {"simvp": sizes}, "fusion_heads": 2},
        "distill": training | {"sizes": {"unet": {"width": 2}}, "train_windows": 16},
        "seeds": [42],
        "runtime": {"accelerator": "cpu"},
    }
    for key, value in overrides.items():
        sections[key] = {**sections.get(key, {}), **value} if isinstance(value, dict) else value
    return tiny_params(**sections)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its name there."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
