"""Who does the work: threads of this process, or the workers of a Dask scheduler, known by its address.

A job that was lost with its worker is given to another one by the scheduler. Jobs must therefore give the same when
they are repeated, also while a worker that was only thought lost is still at them.
"""

from __future__ import annotations

import logging
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline.errors import UserError

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as RemoteFuture

MOST_THREADS = 4  # each holds a shard in memory
SECONDS_TO_CONNECT = 10  # to a scheduler, and for its first worker to appear
SECONDS_WITHOUT_WORKER = 60
KEY = "runtime.dask_scheduler"
GOES_ON = "the next run goes on from the last checkpoint"


class Job(Protocol):
    def result(self) -> Any:
        """Waits for the job; raises what it raised."""


class Workers(NamedTuple):
    """submit(work, *arguments) -> Job; `in_hand()` is how many jobs keep all of them busy."""

    submit: Callable[..., Job]
    in_hand: Callable[[], int]


@contextmanager
def workers(scheduler: str | None, code: Iterable[str], folder: Path) -> Iterator[Workers]:
    """Threads, or the workers at the address `scheduler`.

    code: file names of this package that a job needs, the same on each worker. folder: one that each must see.
    Raises UserError for a scheduler or workers that are not there, get lost, or have not that code or folder.
    """
    if scheduler is None:
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads) as executor:
            yield Workers(executor.submit, lambda: 2 * threads)
        return
    with _connected(scheduler) as client:
        _check(client, scheduler, code, folder.absolute())
        yield Workers(
            submit=lambda work, *arguments: _RemoteJob(client, client.submit(work, *arguments, pure=False), scheduler),
            in_hand=lambda: max(2, 2 * sum(client.nthreads().values())),
        )


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    from distributed import Client
    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError

    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise UserError(f"{KEY}: no Dask scheduler answers at '{scheduler}': {error}") from None
    try:
        yield client
    except (CancelledError, CommClosedError, ClosedClientError):
        for name in ("distributed", "distributed.client", "distributed.utils", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # vain attempts to connect again, with tracebacks
        raise UserError(f"{KEY}: the Dask scheduler at '{scheduler}' was lost; {GOES_ON}") from None
    finally:
        client.close()


def _check(client: Client, scheduler: str, code: Iterable[str], folder: Path) -> None:
    """Raises UserError unless there are workers that have our code and see our folder."""
    try:
        client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
    except TimeoutError:
        raise UserError(f"{KEY}: the Dask scheduler at '{scheduler}' has no workers") from None
    for file in code:
        found = client.run(pkgutil.get_data, __package__, file, on_error="return")
        for worker, content in found.items():
            if content != pkgutil.get_data(__package__, file):
                what = "cannot import" if isinstance(content, Exception) else "has another version of"
                raise UserError(
                    f"{KEY}: the worker {worker} {what} {__package__}/{file}; start workers in the "
                    "root of the same checkout, or with PYTHONPATH set to it"
                )
    for worker, seen in client.run(os.path.isdir, str(folder)).items():
        if not seen:
            raise UserError(
                f"{KEY}: the worker {worker} does not see the folder {folder}; workers need the "
                "checkout's files under the same path"
            )


@dataclass(frozen=True)
class _RemoteJob:
    client: Client
    future: RemoteFuture[Any]
    scheduler: str

    def result(self) -> Any:
        from distributed import KilledWorker

        while not self._ended():
            if not self.client.nthreads():
                raise UserError(f"{KEY}: the Dask scheduler at '{self.scheduler}' has lost all its workers; {GOES_ON}")
        try:
            return self.future.result()
        except KilledWorker as error:
            raise UserError(
                f"{KEY}: workers at '{self.scheduler}' end at this job, for want of memory?: {error}"
            ) from None

    def _ended(self) -> bool:
        from distributed import wait

        try:
            wait(self.future, timeout=SECONDS_WITHOUT_WORKER)
        except TimeoutError:
            return False
        return True
