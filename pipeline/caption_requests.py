"""Store -> what a captioner may see of each window: its input frames and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.store import Store

BLOCK_MEGABYTES = 64  # of the record, read at once


def caption_requests(store: Store, windows: NDArray[np.int64]) -> Iterator[CaptionRequest]:
    """The input frames of `windows` (ascending), as the captioner sees them.

    The record is read in blocks of consecutive frames; a request holds a copy of its own frames and nothing else.
    """
    layout, description, times = store.windows, store.description, store.times
    for block, first, record in _blocks(store, windows):
        for window in block:
            frames = layout.input_frames(window)
            context = context_of(store, frames)
            yield CaptionRequest(int(window), record[frames - first], times[frames], description, context=context)


def context_of(store: Store, frames: NDArray[np.int64]) -> tuple[str, ...]:
    """What was known at the time of each of these frames, as the record has it; empty if it has nothing."""
    return () if store.context is None else tuple(store.context[frames].tolist())


def frames_per_block(store: Store) -> int:
    """How many consecutive frames are read at once."""
    height, width = store.description.grid.shape
    return max(1, int(BLOCK_MEGABYTES * 1_000_000 // (4 * len(store.description.variables) * height * width)))


def _blocks(store: Store, windows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.float32]]]:
    """Runs of windows whose inputs lie within BLOCK_MEGABYTES of the record, at least one window each.

    Yields the windows, the first frame that was read, and the frames (time, C, H, W).
    """
    layout, frames = store.windows, frames_per_block(store)
    starts = layout.start[windows]
    begin = 0
    while begin < len(windows):
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + frames)))
        first = int(layout.input_frames(windows[begin])[0])
        yield windows[begin:end], first, store.frames(first, int(layout.input_frames(windows[end - 1])[-1]) + 1)
        begin = end
