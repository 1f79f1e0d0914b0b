"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20.0
PLURALS = {"batch": "batches", "MiB": "MiB"}  # of units that take no s


def progress(items: Iterable[Item], label: str, total: int, unit: str, done: int = 0) -> Iterator[Item]:
    """Passes `items` through and reports how many of `total` are done, the rate and the time left.

    `done`: how many of `total` an earlier run had finished.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, unit=unit, initial=done, leave=False)
        return
    units = PLURALS.get(unit, f"{unit}s")
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done + count < total:
            last = now
            rate = count / (now - start)
            left = (total - done - count) / rate
            log.info("%s: %d of %d %s, %.3g %s/s, %.0f s left", label, done + count, total, units, rate, units, left)
