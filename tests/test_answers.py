"""The log of answers: nothing lost, nothing twice, whatever happens to the process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.answers import KEYS_PER_QUERY, Answer, Answers
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]


def answer(number: int, attempt: int = 0, text: str = "calm") -> Answer:
    return Answer(number.to_bytes(16, "big"), attempt, text, "ok", "", "judge", "ok", text, "")


def test_answers_come_back_as_they_were_given_by_key_and_attempt(tmp_path: Path) -> None:
    given = [answer(1, 0, "a\x00b \u00e9 'quoted\"; DROP TABLE answer; --"), answer(1, 1), answer(2)]
    with Answers(tmp_path / "log.sqlite") as log:
        log.add(given)
        assert list(log.full([given[0].key, given[2].key, b"unknown"])) == given
        assert list(log.verdicts([given[2].key])) == [(given[2].key, 0, "ok", "judge")]
    with Answers(tmp_path / "log.sqlite") as log:
        assert list(log.full([given[0].key])) == given[:2]


def test_the_first_answer_to_a_key_and_attempt_stays(tmp_path: Path) -> None:
    with Answers(tmp_path / "log.sqlite") as log:
        log.add([answer(1, text="first")])
        log.add([answer(1, text="second"), answer(2)])
        assert [row.text for row in log.full([answer(1).key, answer(2).key])] == ["first", "calm"]


def test_many_keys_are_found_in_as_many_queries_as_it_takes(tmp_path: Path) -> None:
    numbers = range(2 * KEYS_PER_QUERY + 3)
    with Answers(tmp_path / "log.sqlite") as log:
        log.add(answer(number) for number in numbers)
        assert len(list(log.verdicts(answer(number).key for number in numbers))) == len(numbers)


def add_some(path: Path, first: int) -> None:
    with Answers(path) as log:
        for number in range(first, first + 50):
            log.add([answer(number)])


def test_several_processes_may_add_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_some, args=(tmp_path / "log.sqlite", first)) for first in (0, 25, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Answers(tmp_path / "log.sqlite") as log:
        assert len(list(log.verdicts(answer(number).key for number in range(100)))) == 100


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.answers import Answer, Answers
log = Answers(Path(sys.argv[1]))
for number in range(1000):
    if number == 137:
        os.kill(os.getpid(), signal.SIGKILL)
    log.add([Answer(number.to_bytes(16, "big"), 0, "calm", "ok", "", "judge", "ok", "calm", "")])
"""


def test_a_killed_process_has_kept_all_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment)
    assert run.returncode == -signal.SIGKILL
    with Answers(path) as log:
        assert len(list(log.verdicts(answer(number).key for number in range(1000)))) == 137


def test_a_file_that_is_no_log_is_named_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(UserError, match=r"text\.sqlite cannot be used"):
        Answers(text)
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE other (x)")
    with pytest.raises(UserError, match=r"foreign\.sqlite is not a log of answers"):
        Answers(foreign)


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"log\.sqlite"):
        Answers(tmp_path / "file" / "log.sqlite")
