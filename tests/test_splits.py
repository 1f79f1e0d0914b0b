"""Segments, blocks and windows, against brute force over many sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.splits import (
    Block,
    blocks,
    check_every_split,
    frames_needed,
    frames_of,
    frames_read,
    segments,
    span_of,
    windows,
)

FRACTIONS = ((0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.1, 0.1), (0.34, 0.33, 0.33), (0.2, 0.2, 0.6))


Case = tuple[NDArray[np.int64], int, int, int, tuple[float, float, float]]


def random_records(count: int) -> Iterator[Case]:
    """(seconds, frames of a window, step, stride, fractions): hourly records with gaps at random places."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        frames = int(rng.integers(200, 400))
        gaps = rng.random(frames) < rng.choice([0, 0.005, 0.03])
        seconds = np.cumsum(np.where(gaps, 3600 * rng.integers(2, 50, frames), 3600))
        count_step_stride = (int(rng.integers(2, 7)), int(rng.integers(1, 4)), int(rng.integers(1, 6)))
        yield seconds, *count_step_stride, FRACTIONS[rng.integers(len(FRACTIONS))]


def planned(
    seconds: NDArray[np.int64], count: int, step: int, stride: int, fractions: tuple[float, float, float]
) -> tuple[int, NDArray[np.int32], tuple[Block, ...], NDArray[np.int64], NDArray[np.int8]]:
    span = span_of(count, step)
    segment, _ = segments(seconds)
    parts = blocks(len(seconds), span, fractions)
    start, split = windows(segment, parts, span, stride)
    return span, segment, parts, start, split


def test_no_window_crosses_a_gap() -> None:
    seen = 0
    for seconds, count, step, stride, fractions in random_records(150):
        span, _, _, start, _ = planned(seconds, count, step, stride, fractions)
        for first in start:
            times = seconds[first : first + span]
            assert (np.diff(times) == 3600).all()
            assert len(times) == span
            seen += 1
    assert seen > 1000


def test_splits_share_no_frame_and_lie_a_window_apart() -> None:
    for seconds, count, step, stride, fractions in random_records(150):
        span, _, _, start, split = planned(seconds, count, step, stride, fractions)
        last_of: dict[int, int] = {}
        for number in (0, 1, 2):
            mine = start[split == number]
            if len(mine) == 0:
                continue
            for earlier, last in last_of.items():
                assert earlier < number
                assert mine.min() - last - 1 >= span  # frames between that neither split reads
            last_of[number] = mine.max() + span - 1


def test_the_windows_are_all_that_brute_force_finds() -> None:
    for seconds, count, step, _, fractions in random_records(60):
        span, segment, parts, start, split = planned(seconds, count, step, 1, fractions)
        expected = [
            (first, number)
            for number, (begin, end) in enumerate(parts)
            for first in range(begin, end - span + 1)
            if segment[first] == segment[first + span - 1]
        ]
        assert list(zip(start, split, strict=True)) == expected


def test_windows_are_numbered_by_position_and_keep_the_stride_within_a_run() -> None:
    for seconds, count, step, stride, fractions in random_records(60):
        _, segment, _, start, split = planned(seconds, count, step, stride, fractions)
        assert (np.diff(start) > 0).all()
        assert (np.diff(split) >= 0).all()
        same_run = (np.diff(segment[start]) == 0) & (np.diff(split) == 0)
        assert (np.diff(start)[same_run] == stride).all()


def test_the_blocks_have_the_asked_fractions_of_what_the_gaps_leave() -> None:
    parts = blocks(1020, 10, (0.7, 0.15, 0.15))
    assert parts == ((0, 700), (710, 860), (870, 1020))


def test_the_number_of_frames_said_to_be_needed_is_the_smallest_that_works() -> None:
    for span, fractions in itertools.product(range(1, 40), FRACTIONS):
        needed = frames_needed(span, fractions)
        lengths = [end - begin for begin, end in blocks(needed, span, fractions)]
        assert min(lengths) >= span
        with pytest.raises(UserError, match=f"has {needed - 1} frames.*at least {needed}"):
            blocks(needed - 1, span, fractions)


def test_a_segment_starts_wherever_the_spacing_is_not_the_usual_one() -> None:
    seconds = np.array([0, 6, 12, 18, 42, 48, 54, 55, 61])
    segment, usual = segments(seconds)
    assert usual == 6
    assert segment.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_a_window_reads_every_step_th_frame_of_its_span() -> None:
    assert frames_of(np.array([3]), 4, 2).tolist() == [[3, 5, 7, 9]]
    assert span_of(4, 2) == 7
    read = frames_read(np.array([0, 5]), 2, 3, 10)
    assert np.flatnonzero(read).tolist() == [0, 3, 5, 8]


def test_a_split_without_a_window_is_named_with_the_longest_run() -> None:
    segment = np.repeat([0, 1, 2], [50, 4, 4]).astype(np.int32)
    with pytest.raises(UserError, match=r"no window of 6 frames lies in validation and test.*3 segments.*of 50 frames"):
        check_every_split(np.zeros(5, np.int8), segment, 6)
