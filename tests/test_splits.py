"""Segments, blocks and windows, against brute force over many sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.splits import (
    NONE,
    by_dates,
    by_fractions,
    by_name,
    by_simulation,
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
) -> tuple[int, NDArray[np.int32], NDArray[np.int8], NDArray[np.int64], NDArray[np.int8]]:
    span = span_of(count, step)
    segment, _ = segments(seconds)
    of_frame = by_fractions(len(seconds), span, fractions)
    start, split = windows(segment, of_frame, span, stride)
    return span, segment, of_frame, start, split


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
        span, segment, of_frame, start, split = planned(seconds, count, step, 1, fractions)
        expected = [
            (first, of_frame[first])
            for first in range(len(seconds) - span + 1)
            if segment[first] == segment[first + span - 1] and set(of_frame[first : first + span]) in ({0}, {1}, {2})
        ]
        assert list(zip(start, split, strict=True)) == expected


def test_windows_are_numbered_by_position_and_keep_the_stride_within_a_run() -> None:
    for seconds, count, step, stride, fractions in random_records(60):
        _, segment, _, start, split = planned(seconds, count, step, stride, fractions)
        assert (np.diff(start) > 0).all()
        assert (np.diff(split) >= 0).all()
        same_run = (np.diff(segment[start]) == 0) & (np.diff(split) == 0)
        assert (np.diff(start)[same_run] == stride).all()


def runs(of_frame: NDArray[np.int8]) -> list[tuple[int, int]]:
    """(split, length) of each stretch of one split."""
    return [(int(split), len(list(group))) for split, group in itertools.groupby(of_frame)]


def test_the_splits_have_the_asked_fractions_of_what_the_gaps_leave() -> None:
    found = runs(by_fractions(1020, 10, (0.7, 0.15, 0.15)))
    assert found == [(0, 700), (NONE, 10), (1, 150), (NONE, 10), (2, 150)]


PERIODS = {
    "train": (np.datetime64("1979"), np.datetime64("1981")),
    "validation": (np.datetime64("1981"), np.datetime64("1982")),
    "test": (np.datetime64("1983"), np.datetime64("1984")),
}
DAYS = np.arange("1978-01-01", "1985-01-01", dtype="datetime64[D]").astype("datetime64[s]")


def test_years_as_splits_are_whole_but_for_a_window_before_a_split_that_follows_at_once() -> None:
    of_frame = by_dates(DAYS, 8, PERIODS)
    lengths = [(NONE, 365), (0, 731 - 8), (NONE, 8), (1, 365), (NONE, 365), (2, 365), (NONE, 366)]
    assert runs(of_frame) == lengths
    assert DAYS[of_frame == 2][[0, -1]].astype(str).tolist() == ["1983-01-01T00:00:00", "1983-12-31T00:00:00"]


def test_a_test_period_before_the_training_period_keeps_its_distance_too() -> None:
    periods = {"train": PERIODS["validation"], "validation": PERIODS["test"], "test": PERIODS["train"]}
    assert runs(by_dates(DAYS, 5, periods))[:4] == [(NONE, 365), (2, 731 - 5), (NONE, 5), (0, 365)]


def test_a_period_outside_of_the_record_is_named() -> None:
    late = PERIODS | {"test": (np.datetime64("2017"), np.datetime64("2019"))}
    with pytest.raises(UserError, match=r"ingest.splits.test from 2017 up to 2019 holds no frame.*1978-01-01"):
        by_dates(DAYS, 8, late)


def test_simulations_are_shared_out_whole_and_unseen_ones_go_to_test() -> None:
    lengths = np.random.default_rng(0).integers(3, 9, 25)
    simulation = np.repeat(np.arange(25), lengths)
    unseen = np.arange(25) % 6 == 5
    left_out = np.arange(25) == 3
    of_frame = by_simulation(simulation, ~unseen & ~left_out, unseen, (0.6, 0.2, 0.2))
    of_simulation = [set(of_frame[simulation == number]) for number in range(25)]
    assert all(len(found) == 1 for found in of_simulation)
    chosen = np.array([found.pop() for found in of_simulation])
    assert (chosen[unseen] == 2).all()
    assert chosen[3] == NONE
    shares = np.bincount(chosen[~unseen & ~left_out], minlength=3) / 20
    np.testing.assert_allclose(shares, (0.6, 0.2, 0.2), atol=1 / 20)
    assert chosen[:5].tolist() == [0, 1, 0, NONE, 2]  # spread over the order, not one split after the other


def test_a_data_sets_own_splits_are_taken_and_a_foreign_name_is_refused() -> None:
    assert by_name(["train", "", "test", "validation"]).tolist() == [0, NONE, 2, 1]
    with pytest.raises(UserError, match="a split 'val'; allowed are train, validation, test"):
        by_name(["train", "val"])


def test_a_segment_starts_where_the_source_marks_one() -> None:
    segment, usual = segments(np.arange(6) * 500, np.array([4, 4, 4, 7, 7, 4]))
    assert (segment.tolist(), usual) == ([0, 0, 0, 1, 1, 2], 500)


def test_the_number_of_frames_said_to_be_needed_is_the_smallest_that_works() -> None:
    for span, fractions in itertools.product(range(1, 40), FRACTIONS):
        needed = frames_needed(span, fractions)
        of_frame = by_fractions(needed, span, fractions)
        assert min(np.bincount(of_frame[of_frame != NONE], minlength=3)) >= span
        with pytest.raises(UserError, match=f"has {needed - 1} frames.*at least {needed}"):
            by_fractions(needed - 1, span, fractions)


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
