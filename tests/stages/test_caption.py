"""The stage `caption` on a real store: no leak, equal bytes, resumed after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from ruamel.yaml import YAML

from pipeline import captions, paths
from pipeline.errors import UserError
from stages import caption
from tests.helpers import TINY, make_store, tiny_params

ROOT = Path(__file__).parents[2]
PARAMS = tiny_params()


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths.INGEST.mkdir(parents=True)


def captioned() -> bytes:
    caption.main(PARAMS)
    return paths.CAPTIONS.read_bytes()


def test_every_window_has_a_caption_and_windows_can_be_told_apart() -> None:
    store = make_store(paths.STORE, frames=40, shape=(16, 32))
    captioned()
    table = captions.read(paths.CAPTIONS)
    texts = table["caption"].to_pylist()
    assert len(texts) == len(store.windows)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert len(set(texts)) >= 0.95 * len(texts)
    assert all(60 <= len(text.split()) <= 120 for text in texts)


def test_the_same_store_gives_the_same_bytes() -> None:
    make_store(paths.STORE)
    first = captioned()
    shutil.rmtree(paths.CAPTIONS.parent)
    assert captioned() == first


def change_frames(frames: np.ndarray) -> None:
    group = zarr.open_group(paths.STORE, mode="r+")
    for name in ("z500", "t850"):
        array = group[name]
        assert isinstance(array, zarr.Array)
        values = np.asarray(array[:])
        values[frames] += 1000
        array[:] = values


def test_changing_target_frames_changes_no_caption_and_changing_inputs_does() -> None:
    store = make_store(paths.STORE, frames=60, t_in=2, t_out=2, stride=4)
    inputs = np.unique([store.windows.input_frames(window) for window in range(len(store.windows))])
    targets = np.setdiff1d(np.arange(60), inputs)
    assert len(targets) > 20
    before = captioned()
    change_frames(targets)
    assert captioned() == before
    change_frames(inputs[:1])
    assert captioned() != before


KILLED = """
import os, signal
from pipeline import params
from pipeline.captioners.narrator import Narrator
from stages import caption

narrate = Narrator.captions

def until_killed(self, requests):
    for count, result in enumerate(narrate(self, requests)):
        if count == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result

Narrator.captions = until_killed
caption.main(params.load())
"""


def answers_kept() -> int:
    with sqlite3.connect(PARAMS.runtime.answers) as database:
        (count,) = database.execute("SELECT count(*) FROM answer").fetchone()
    return int(count)


def test_a_killed_run_is_taken_up_and_ends_in_the_same_bytes() -> None:
    make_store(paths.STORE, frames=60)
    with Path("params.yaml").open("w") as file:
        YAML().dump(TINY, file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for done in (20, 40):
        run = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert answers_kept() == done
        assert not paths.CAPTIONS.exists()
    last = subprocess.run(
        [sys.executable, "-m", "stages.caption"], env=environment, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert last.returncode == 0, last.stderr
    resumed = paths.CAPTIONS.read_bytes()
    PARAMS.runtime.answers.unlink()
    assert captioned() == resumed


def test_a_missing_store_is_a_users_error() -> None:
    with pytest.raises(UserError, match=r"store\.zarr is missing"):
        caption.main(PARAMS)


def test_a_record_that_cannot_be_described_is_a_users_error() -> None:
    make_store(paths.STORE)
    group = zarr.open_group(paths.STORE, mode="r+")
    array = group["z500"]
    assert isinstance(array, zarr.Array)
    array[:] = np.full(array.shape, np.nan, dtype=np.float32)
    with pytest.raises(UserError, match=r"captioner 'narrator' failed on .* NaN or infinity"):
        caption.main(PARAMS)


def test_a_preview_captions_only_its_windows_and_says_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    make_store(paths.STORE)
    with caplog.at_level("INFO"):
        caption.main(PARAMS, preview=2)
    assert f"2 windows are on the page {paths.PREVIEW}" in caplog.text
    assert paths.PREVIEW.read_text().count("<blockquote") == 2
    assert not paths.CAPTIONS.exists()


def test_a_preview_of_nothing_is_refused_and_captions_nothing() -> None:
    make_store(paths.STORE)
    with pytest.raises(UserError, match="--preview is 0"):
        caption.main(PARAMS, preview=0)
    assert not paths.CAPTIONS.exists()
