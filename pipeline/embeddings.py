"""The token embeddings of the captions: written once by `embed`, read by the teacher's windows.

`data/embed/multimodal/embeddings.zarr`:

    tokens (caption, token, feature) float16   zeros where the mask is False
    mask (caption, token) bool                 True where there is a token
    caption_of_window (window) int32           windows with the same caption share one embedding

Captions are numbered by their first window, so windows near in time lie near on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from pipeline import paths
from pipeline.errors import UserError
from pipeline.mapped import map_array
from pipeline.params import Modality
from pipeline.store import consolidate, create_array, open_group, rows_per_shard, shard_is_written

FORMAT = "s2kd-embeddings/1"
CAPTIONS_PER_CHUNK = 4
SHARD_MEGABYTES = 50

Encode = Callable[[Sequence[str]], tuple[NDArray[np.float32], NDArray[np.bool_]]]


class Embeddings:
    """Token embeddings by window, opened for reading."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if `path` is missing or not such a store."""
        group = open_group(path)
        if group.attrs.get("format") != FORMAT:
            raise UserError(f"{path} is not a store of format {FORMAT} but {group.attrs.get('format')!r}; embed again")
        self.origin: dict[str, Any] = dict(group.attrs)  # the captions and the encoder
        self._tokens = map_array("tokens", path, cast("zarr.Array[Any]", group["tokens"]))
        self._mask = np.asarray(cast("zarr.Array[Any]", group["mask"])[:])
        self._captions = np.asarray(cast("zarr.Array[Any]", group["caption_of_window"])[:])

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._captions)

    @property
    def dimension(self) -> int:
        """Width of a token's embedding, d_text."""
        return int(self._tokens.shape[2])

    def tokens(self, windows: ArrayLike) -> NDArray[np.float16]:
        """(B, L, d_text) embeddings of the windows' captions, zeros where there is no token."""
        return np.asarray(self._tokens[self._captions[np.asarray(windows)]])

    def mask(self, windows: ArrayLike) -> NDArray[np.bool_]:
        """(B, L) True where there is a token."""
        return self._mask[self._captions[np.asarray(windows)]]


def read_by(modality: str) -> Embeddings | None:
    """What a teacher reads beside the fields, None for the one without text; UserError for an unknown modality."""
    if modality not in get_args(Modality):
        raise UserError(f"modality = '{modality}' is not known; known: {', '.join(get_args(Modality))}")
    return Embeddings(paths.EMBEDDINGS) if modality == "multimodal" else None


def distinct(captions: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct captions in order of their first window, and each window's caption number."""
    numbers: dict[str, int] = {}
    of_window = [numbers.setdefault(caption, len(numbers)) for caption in captions]
    return list(numbers), np.array(of_window, dtype=np.int32)


def create(
    path: Path, lengths: NDArray[np.int64], dimension: int, of_window: NDArray[np.int32], attributes: dict[str, Any]
) -> None:
    """Creates the store with empty embeddings, or leaves a whole one that is there as it is.

    `lengths`: tokens of each distinct caption, as stored; the longest sets the token axis.
    `attributes`: what the embeddings came from.
    """
    if (path / "zarr.json").exists() and zarr.open_group(path, mode="r").metadata.consolidated_metadata:
        return  # consolidated last, so all is there
    group = zarr.open_group(path, mode="w")
    shape = (len(lengths), int(lengths.max()))
    dims = ("caption", "token", "feature")
    tokens = create_array(group, "tokens", (*shape, dimension), "float16", dims, CAPTIONS_PER_CHUNK, SHARD_MEGABYTES)
    mask = create_array(group, "mask", shape, "bool", dims[:2], rows_per_shard(tokens), SHARD_MEGABYTES)
    mask[:] = np.arange(shape[1]) < lengths[:, None]
    windows = create_array(group, "caption_of_window", of_window.shape, "int32", ("window",), len(of_window))
    windows[:] = of_window
    group.attrs.update({"format": FORMAT, **attributes})
    consolidate(group)


def fill(path: Path, texts: Sequence[str], encode: Encode, batch_size: int) -> Iterator[int]:
    """Embeds `texts` shard by shard into the store at `path`, yielding each text's number once it is embedded.

    Shards already on the disk are kept. Within a shard, texts of similar length are encoded together, so
    that little is spent on padding. Raises UserError for an encoder whose values float16 cannot hold.
    """
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    array = cast("zarr.Array[Any]", group["tokens"])
    mask = np.asarray(cast("zarr.Array[Any]", group["mask"])[:])
    rows = rows_per_shard(array)
    for index, start in enumerate(range(0, len(texts), rows)):
        numbers = np.arange(start, min(start + rows, len(texts)))
        if shard_is_written(array, path, index):
            yield from numbers.tolist()
            continue
        shard = np.zeros((len(numbers), *array.shape[1:]), dtype=np.float16)
        by_length = numbers[np.argsort(mask[numbers].sum(axis=1), kind="stable")]
        for batch in np.split(by_length, range(batch_size, len(numbers), batch_size)):
            shard[batch - start] = _encode([texts[number] for number in batch], mask[batch], array.shape[2], encode)
            yield from batch.tolist()
        array[start : start + len(numbers)] = shard


def _encode(texts: Sequence[str], mask: NDArray[np.bool_], dimension: int, encode: Encode) -> NDArray[np.float16]:
    """(B, L, d_text) embeddings of one batch, padded to the store's L."""
    tokens, present = encode(texts)
    width = tokens.shape[1]
    if not np.array_equal(present, mask[:, :width]) or mask[:, width:].any():
        raise RuntimeError(f"the encoder gave {present.sum(axis=1)} tokens where {mask.sum(axis=1)} were announced")
    result = np.zeros((*mask.shape, dimension), dtype=np.float16)
    with np.errstate(over="ignore"):
        result[:, :width] = tokens
    if not np.isfinite(result).all():
        raise UserError("the text encoder gives values that float16 cannot hold (above 65504); choose another model")
    return result
