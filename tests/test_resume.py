"""`kill -9` in the middle of a stage, then `dvc repro`: it goes on where it was and ends in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.pipeline_copy import EPOCHS, Clone

pytestmark = pytest.mark.slow


def test_a_teacher_whose_machine_died_goes_on_after_its_last_epoch(built: Clone, tmp_path: Path) -> None:
    clone = _unfinished(built, tmp_path, "train_teacher@multimodal")
    with _running(clone) as process:
        _wait_for(process, lambda: _parts(clone, "train_teacher", "multimodal-teacher-0*"))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    result = clone.dvc("repro")
    assert result.stages == ["train_teacher@multimodal"]
    assert any(f"teacher: resuming after epoch {epoch}\n" in result.output for epoch in range(1, EPOCHS))
    assert clone.files() == built.files()


def test_features_whose_process_was_shot_keep_the_shards_that_were_written(built: Clone, tmp_path: Path) -> None:
    clone = _unfinished(built, tmp_path, "dump_features@multimodal")
    with _running(clone) as process:
        _wait_for(process, lambda: len(_parts(clone, "dump_features", "features.zarr/features/c/*/0/0")) >= 2)
        _stage_of(process, "dump_features").kill()
        assert process.wait() == 255, "dvc reports the stage as failed"
    written = len(_parts(clone, "dump_features", "features.zarr/features/c/*/0/0"))
    shards = len(list((built.root / "data" / "dump_features").glob("multimodal/features.zarr/features/c/*/0/0")))
    assert 2 <= written < shards

    result = clone.dvc("repro")
    assert result.stages == ["dump_features@multimodal"]
    assert f"resuming with {written} of {shards} shards done" in result.output
    assert clone.files() == built.files()


def test_a_student_that_outlived_dvc_is_waited_for_and_its_work_is_taken(built: Clone, tmp_path: Path) -> None:
    clone = _unfinished(built, tmp_path, "distill@unet-s2kd")
    with _running(clone) as process:
        _wait_for(process, lambda: _parts(clone, "distill", "seed-42-0*"))
        orphan = _stage_of(process, "distill")
        process.kill()
        process.wait()
        orphan.suspend()  # still at work when `dvc repro` comes
        second = clone.start("dvc", "repro", log=tmp_path / "second.txt")
        _wait_for(second, lambda: "process" in (tmp_path / "second.txt").read_text())
        orphan.resume()
        assert second.wait(timeout=300) == 0

    printed = (tmp_path / "second.txt").read_text()
    assert f"process {orphan.pid} is at the same work; waiting for it to end" in printed
    assert f"seed-42: resuming after epoch {EPOCHS}\n" in printed
    assert clone.files() == built.files()


def _unfinished(built: Clone, folder: Path, stage: str) -> Clone:
    """A copy of the built clone in which the stage has never run: neither dvc.lock nor the run cache knows of it."""
    clone = built.copied(folder / "clone")
    shutil.rmtree(clone.root / ".dvc" / "cache" / "runs")
    shutil.rmtree(clone.root / ".work" / stage.partition("@")[0], ignore_errors=True)
    yaml, lock = YAML(typ="safe", pure=True), clone.root / "dvc.lock"
    tree = yaml.load(lock.read_text())
    del tree["stages"][stage]
    with lock.open("w") as stream:
        yaml.dump(tree, stream)
    return clone


@contextmanager
def _running(clone: Clone) -> Iterator[subprocess.Popen[str]]:
    """`dvc repro` at work; whatever is left of it is killed at the end."""
    process = clone.start("dvc", "repro", log=clone.root.parent / "first.txt")
    try:
        yield process
    finally:
        if _group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _group(group: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _group_of(process.pid) == group]


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _stage_of(process: subprocess.Popen[str], stage: str) -> psutil.Process:
    """The stage's Python below `dvc repro`, not the shell that started it."""
    children = psutil.Process(process.pid).children(recursive=True)
    (found,) = [child for child in children if child.cmdline()[1:3] == ["-m", f"stages.{stage}"]]
    return found


def _parts(clone: Clone, stage: str, pattern: str) -> list[Path]:
    return list((clone.root / ".work" / stage).glob(f"*/{pattern}"))


def _wait_for(process: subprocess.Popen[str], happened: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
