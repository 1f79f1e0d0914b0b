"""Store windows -> captioner -> rows of captions.parquet, with finished captions kept on the way."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import captions
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.store import Store
from pipeline.work import Work

ROWS_PER_PART = 256
BLOCK_MEGABYTES = 64  # of the record, read at once
FAILURES = ("empty", "refused", "failed")

log = logging.getLogger(__name__)


def requests(store: Store, windows: NDArray[np.int64]) -> Iterator[CaptionRequest]:
    """The input frames of `windows` (ascending), as the captioner sees them.

    The record is read in blocks of consecutive frames; a request holds a copy of its own frames and nothing else.
    """
    layout, description, times = store.windows, store.description, store.times
    for block in _blocks(store, windows):
        first = int(layout.input_frames(block[0])[0])
        record = store.frames(first, int(layout.input_frames(block[-1])[-1]) + 1)
        for window in block:
            frames = layout.input_frames(window)
            yield CaptionRequest(int(window), record[frames - first], times[frames], description)


def _blocks(store: Store, windows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Runs of windows whose inputs lie within BLOCK_MEGABYTES of the record; at least one window each."""
    height, width = store.description.grid.shape
    frame_bytes = 4 * len(store.description.variables) * height * width
    frames = BLOCK_MEGABYTES * 1_000_000 // frame_bytes
    starts = store.windows.start[windows]
    begin = 0
    while begin < len(windows):
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + frames)))
        yield windows[begin:end]
        begin = end


class Captioning:
    """One run of a captioner over a store's windows.

    Captions that came out well are kept in the work's parts and not asked for again; failed ones are, since
    a server may be back.
    """

    def __init__(self, captioner: Captioner, name: str, work: Work) -> None:
        """`name`: the captioner's name in its table."""
        self.captioner = captioner
        self.work = work
        self.max_words = captioner.settings.max_words
        self.max_failed_share = captioner.settings.max_failed_share
        self._origin = {
            "captioner": name,
            "model": captioner.model,
            "prompt_hash": hashlib.sha256(captioner.prompt.encode()).hexdigest(),
        }
        self._pending: dict[int, dict[str, object]] = {}  # asked for, not yet answered: what is known of the input

    def tables(self, store: Store) -> list[pa.Table]:
        """Every window's row, in no order. Raises UserError if more than the allowed share failed."""
        parts = sorted(self.work.folder.glob("*.parquet"))
        kept = [pq.read_table(part) for part in parts]
        done = {window for table in kept for window in table["window"].to_pylist()}
        total = len(store.windows)
        missing = np.setdiff1d(np.arange(total), np.array(sorted(done), dtype=np.int64))
        rows = self._rows(requests(store, missing), int(self.max_failed_share * total))
        rows = progress(rows, "captions", total, "caption", done=len(done))
        failed: list[dict[str, object]] = []
        while batch := list(islice(rows, ROWS_PER_PART)):
            failed += [row for row in batch if row["status"] in FAILURES]
            good = pa.Table.from_pylist([row for row in batch if row["status"] not in FAILURES], captions.SCHEMA)
            with self.work.part(f"{len(kept):08d}.parquet") as path:
                pq.write_table(good, path)
            kept.append(good)
        if failed:
            log.warning("%d of %d captions failed; the first: %s", len(failed), total, failed[0]["reason"])
        return [*kept, pa.Table.from_pylist(failed, captions.SCHEMA)]

    def _rows(self, asked: Iterable[CaptionRequest], failures_allowed: int) -> Iterator[dict[str, object]]:
        failures = 0
        for caption in self.captioner.captions(self._noted(asked)):
            row = self._row(caption)
            failures += row["status"] in FAILURES
            if failures > failures_allowed:
                share = f"caption.max_failed_share = {self.max_failed_share:g} allows {failures_allowed}"
                raise UserError(
                    f"captioner '{self._origin['captioner']}' failed on {failures} windows, {share}; "
                    f"the last, window {caption.window}: {row['reason']}"
                )
            yield row
        if self._pending:
            raise RuntimeError(f"captioner '{self._origin['captioner']}' lost windows {sorted(self._pending)[:10]}")

    def _noted(self, asked: Iterable[CaptionRequest]) -> Iterator[CaptionRequest]:
        """Passes requests on and keeps what their rows will say of the input."""
        for request in asked:
            frames = np.ascontiguousarray(request.inputs, dtype="<f4")
            self._pending[request.window] = {
                "input_hash": hashlib.sha256(frames.tobytes()).hexdigest(),
                "t_start": request.times[0].astype("datetime64[ms]").item(),
                "t_end": request.times[-1].astype("datetime64[ms]").item(),
            }
            yield request

    def _row(self, caption: Caption) -> dict[str, object]:
        if caption.window not in self._pending:
            name = self._origin["captioner"]
            raise RuntimeError(f"captioner '{name}' answered for window {caption.window} twice or unasked")
        text, status, reason = self._settled(caption)
        row = {"window": caption.window, "caption": text, "status": status, "reason": captions.clean(reason)}
        return row | self._origin | self._pending.pop(caption.window)

    def _settled(self, caption: Caption) -> tuple[str, str, str]:
        """The caption's text, status and reason after cleaning and cutting."""
        if caption.status in FAILURES:
            return "", caption.status, caption.reason
        text = captions.clean(caption.text)
        if not text:
            return "", "empty", caption.reason or "no text was left after cleaning"
        shorter = captions.cut(text, self.max_words)
        if shorter != text:
            return shorter, "truncated", f"{len(text.split())} words, {self.max_words} allowed"
        return text, caption.status, caption.reason
