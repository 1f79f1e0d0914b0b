"""Where windows may lie: segments without a gap in time, the split of every frame, and the windows in them.

Pure numpy. A window spans `(t_in + t_out - 1) * step + 1` frames of the record. It lies in one segment and in
one split, so it never crosses a gap, a simulation or a split.

The split of each frame is its position in `SPLITS`, or `NONE` for frames that are left out. It is decided by
fractions of the record (`by_fractions`), by dates (`by_dates`), by whole simulations (`by_simulation`), or by
the data set itself (`by_name`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.store import SPLITS

NONE = -1
TRAIN, VALIDATION, TEST = range(3)


def span_of(frames: int, step: int) -> int:
    """Record frames from a window's first frame to its last, both counted; `frames` is t_in + t_out."""
    return (frames - 1) * step + 1


def segments(
    milliseconds: NDArray[np.int64], marked: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.int32], int]:
    """(time,) number of the segment each frame lies in, and the record's spacing in milliseconds.

    The spacing is the most frequent one (the smallest of several); where another occurs, or the source's own
    mark changes, a new segment starts. `milliseconds` ascend and are at least two.
    """
    spacing = np.diff(milliseconds)
    values, counts = np.unique(spacing, return_counts=True)
    usual = int(values[np.argmax(counts)])
    begins = spacing != usual
    if marked is not None:
        begins |= np.diff(marked) != 0
    return np.concatenate([[0], np.cumsum(begins)]).astype(np.int32), usual


def by_fractions(frames: int, span: int, fractions: tuple[float, float, float]) -> NDArray[np.int8]:
    """(time,) training, validation and test: contiguous in time, in this order, `span` frames left out between them.

    The fractions are of the frames that remain without those two gaps. Raises UserError if a part would be
    shorter than one window.
    """
    needed = frames_needed(span, fractions)
    if frames < needed:
        raise UserError(
            f"the record has {frames} frames; one window of {span} frames in each of train, validation and test, "
            f"with {span} frames left out between them, needs at least {needed}"
        )
    lengths = _lengths(frames - 2 * span, fractions)
    pieces = [(TRAIN, lengths[0]), (NONE, span), (VALIDATION, lengths[1]), (NONE, span), (TEST, lengths[2])]
    return np.concatenate([np.full(length, split, np.int8) for split, length in pieces])


def frames_needed(span: int, fractions: tuple[float, float, float]) -> int:
    """The fewest frames without a gap that give every split one window."""
    usable = math.floor(span / min(fractions))
    while min(_lengths(usable, fractions)) < span:
        usable += 1
    return usable + 2 * span


def by_dates(
    times: NDArray[np.datetime64], span: int, periods: Mapping[str, tuple[np.datetime64, np.datetime64]]
) -> NDArray[np.int8]:
    """(time,) the split whose period [first, end) holds the frame. Periods do not overlap.

    Where one split follows another at once, the last frames of the earlier one are left out, so that at least
    `span` frames lie between them: a test year stays whole. Raises UserError if a period holds no frame.
    """
    split = np.full(len(times), NONE, np.int8)
    for name, (first, end) in periods.items():
        inside = (times >= first) & (times < end)
        if not inside.any():
            raise UserError(
                f"ingest.splits.{name} from {first} up to {end} holds no frame of the record, "
                f"which goes from {times[0]} to {times[-1]}"
            )
        split[inside] = SPLITS.index(name)
    given = np.flatnonzero(split != NONE)
    for before, after in itertools.pairwise(given):
        if split[before] != split[after]:
            split[max(0, after - span) : after] = NONE
    return split


def by_simulation(
    simulation: NDArray[np.integer],
    seen: NDArray[np.bool_],
    unseen: NDArray[np.bool_],
    fractions: tuple[float, float, float],
) -> NDArray[np.int8]:
    """(time,) whole simulations: unseen ones to test, seen ones shared out by the fractions, others left out.

    simulation: (time,) their numbers from 0. seen, unseen: (simulation,). Each seen one in turn goes to the split
    that is furthest behind its share, which spreads every split evenly over their order, that is over the
    environments.
    """
    chosen = np.where(unseen, TEST, NONE).astype(np.int8)
    behind = np.zeros(len(SPLITS))
    for number in np.flatnonzero(seen):
        behind += fractions
        chosen[number] = np.argmax(behind)
        behind[chosen[number]] -= 1
    return chosen[simulation]


def by_name(names: Sequence[str] | NDArray[Any]) -> NDArray[np.int8]:
    """(time,) the splits as the data set names them; "" is none. Raises UserError for another name."""
    known: dict[str, int] = {"": NONE} | {name: number for number, name in enumerate(SPLITS)}
    found, inverse = np.unique(np.asarray(names), return_inverse=True)
    foreign = [str(name) for name in found if str(name) not in known]
    if foreign:
        raise UserError(f"the data set names a split '{foreign[0]}'; allowed are {', '.join(SPLITS)}")
    return np.array([known[str(name)] for name in found], np.int8)[inverse]


def windows(
    segment: NDArray[np.int32], split: NDArray[np.int8], span: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """(window,) first frame and split of every window, in order of time.

    Each run of frames of one segment and one split holds windows from its first frame on, `stride` apart.
    """
    edges = np.flatnonzero((np.diff(segment) != 0) | (np.diff(split) != 0)) + 1
    runs = zip([0, *edges], [*edges, len(segment)], strict=True)
    starts = [np.arange(first, end - span + 1, stride, dtype=np.int64) for first, end in runs if split[first] != NONE]
    start = np.concatenate(starts) if starts else np.empty(0, np.int64)
    return start, split[start]


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
