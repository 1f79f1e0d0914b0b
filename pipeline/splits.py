"""Where windows may lie: segments without a gap in time, blocks for the splits, and the windows in them.

Pure numpy. A window spans `(t_in + t_out - 1) * step + 1` frames of the record. It lies in one segment and in
one block, so it never crosses a gap or a split.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.store import SPLITS

Block = tuple[int, int]  # first frame, one past the last frame


def span_of(frames: int, step: int) -> int:
    """Record frames from a window's first frame to its last, both counted; `frames` is t_in + t_out."""
    return (frames - 1) * step + 1


def segments(seconds: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """(time,) number of the segment each frame lies in, and the record's spacing in seconds.

    The spacing is the most frequent one (the smallest of several); where another occurs, a new segment starts.
    `seconds` ascend and are at least two.
    """
    spacing = np.diff(seconds)
    values, counts = np.unique(spacing, return_counts=True)
    usual = int(values[np.argmax(counts)])
    return np.concatenate([[0], np.cumsum(spacing != usual)]).astype(np.int32), usual


def blocks(frames: int, span: int, fractions: tuple[float, float, float]) -> tuple[Block, Block, Block]:
    """Training, validation and test: contiguous in time, in this order, `span` frames left out between them.

    The fractions are of the frames that remain without those two gaps. Raises UserError if a block would be
    shorter than one window.
    """
    needed = frames_needed(span, fractions)
    if frames < needed:
        raise UserError(
            f"the record has {frames} frames; one window of {span} frames in each of train, validation and test, "
            f"with {span} frames left out between them, needs at least {needed}"
        )
    train, validation, _ = _lengths(frames - 2 * span, fractions)
    validation_start = train + span
    test_start = validation_start + validation + span
    return (0, train), (validation_start, validation_start + validation), (test_start, frames)


def frames_needed(span: int, fractions: tuple[float, float, float]) -> int:
    """The fewest frames without a gap that give every split one window."""
    usable = math.floor(span / min(fractions))
    while min(_lengths(usable, fractions)) < span:
        usable += 1
    return usable + 2 * span


def windows(
    segment: NDArray[np.int32], parts: tuple[Block, ...], span: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """(window,) first frame and split (its position in `parts`) of every window, in order of time.

    Within each block, each run of frames of one segment holds windows from its first frame on, `stride` apart.
    """
    starts: list[NDArray[np.int64]] = []
    splits: list[NDArray[np.int8]] = []
    for number, (first, end) in enumerate(parts):
        for start, stop in _runs(segment, first, end):
            found = np.arange(start, stop - span + 1, stride, dtype=np.int64)
            starts.append(found)
            splits.append(np.full(len(found), number, dtype=np.int8))
    return np.concatenate(starts), np.concatenate(splits)


def check_every_split(split: NDArray[np.int8], segment: NDArray[np.int32], span: int, reason: str = "") -> None:
    """Raises UserError, saying why, if a split has no window."""
    counts = np.bincount(split, minlength=len(SPLITS))
    empty = [name for name, count in zip(SPLITS, counts, strict=True) if count == 0]
    if empty:
        lengths = np.bincount(segment)
        raise UserError(
            f"no window of {span} frames lies in {' and '.join(empty)}: the record of {len(segment)} frames has "
            f"{len(lengths)} segments without a gap, the longest of {lengths.max()} frames{reason}; "
            "lower ingest.t_in, t_out or step, or fetch a longer record"
        )


def frames_read(start: NDArray[np.int64], frames: int, step: int, record: int) -> NDArray[np.bool_]:
    """(time,) True for each of the `record` frames that one of the windows reads."""
    read = np.zeros(record, dtype=bool)
    read[frames_of(start, frames, step)] = True
    return read


def frames_of(start: NDArray[np.int64], frames: int, step: int) -> NDArray[np.int64]:
    """(window, frames) the record frames of each window."""
    return start[:, None] + step * np.arange(frames)


def deranged(split: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int64]:
    """(window,) another window of the same split for each: in each split one random cycle through all its windows."""
    result = np.arange(len(split))
    for number in np.unique(split):
        order = rng.permutation(np.flatnonzero(split == number))
        result[order] = np.roll(order, 1)
    return result


def _lengths(usable: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    train, validation = (math.floor(usable * fraction + 1e-9) for fraction in fractions[:2])
    return train, validation, usable - train - validation


def _runs(segment: NDArray[np.int32], first: int, end: int) -> list[Any]:
    """The (start, stop) of each stretch of equal numbers in segment[first:end]."""
    edges = first + 1 + np.flatnonzero(np.diff(segment[first:end]))
    return list(zip([first, *edges], [*edges, end], strict=True))
