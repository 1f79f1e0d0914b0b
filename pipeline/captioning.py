"""Store windows -> captioner -> rows of captions.parquet.

Windows are asked for in rounds: all that lack an answer first, then, with another seed, those whose caption was
bad. Each answer goes into the log at once (`pipeline/answers.py`); the rows are made from the log at the end, so
they do not depend on how often the run was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import captions, guard, paths
from pipeline.answers import Answer, Answers
from pipeline.caption_requests import caption_requests, context_of, frames_per_block
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.store import Store
from pipeline.work import fingerprint, locked, replacing

ROWS_PER_BLOCK = 4096  # of the table, made at once
KEY_BYTES = 16  # of a SHA-256: enough to tell captions apart
KEPT = "kept"  # the judge of captions that were good in a table
GOOD, USABLE, BAD = 2, 1, 0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What one window's caption is made from, as digests."""

    window: int
    key: bytes  # of all that is put to the captioner
    input_hash: str  # SHA-256 of the SHA-256 of each input frame, float32 little-endian (C, H, W)


def request_keys(captioner: Captioner, store: Store) -> Iterator[Inputs]:
    """The digests of every window. A prompt is no part of them: the template, the record, the times and the context
    make it.
    """
    layout, hashes = store.windows, frame_hashes(store)
    described = captioner.described(store.description, layout.t_in)
    of_run = _digest(captioner.model, captioner.prompt, captioner.identity, described)
    for window in range(len(layout)):
        frames = layout.input_frames(window)
        inputs = hashlib.sha256(hashes[frames].tobytes()).digest()
        told = _stamps(store.times[frames]) + _context(context_of(store, frames))
        key = hashlib.sha256(of_run + inputs + told).digest()
        yield Inputs(window, key[:KEY_BYTES], inputs.hex())


def _stamps(times: NDArray[np.datetime64]) -> bytes:
    """Whole seconds as they are, so that answers kept by them stay known; what is left of them behind."""
    milliseconds = times.astype("datetime64[ms]").astype("<i8")
    seconds, rest = np.divmod(milliseconds, 1000)
    return seconds.tobytes() + (rest.tobytes() if rest.any() else b"")


def _context(lines: tuple[str, ...]) -> bytes:
    """Nothing where nothing is known, so that answers for records without context stay known."""
    return _digest(lines) if any(lines) else b""


def frame_hashes(store: Store) -> NDArray[np.uint8]:
    """(time, 32) SHA-256 of each frame, (C, H, W) float32 little-endian.

    They are kept beside the other resumable parts, so that a run which only has to find out what is missing reads
    the store's compressed bytes and no values.
    """
    folder = paths.WORK / "caption"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "frames.lock"):
        path = folder / f"frames-{fingerprint([store.path])}.npy"
        if not path.exists():
            for earlier in folder.glob("frames-*.npy"):
                earlier.unlink()
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.frombuffer(b"".join(_hashed(store)), np.uint8).reshape(len(store.times), -1))
        hashes: NDArray[np.uint8] = np.load(path)
    return hashes


def _hashed(store: Store) -> Iterator[bytes]:
    """The SHA-256 of each frame, in the order of time."""
    total = len(store.times)
    starts = range(0, total, frames_per_block(store))
    for start in starts:
        block = np.ascontiguousarray(store.frames(start, min(start + starts.step, total)), "<f4")
        yield from (hashlib.sha256(frame).digest() for frame in block)


@dataclass
class State:
    """Where one window stands: the attempts that were answered, and the best of the answers."""

    inputs: Inputs
    answered: set[int] = field(default_factory=set)
    best: int = -1  # attempt of the best answer
    rank: int = -1
    lost: Caption | None = None  # the last answer that never came

    def note(self, attempt: int, verdict: str) -> None:
        """Takes an answer into account: the first good one is the best, else the first usable, else the last."""
        rank = GOOD if verdict == "ok" else BAD if verdict in guard.FAILURES else USABLE
        self.answered.add(attempt)
        if rank > self.rank or (rank == self.rank == BAD and attempt > self.best):
            self.best, self.rank = attempt, rank

    def open_to(self, attempt: int) -> bool:
        """Whether this attempt is still to be made."""
        return self.rank < GOOD and attempt not in self.answered and len(self.answered) <= attempt


