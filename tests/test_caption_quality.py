"""The figures about captions: counted by hand, and free of anything JSON cannot hold."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import caption_quality, captions
from pipeline.caption_quality import attempts, near_duplicates, quality, similarity, word_counts
from pipeline.store import Store
from tests.helpers import make_store

RIDGE = "A strong ridge builds over the northern midlatitudes and moves slowly towards the east, while it warms there."


def table(texts: list[str], status: dict[int, str] | None = None, asked: int = 1) -> pa.Table:
    moment = datetime.datetime(2001, 1, 1)
    fixed = {"reason": "", "captioner": "c", "model": "m", "prompt_hash": "p", "input_hash": "i", "key": "k"}
    rows = [
        {"window": n, "caption": text, "status": (status or {}).get(n, "ok"), "attempts": asked, **fixed}
        | {"t_start": moment, "t_end": moment}
        for n, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, captions.SCHEMA)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("quality") / "store.zarr", frames=60)


def test_length_variety_and_failures_are_counted(store: Store) -> None:
    texts = ["One two three.", "One two.", "One two.", *["Another caption, warm."] * (len(store.windows) - 3)]
    texts[4] = texts[5] = ""
    found = quality(table(texts, {4: "refused", 5: "failed", 6: "truncated"}), store, 0)
    total = len(texts)
    assert (found["number"], found["captioner"], found["model"]) == (total, "c", "m")
    assert found["distinct_share"] == round(3 / (total - 2), 4)
    assert found["vocabulary"] == 6  # one, two, three, another, caption, warm
    assert found["status"]["refused"] == found["status"]["truncated"] == round(1 / total, 4)
    assert found["failed_share"] == round(2 / total, 4)  # a caption that was cut can be used
    assert found["attempts"] == {"mean": 1.0, "windows": {"1": total}}
    assert set(found["grounding"]) == {"train", "validation", "test"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert quality(table(texts, {4: "refused", 5: "failed", 6: "truncated"}), store, 0) == found


def test_no_caption_at_all_is_no_error(store: Store) -> None:
    found = quality(table([""] * len(store.windows)), store, 0)
    assert found["words"] is found["distinct_share"] is None
    assert found["near_duplicates"] == {"neighbours": None, "any_pair": None}
    assert (found["vocabulary"], found["failed_share"]) == (0, 0)
    json.dumps(found, allow_nan=False)


def test_words_are_summed_up_as_numpy_does() -> None:
    counts = word_counts(["a", "a b", "a b c", "a b c d e f"])
    assert counts == {"mean": 3, "min": 1, "lower_quartile": 1.75, "median": 2.5, "upper_quartile": 3.75, "max": 6}


def test_similarity_is_of_runs_of_three_words() -> None:
    assert similarity("a b c d", "a b c d") == 1
    assert similarity("a b c d", "A b, c d.") == 1
    assert similarity("a b c d", "a b c e") == pytest.approx(1 / 3)
    assert similarity("a b c", "d e f") == 0
    assert similarity("a", "a") == 1
    assert similarity("...", "!!!") == 0


def test_near_duplicates_are_found_among_neighbours_and_anywhere() -> None:
    near = RIDGE.replace("there", "here")
    assert 0.8 <= similarity(RIDGE, near) < 1
    different = [" ".join(f"w{n}x{word}" for word in range(9)) for n in range(100)]
    assert near_duplicates(different, 0) == {"neighbours": 0, "any_pair": 0}
    assert near_duplicates([RIDGE, near] * 50, 0) == {"neighbours": 1, "any_pair": 1}
    alternating = [RIDGE if n % 2 else different[n] for n in range(100)]
    found = near_duplicates(alternating, 0)
    assert found["neighbours"] == 0
    assert found["any_pair"] == pytest.approx(50 * 49 / (100 * 99), abs=0.02)


def test_windows_with_a_failed_one_between_them_are_no_neighbours() -> None:
    assert near_duplicates([RIDGE, "", RIDGE], 0) == {"neighbours": None, "any_pair": 1}
    assert near_duplicates([RIDGE], 0) == {"neighbours": None, "any_pair": None}


def test_the_number_of_comparisons_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def counted(one: str, other: str) -> float:
        compared.append((one, other))
        return 0.0

    monkeypatch.setattr(caption_quality, "PAIRS", 50)
    monkeypatch.setattr(caption_quality, "similarity", counted)
    near_duplicates([f"text {n}" for n in range(5000)], 0)
    assert len(compared) == 100
    assert all(one != other for one, other in compared)


def test_attempts_are_counted() -> None:
    assert attempts(np.array([1, 1, 3, 0])) == {"mean": 1.25, "windows": {"0": 1, "1": 2, "3": 1}}


def test_a_table_as_it_is_read_from_its_file_will_do(store: Store, tmp_path: Path) -> None:
    captions.write(tmp_path / "captions.parquet", [table([RIDGE] * len(store.windows))])
    assert quality(captions.read(tmp_path / "captions.parquet"), store, 0)["distinct_share"] == round(
        1 / len(store.windows), 4
    )
