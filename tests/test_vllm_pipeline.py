"""The whole pipeline with captions that vLLM writes, in a clone, by the commands that users type."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import captions
from pipeline.store import Store
from tests.captioners.maps_reader.scenes import PICTURE, PROMPT
from tests.pipeline_copy import Clone, Result, apply, make_clone, write_raw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: pip install '.[vllm]'"),
]

READER = Path(__file__).parent / "captioners" / "maps_reader"
SETTINGS: dict[str, Any] = {
    "captioner": "vllm",
    "caption": {
        "template": "prompt.txt",
        "picture": PICTURE.model_dump(mode="json"),
        "sampling": {"max_tokens": 40},
        "attempts": 1,
        "max_failed_share": 1.0,  # the model has learnt other maps than these
        "vllm": {
            "model": str(READER),
            "engine": {
                "dtype": "float32",
                "enforce_eager": True,
                "max_model_len": 1024,
                "kv_cache_memory_bytes": 1 << 28,
            },
        },
    },
}
SPOKE = "vLLM wrote"


@dataclass
class Captioned:
    """A clone in which `dvc repro` has run once, what it printed, and its captions."""

    clone: Clone
    printed: Result
    captions: pa.Table

    @property
    def store(self) -> Store:
        return Store(self.clone.root / "data" / "ingest" / "store.zarr")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Captioned:
    folder = tmp_path_factory.mktemp("vllm")
    clone = replace(make_clone(folder, write_raw(folder / "raw"), SETTINGS), environment={"HF_HUB_OFFLINE": "1"})
    (clone.root / "prompt.txt").write_text(PROMPT)
    clone.commit("A prompt")
    printed = clone.dvc("repro")
    clone.commit("Results")
    return Captioned(clone, printed, table(clone))


@pytest.fixture
def copied(built: Captioned, tmp_path: Path) -> Iterator[Clone]:
    """A copy to change; whatever is done to it, the model is not asked again."""
    clone = built.clone.copied(tmp_path / "clone")
    before = answers(clone)
    yield clone
    assert answers(clone) == before


def table(clone: Clone) -> pa.Table:
    return captions.read(clone.root / "data" / "caption" / "captions.parquet")


def answers(clone: Clone) -> int:
    with closing(sqlite3.connect(clone.root / ".answers" / "captions.sqlite")) as log:
        return int(log.execute("SELECT count(*) FROM answer").fetchone()[0])


def test_every_stage_runs_and_every_window_is_captioned_once(built: Captioned) -> None:
    students = ["distill@unet-baseline", "distill@unet-s2kd"]
    stages = ["check", "fetch", "ingest", "caption", "embed"]
    stages += ["train_teacher@multimodal", "dump_features@multimodal", *students]
    assert built.printed.stages == [*stages, "evaluate", "export", "report"]
    windows = len(built.store.windows)
    assert f"{SPOKE} {windows} captions" in built.printed.output
    assert answers(built.clone) == windows
    assert built.captions["window"].to_pylist() == list(range(windows))
    assert set(built.captions["captioner"].to_pylist()) == {"vllm"}
    assert all(name.startswith("maps_reader@sha256:") for name in built.captions["model"].to_pylist())
    assert len(set(built.captions["caption"].to_pylist())) > windows / 10, "captions differ from window to window"


def test_the_teacher_is_trained_on_them_and_the_evaluation_names_their_origin(built: Captioned) -> None:
    data = built.clone.root / "data"
    assert (data / "train_teacher" / "multimodal" / "model.safetensors").stat().st_size > 0
    quality = json.loads((data / "evaluate" / "captions.json").read_text())
    assert quality["captioner"] == "vllm"
    scores = json.loads((data / "evaluate" / "metrics.json").read_text())
    assert np.isfinite(scores["unet"]["s2kd"]["mse"])


def test_a_second_run_has_nothing_to_do(built: Captioned, copied: Clone) -> None:
    again = copied.dvc("repro")
    assert again.stages == []
    assert "Data and pipelines are up to date." in again.output


def test_another_length_of_captions_is_cut_from_the_same_answers(built: Captioned, copied: Clone) -> None:
    apply(copied.root, {"caption": {"max_words": 3}})
    cut = copied.dvc("repro", "caption")
    assert "caption" in cut.stages
    assert SPOKE not in cut.output
    assert max(len(text.split()) for text in table(copied)["caption"].to_pylist()) <= 3
    assert table(copied)["key"].equals(built.captions["key"])


def test_captions_that_are_lost_come_back_from_the_log(built: Captioned, copied: Clone) -> None:
    md5 = copied.outputs()["data/caption"]
    shutil.rmtree(copied.root / "data" / "caption")
    for file in (copied.root / ".dvc" / "cache").rglob(md5[2:]):
        file.unlink()
    back = copied.dvc("repro")
    assert back.stages == ["caption"]
    assert SPOKE not in back.output
    assert table(copied).equals(built.captions)


def test_shuffled_captions_are_the_same_answers_exchanged_within_splits(built: Captioned, copied: Clone) -> None:
    exchanged = copied.dvc("exp", "run", "-S", "captioner=shuffled", "-S", "caption.shuffle=vllm", "caption")
    assert "caption" in exchanged.stages
    assert SPOKE not in exchanged.output
    shuffled = table(copied)
    assert set(shuffled["captioner"].to_pylist()) == {"shuffled"}
    own, others = (np.array(one["key"].to_pylist()) for one in (built.captions, shuffled))
    texts = dict(zip(own, built.captions["caption"].to_pylist(), strict=True))
    assert shuffled["caption"].to_pylist() == [texts[key] for key in others]
    split = built.store.windows.split
    for number in np.unique(split):
        here = split == number
        assert sorted(others[here]) == sorted(own[here])
        assert not (others[here] == own[here]).any()
