"""Every answer a captioner ever gave, kept as it came, so that nothing is asked and paid for twice.

One SQLite file that is only ever added to, a transaction an answer: a kill loses at most the answer that was
being written, and several processes may use it at once. An answer is known by a digest of all that was put to the
model (pictures' source, prompt, model, revision, sampling; see `captioning.request_keys`) and the number of the
attempt, not by its window: another stride asks for the new windows only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.work import locked

FORMAT = 1
KEYS_PER_QUERY = 500

CREATE = """
CREATE TABLE answer (
    key BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    text TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    judge TEXT NOT NULL,
    verdict TEXT NOT NULL,
    caption TEXT NOT NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (key, attempt)
) WITHOUT ROWID
"""


class Answer(NamedTuple):
    """One answer: `text`, `status` and `reason` raw, as the captioner gave them.

    `judge` is a digest of the rules by which it was judged to have status `verdict`, text `caption` and reason
    `problem`; other rules judge again.
    """

    key: bytes
    attempt: int
    text: str
    status: str
    reason: str
    judge: str
    verdict: str
    caption: str
    problem: str


MARKS = ", ".join("?" * len(Answer._fields))


class Answers:
    """The log, open for reading and adding. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Creates the file if there is none; raises UserError if it is not such a log or cannot be opened."""
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._prepare()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._alone():
            self._database.close()

    def add(self, answers: Iterable[Answer]) -> None:
        """Adds answers in one transaction; of two to the same key and attempt the first stays."""
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(f"INSERT OR IGNORE INTO answer VALUES ({MARKS})", answers)
            except sqlite3.Error:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def verdicts(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, int, str, str]]:
        """(key, attempt, verdict, judge) of all answers to `keys`."""
        return self._select("key, attempt, verdict, judge", keys)

    def full(self, keys: Iterable[bytes]) -> Iterator[Answer]:
        """All answers to `keys`."""
        return map(Answer._make, self._select(", ".join(Answer._fields), keys))

    def _select(self, columns: str, keys: Iterable[bytes]) -> Iterator[tuple]:
        remaining = iter(keys)
        while some := list(islice(remaining, KEYS_PER_QUERY)):
            marks = ", ".join("?" * len(some))
            yield from self._fetch(f"SELECT {columns} FROM answer WHERE key IN ({marks}) ORDER BY key, attempt", some)

    def _fetch(self, query: str, values: Sequence[bytes]) -> list[tuple]:
        with self._errors():
            return self._database.execute(query, values).fetchall()

    def _prepare(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            self._database.execute(CREATE)
            self._database.execute(f"PRAGMA user_version = {FORMAT}")
        self._database.execute("COMMIT")
        if version not in (0, FORMAT) or (version == 0 and tables):
            raise UserError(f"{self.path} is not a log of answers of format {FORMAT}; move it away to start another")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """SQLite waits for others while it reads and adds, but not while it turns its journal on or off."""
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"the log of answers {self.path} cannot be used: {error}") from None
