from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.params import Runtime
from pipeline.work import Work, fingerprint, replacing, write_json

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folders(stage: str = "stage") -> list[Path]:
    return sorted(path for path in (paths.WORK / stage).iterdir() if path.is_dir())


def crash_after_a_part(params: int) -> None:
    with contextlib.suppress(RuntimeError), Work("stage", params=params) as work:
        with work.part("one") as path:
            path.write_text("done")
        raise RuntimeError("crash")


def test_a_clean_end_removes_the_parts_and_an_error_leaves_them_for_the_next_run() -> None:
    crash_after_a_part(1)
    with Work("stage", params=1) as work:
        assert work.has("one")
        assert work.path("one").read_text() == "done"
    assert folders() == []


def test_parts_of_another_run_are_never_taken_up() -> None:
    crash_after_a_part(1)
    with Work("stage", params=2) as work:
        assert not work.has("one")
    assert len(folders()) == 1  # and are left alone


def test_a_part_exists_whole_or_not_at_all() -> None:
    work = Work("stage")
    with contextlib.suppress(RuntimeError), work, work.part("one") as path:
        path.mkdir()
        (path / "half").write_text("half")
        raise RuntimeError("crash")
    assert not work.has("one")
    assert list(work.folder.iterdir()) == []


def test_removing_a_part_is_for_files_and_folders() -> None:
    with Work("stage") as work:
        for name in ("file", "folder"):
            with work.part(name) as path:
                path.mkdir() if name == "folder" else path.write_text("")
            work.remove(name)
            assert not work.has(name)


def test_parts_of_a_finished_run_go_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it tidies up must not leave half of a part to the next run."""

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with contextlib.suppress(SystemExit), Work("stage") as work:
        with work.part("one") as path:
            path.write_text("done")
        monkeypatch.setattr("shutil.rmtree", killed)
    assert not work.folder.exists()


def test_keep_leaves_the_newest_finished_folders() -> None:
    finished = []
    for number in range(4):
        with Work("stage", params=number, keep=2) as work:
            finished.append(work.folder)
        os.utime(work.folder, (number, number))
    assert folders() == sorted(finished[-2:])
    with Work("stage", params=2, keep=2):  # coming back to one makes it the newest
        pass
    with Work("stage", params=9, keep=2) as last:
        pass
    assert folders() == sorted([finished[2], last.folder])


HOLD = """
import sys, time
from pathlib import Path
from pipeline.work import Work
with Work("stage", params=1):
    print("held", flush=True)
    sys.stdin.read()
    Path("released").write_text("")
"""


def hold_in_another_process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_for_the_first_and_says_so() -> None:
    first = hold_in_another_process()
    second = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("import sys", "import logging, sys\nlogging.basicConfig()\nimport sys")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert second.stderr is not None
        assert second.stdout is not None
        assert f"process {first.pid} is at the same work" in second.stderr.readline()
        assert not Path("released").exists()
        first.communicate("", timeout=10)
        assert second.stdout.readline() == "held\n"
        assert Path("released").exists()
        second.communicate("", timeout=10)
        assert second.returncode == 0
    finally:
        first.kill()
        second.kill()


def test_the_lock_of_a_killed_process_is_free() -> None:
    holder = hold_in_another_process()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    start = time.monotonic()
    with Work("stage", params=1):
        pass
    assert time.monotonic() - start < 1


def test_other_parameters_are_other_work_and_do_not_wait() -> None:
    holder = hold_in_another_process()
    try:
        with Work("stage", params=2):
            assert not Path("released").exists()
    finally:
        holder.communicate("", timeout=10)


def test_replacing_puts_files_and_folders_in_place_of_what_was_there() -> None:
    target = Path("out/thing")
    for content in ("folder", "folder", "file", "file"):
        with replacing(target) as path:
            if content == "folder":
                path.mkdir()
                (path / "inner").write_text("x")
            else:
                path.write_text("x")
        assert target.is_dir() == (content == "folder")
    assert list(Path("out").iterdir()) == [target]


def test_a_failed_replacement_leaves_the_old_content() -> None:
    write_json(Path("out.json"), [1])
    with contextlib.suppress(RuntimeError), replacing(Path("out.json")) as path:
        path.write_text("[2")
        raise RuntimeError("crash")
    assert Path("out.json").read_text() == "[\n  1\n]\n"
    assert list(Path().iterdir()) == [Path("out.json")]


def test_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(Path("out.json"), float("nan"))
    assert not Path("out.json").exists()


def test_a_fingerprint_changes_with_content_names_parameters_and_code() -> None:
    folder = Path("in")
    folder.mkdir()
    (folder / "a").write_text("1")
    seen = [fingerprint([folder])]
    assert fingerprint([folder]) == seen[0]
    (folder / "a").write_text("2")
    seen.append(fingerprint([folder]))
    (folder / "a").rename(folder / "b")
    seen.append(fingerprint([folder]))
    (folder / "c").write_text("")
    seen.append(fingerprint([folder]))
    seen.append(fingerprint([folder], {"epochs": 1}))
    seen.append(fingerprint([folder], {"epochs": 2}))
    seen.append(fingerprint([folder], {"epochs": 2}, ["pipeline.work"]))
    seen.append(fingerprint([folder], {"epochs": 2}, ["pipeline.store"]))
    seen.append(fingerprint([folder / "b"], {"epochs": 2}))
    assert len(set(seen)) == len(seen)


def test_a_fingerprint_changes_with_the_source_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    module = Path("fingerprinted_module.py")
    module.write_text("A = 1\n")
    first = fingerprint([], code=["fingerprinted_module"])
    module.write_text("A = 2\n")
    assert fingerprint([], code=["fingerprinted_module"]) != first
    with pytest.raises(ModuleNotFoundError):
        fingerprint([], code=["no_such_module"])


def test_a_fingerprint_depends_neither_on_time_nor_on_order_nor_on_where_the_input_lies() -> None:
    for place in ("here", "there"):
        (Path(place) / "in").mkdir(parents=True)
        for name in ("a", "b"):
            (Path(place) / "in" / name).write_text(name)
    os.utime("there/in/a", (0, 0))
    here, there = (fingerprint([Path(place) / "in"], {"x": 1, "y": 2}) for place in ("here", "there"))
    assert here == there == fingerprint([Path("here/in")], {"y": 2, "x": 1})


def test_sections_of_params_count_by_their_values() -> None:
    assert fingerprint([], Runtime()) == fingerprint([], Runtime(accelerator="auto"))
    assert fingerprint([], Runtime()) != fingerprint([], Runtime(accelerator="cpu"))
    assert fingerprint([], [Runtime(), 1]) == fingerprint([], (Runtime(), 1))


def test_a_later_node_takes_part_beside_the_first_and_leaves_outputs_and_parts_to_it() -> None:
    target = Path("data") / "output"
    with Work("stage") as first:
        with first.part("one") as path:
            path.write_text("first")
        with Work("stage", node=1) as second:  # does not wait for the first one's lock
            assert second.folder == first.folder
            with second.output(target) as path:
                path.write_text("second")
            second.hand_over("one", target)
        assert not target.exists()
        assert first.has("one")
        first.hand_over("one", target)
        assert target.read_text() == "first"
        with first.output(target) as path:
            path.write_text("again")
    assert target.read_text() == "again"
    assert folders() == []
