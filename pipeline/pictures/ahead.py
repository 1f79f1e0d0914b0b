"""Worker processes that draw ahead of the model."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.errors import UserError
from pipeline.params import Picture
from pipeline.pictures.window import UndrawableError, draw
from pipeline.store import Description

AHEAD = 8  # windows that each worker may be ahead of the model


@dataclass(frozen=True)
class Drawn:
    """A request with its pictures, or with what kept them from being drawn."""

    request: CaptionRequest
    pictures: tuple[bytes, ...]
    error: str = ""


def drawn_ahead(requests: Iterable[CaptionRequest], settings: Picture, workers: int) -> Generator[Drawn, None, None]:
    """Draws in `workers` processes and yields in order, AHEAD windows a worker ahead of what is taken.

    `requests`, all of one record, are read lazily; closing the generator ends the processes. A window that
    cannot be drawn has its `error` set. Raises UserError if a process dies.
    """
    iterator = iter(requests)
    first = next(iterator, None)
    if first is None:
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(first.description, settings)
    )
    waiting: deque[tuple[CaptionRequest, Future[tuple[bytes, ...] | str]]] = deque()
    try:
        for request in chain([first], iterator):
            if request.description is not first.description:
                raise ValueError("the requests are of several records; pictures are drawn for one at a time")
            waiting.append((request, pool.submit(_drawn, request.window, request.inputs, request.times)))
            if len(waiting) > AHEAD * workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    except BrokenProcessPool:
        raise UserError(
            f"a process that draws pictures died, perhaps for want of memory; caption.workers is {workers}, "
            f"caption.picture.pixels {settings.pixels}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_shared: dict[str, Any] = {}  # what a worker was started with


def _start(description: Description, settings: Picture) -> None:
    """Once in each worker. It ends with its parent, even one that is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared.update(description=description, settings=settings)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _drawn(window: int, inputs: NDArray[np.float32], times: NDArray[np.datetime64]) -> tuple[bytes, ...] | str:
    """The pictures of a window, or what keeps them from being drawn."""
    try:
        return draw(CaptionRequest(window, inputs, times, _shared["description"]), _shared["settings"])
    except UndrawableError as error:
        return str(error)


def _finished(request: CaptionRequest, future: Future[tuple[bytes, ...] | str]) -> Drawn:
    result = future.result()
    return Drawn(request, (), result) if isinstance(result, str) else Drawn(request, result)
