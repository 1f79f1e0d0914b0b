from __future__ import annotations

import io
import logging
import sys

import pytest

from pipeline import progress as module
from pipeline.progress import progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def walk(clock: Clock, items: int, seconds: float, done: int = 0) -> list[int]:
    seen = []
    for item in progress(range(items), "frames", done + items, "frame", done=done):
        seen.append(item)
        clock.now += seconds
    return seen


def test_without_a_terminal_a_line_comes_now_and_then_with_rate_and_time_left(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert walk(clock, 12, 5.0, done=8) == list(range(12))
    assert [record.message for record in caplog.records] == [
        "frames: 12 of 20 frames, 0.2 frames/s, 40 s left",
        "frames: 16 of 20 frames, 0.2 frames/s, 20 s left",
    ]


def test_quick_work_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    walk(clock, 10, 0.1)
    assert caplog.records == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), "frames", 5, "frame", done=2)) == [0, 1, 2]
    assert "frames" in terminal.getvalue()
    assert "2/5" in terminal.getvalue()


def test_nothing_is_swallowed() -> None:
    def failing() -> object:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(progress(failing(), "frames", 2, "frame"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("unit", "units"), [("window", "windows"), ("batch", "batches"), ("MiB", "MiB")])
def test_units_are_named_as_people_name_several(
    clock: Clock, caplog: pytest.LogCaptureFixture, unit: str, units: str
) -> None:
    caplog.set_level(logging.INFO)
    for _ in progress(range(3), "reading", 3, unit):
        clock.now += 30
    assert f"1 of 3 {units}, 0.0333 {units}/s" in caplog.text