class Captioning:
    """One run of a captioner over a store's windows."""

    def __init__(self, captioner: Captioner, name: str, answers: Answers) -> None:
        """`name`: the captioner's name in its table."""
        self.captioner = captioner
        self.name = name
        self.answers = answers
        self.settings = captioner.settings
        self.attempts = self.settings.attempts if captioner.asks_again else 1
        judged_by = {"max_words": self.settings.max_words, "output": self.settings.output}
        self.judge = fingerprint((), judged_by, ["pipeline.guard", "pipeline.captions"])

    def write(self, path: Path, store: Store) -> None:
        """Asks for what is missing and writes every window's row. Raises UserError if too many failed."""
        lock = self.answers.path.with_name(f"{_digest(self.captioner.model, self.captioner.identity).hex()[:16]}.lock")
        with locked(lock):  # a second run of the same captioner waits, and then finds all answered
            try:
                states = self._ask(store)
            finally:
                cost = self.captioner.close()
        if cost:
            log.info("%s", cost)
        self._say(states)
        order = self.captioner.arrangement(store.windows.split)
        captions.write(path, self._rows(states, store, order))

    # ---- asking

    def _ask(self, store: Store) -> list[State]:
        states = self._known(store)
        for attempt in range(self.attempts):
            missing = np.flatnonzero([state.open_to(attempt) for state in states])
            if len(missing):
                self._round(store, states, missing, attempt)
        return states

    def _known(self, store: Store) -> list[State]:
        """Every window's state from the log alone."""
        states = [State(inputs) for inputs in request_keys(self.captioner, store)]
        by_key: dict[bytes, list[State]] = {}
        for state in states:
            by_key.setdefault(state.inputs.key, []).append(state)
        for key, attempt, verdict, judge in self.answers.verdicts(by_key):
            if judge not in (self.judge, KEPT):
                (answer,) = (answer for answer in self.answers.full([key]) if answer.attempt == attempt)
                verdict = self._judged(answer).status
            for state in by_key[key]:
                state.note(attempt, verdict)
        return states

    def _round(self, store: Store, states: list[State], missing: NDArray[np.int64], attempt: int) -> None:
        """Asks once for each of `missing` and logs the answers as they come."""
        allowed = int(self.settings.max_failed_share * len(states))
        counted = guard.FAILURES if attempt == self.attempts - 1 else ("failed",)  # the rest has another chance
        failures = 0
        done = len(states) - len(missing)
        for caption in progress(
            self._answers(store, states, missing, attempt), "captions", len(states), "caption", done
        ):
            judged = guard.judged(caption, self.settings)
            self._keep(states[caption.window], caption, judged, attempt)
            failures += judged.status in counted
            if failures > allowed:
                share = f"caption.max_failed_share = {self.settings.max_failed_share:g} allows {allowed}"
                raise UserError(
                    f"captioner '{self.name}' failed on {failures} windows, {share}; "
                    f"the last, window {caption.window}: {captions.clean(judged.reason)}"
                )

    def _answers(
        self, store: Store, states: list[State], missing: NDArray[np.int64], attempt: int
    ) -> Iterator[Caption]:
        """The captioner's answers; an error says which windows it lost, doubled or invented."""
        waiting = set(missing.tolist())
        asked = (_attempted(request, states, attempt) for request in caption_requests(store, missing))
        for caption in self.captioner.captions(asked):
            if caption.window not in waiting:
                raise RuntimeError(f"captioner '{self.name}' answered for window {caption.window} twice or unasked")
            waiting.remove(caption.window)
            yield caption
        if waiting:
            raise RuntimeError(f"captioner '{self.name}' lost windows {sorted(waiting)[:10]}")

    def _keep(self, state: State, caption: Caption, judged: Caption, attempt: int) -> None:
        """Logs an answer; one that never came is only noted, and asked for again by a later run."""
        if judged.status == "failed":
            state.lost = judged
            return
        raw = (caption.text, caption.status, caption.reason)
        verdict = (judged.status, judged.text, judged.reason)
        self.answers.add([Answer(state.inputs.key, attempt, *raw, self.judge, *verdict)])
        state.note(attempt, judged.status)

    def _judged(self, answer: Answer) -> Caption:
        if answer.judge in (self.judge, KEPT):
            return Caption(0, answer.caption, answer.verdict, answer.problem)  # type: ignore[arg-type]
        return guard.judged(Caption(0, answer.text, answer.status, answer.reason), self.settings)  # type: ignore[arg-type]

    # ---- rows

    def _say(self, states: list[State]) -> None:
        failed = sum(state.rank <= BAD for state in states)
        again = sum(len(state.answered) > 1 for state in states)
        if failed or again:
            message = "%d of %d captions failed; %d windows took more than one attempt"
            log.warning(message, failed, len(states), again)

    def _rows(self, states: list[State], store: Store, order: NDArray[np.int64]) -> Iterator[pa.Table]:
        """The table in blocks of windows. Window i gets the caption of window order[i]."""
        origin = {
            "captioner": self.name,
            "model": self.captioner.model,
            "prompt_hash": hashlib.sha256(self.captioner.prompt.encode()).hexdigest(),
        }
        for start in range(0, len(states), ROWS_PER_BLOCK):
            windows = range(start, min(start + ROWS_PER_BLOCK, len(states)))
            sources = [states[order[window]] for window in windows]
            answers = {(answer.key, answer.attempt): answer for answer in self._best(sources)}
            rows = []
            for window, source in zip(windows, sources, strict=True):
                stamps = store.times[store.windows.input_frames(window)].astype("datetime64[ms]")
                rows.append(
                    self._texts(source, answers)
                    | origin
                    | {
                        "window": window,
                        "input_hash": states[window].inputs.input_hash,
                        "t_start": stamps[0].item(),
                        "t_end": stamps[-1].item(),
                    }
                )
            yield pa.Table.from_pylist(rows, captions.SCHEMA)

    def _best(self, states: Iterable[State]) -> Iterator[Answer]:
        return self.answers.full(state.inputs.key for state in states if state.best >= 0)

    def _texts(self, state: State, answers: dict[tuple[bytes, int], Answer]) -> dict[str, object]:
        answer = answers.get((state.inputs.key, state.best))
        caption = self._judged(answer) if answer else state.lost
        assert caption is not None  # a window without an answer is lost
        return {
            "caption": caption.text,
            "status": caption.status,
            "reason": captions.clean(caption.reason),
            "attempts": state.best + 1 if answer else 0,
            "key": state.inputs.key.hex(),
        }


def keep(table: pa.Table, answers: Answers) -> int:
    """Takes the good captions of a table of captions into the log, as if they had been asked for here."""
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    answers.add(
        Answer(bytes.fromhex(row["key"]), row["attempts"] - 1, row["caption"], "ok", "", KEPT, "ok", row["caption"], "")
        for row in rows
    )
    return len(rows)


def _attempted(request: CaptionRequest, states: list[State], attempt: int) -> CaptionRequest:
    """The request with the number of the attempt, and a seed that depends on what is asked and not on the run."""
    digest = hashlib.sha256(states[request.window].inputs.key + bytes([attempt])).digest()
    return replace(request, attempt=attempt, seed=int.from_bytes(digest[:4], "big") >> 1)


def _digest(*values: object) -> bytes:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
