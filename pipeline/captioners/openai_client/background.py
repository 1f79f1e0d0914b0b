"""Coroutines that run beside a synchronous generator: an event loop in a thread, results as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own; with the context, both end, and all that runs in them."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="captioner", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_wound_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def as_finished(
    loop: asyncio.AbstractEventLoop, jobs: Iterable[Coroutine[Any, Any, Result]], ahead: int
) -> Generator[Result, None, None]:
    """Runs `jobs` in `loop` and yields what they return, in the order in which they finish.

    `jobs` is advanced by the caller's own thread, as what lies behind it may be bound to that, and lazily: at most
    `ahead` of them are taken and not yet yielded. What has finished is yielded before another is taken, unless fewer
    than half as many are under way. A job's exception is raised here. When the generator ends or is closed, the jobs
    under way are cancelled and waited for.
    """
    finished: SimpleQueue[Future[Result]] = SimpleQueue()
    taken = 0

    try:
        for job in jobs:
            asyncio.run_coroutine_threadsafe(job, loop).add_done_callback(finished.put)
            taken += 1
            while taken >= ahead or (finished.qsize() and taken - finished.qsize() >= ahead // 2):
                taken -= 1
                yield finished.get().result()
        while taken:
            taken -= 1
            yield finished.get().result()
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()


async def _wound_up() -> None:
    await _cancel_others()
    await asyncio.get_running_loop().shutdown_default_executor()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
