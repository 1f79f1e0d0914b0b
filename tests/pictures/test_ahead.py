"""Pictures are drawn in processes, in order, and those end when they should."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import pictures
from pipeline.captioners.base import CaptionRequest
from pipeline.errors import UserError
from pipeline.params import Picture
from tests.fields import describe
from tests.pictures.waves import request

ROOT = Path(__file__).resolve().parents[2]


def test_windows_are_drawn_ahead_in_order_lazily_and_a_bad_one_costs_one_row() -> None:
    description = describe((8, 16))
    taken: list[int] = []

    def requests() -> Iterator[CaptionRequest]:
        for window in range(60):
            taken.append(window)
            of = request(window, description)
            if window == 5:
                of.inputs[0, 0, 0, 0] = np.nan
            yield of

    settings = Picture(pixels=32)
    drawn = pictures.drawn_ahead(requests(), settings, workers=2)
    assert not taken
    first = next(drawn)
    assert len(taken) <= 2 * pictures.AHEAD + 1
    found = [first, *drawn]
    assert [one.request.window for one in found] == list(range(60))
    assert not multiprocessing.active_children()
    for one in found:
        if one.request.window == 5:
            assert one.pictures == ()
            assert "input frame 1 of 3 holds 1 values of height" in one.error
        else:
            assert one.error == ""
            assert one.pictures == pictures.draw(one.request, settings)  # to the byte


def test_closing_ends_the_workers_and_no_request_starts_none() -> None:
    description = describe((8, 16))
    assert list(pictures.drawn_ahead([], Picture(), workers=1)) == []
    drawn = pictures.drawn_ahead((request(w, description) for w in range(10**6)), Picture(pixels=32), workers=1)
    next(drawn)
    assert len(multiprocessing.active_children()) == 1
    drawn.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    description = describe((8, 16))
    drawn = pictures.drawn_ahead((request(w, description) for w in range(10**6)), Picture(pixels=32), workers=2)
    next(drawn)
    child = multiprocessing.active_children()[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"process that draws pictures died.* caption.workers is 2"):
        for _ in drawn:
            pass
    assert not multiprocessing.active_children()


def test_requests_of_another_record_are_refused() -> None:
    with pytest.raises(ValueError, match="several records"):
        list(pictures.drawn_ahead([request(0), request(1)], Picture(pixels=32), workers=1))


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import multiprocessing, time\n"
        "from tests.pictures.waves import request\n"
        "from pipeline import pictures\n"
        "from pipeline.params import Picture\n"
        "drawn = pictures.drawn_ahead([request()], Picture(pixels=32), 1)\n"
        "next(drawn)\n"
        "print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by ten seconds")
