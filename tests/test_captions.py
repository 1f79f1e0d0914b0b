"""The table of captions: cleaning, cutting, and bytes that depend on the rows alone."""

from __future__ import annotations

import datetime
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import captions
from pipeline.errors import UserError


def rows(windows: list[int]) -> pa.Table:
    moment = datetime.datetime(2001, 1, 1)
    fixed: dict[str, object] = {"status": "ok", "reason": "", "attempts": 1, "captioner": "c", "model": "m"}
    fixed |= {"prompt_hash": "p", "input_hash": "i", "key": "k"}
    return pa.Table.from_pylist(
        [{"window": w, "caption": f"text {w}", **fixed, "t_start": moment, "t_end": moment} for w in windows],
        captions.SCHEMA,
    )


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("  a\n\tb \r\n c ", "a b c"),
        ("warm <b>front</b> here", "warm front here"),
        ("<|im_start|>calm<|im_end|></s>", "calm"),
        ("<think>\nlong\n</think> calm <image>", "long calm"),
        ("<<b>script>calm", "< script>calm"),
        ("p < 5 and q > 3, T <5 K", "p < 5 and q > 3, T <5 K"),
        ("a\x00b\x1b[0mc\u200bd\u202ee", "ab[0mcde"),
        ("re\u0301sume\u0301", "r\u00e9sum\u00e9"),
        ("e<i>\u0301", "e \u0301"),
        ("a\u00a0b\u2003c", "a b c"),
        ("<\u200bimage>x", "x"),
        ("", ""),
    ],
)
def test_text_is_cleaned(raw: str, plain: str) -> None:
    assert captions.clean(raw) == plain


def test_cleaning_twice_changes_nothing_more() -> None:
    rng = np.random.default_rng(0)
    alphabet = list("ab <>/|!.\n\t\x00\u0301\u200be\u1100\u1161")
    for _ in range(500):
        text = "".join(rng.choice(alphabet, size=20))
        cleaned = captions.clean(text)
        assert captions.clean(cleaned) == cleaned
        assert unicodedata.is_normalized("NFC", cleaned)
        assert not any(unicodedata.category(character)[0] == "C" for character in cleaned)


def test_long_captions_are_cut_at_a_sentence() -> None:
    text = "One two three. Four five, 1.5 K! Six seven eight?"
    assert captions.cut(text, 10) == text
    assert captions.cut(text, 9) == "One two three. Four five, 1.5 K!"
    assert captions.cut(text, 6) == "One two three."
    assert captions.cut(text, 2) == "One two"


def test_equal_tables_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    captions.write(tmp_path / "a.parquet", [rows([0, 1, 2]), rows([3, 4])])
    captions.write(tmp_path / "b.parquet", [pa.concat_tables([rows([0]), rows([1, 2])]), rows([3, 4])])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert captions.texts(tmp_path / "b.parquet") == [f"text {window}" for window in range(5)]
    captions.write(tmp_path / "c.parquet", [rows([0, 1, 2]), rows([3, 5])])
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "c.parquet").read_bytes()


def test_a_missing_foreign_or_incomplete_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet is missing"):
        captions.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(UserError, match=r"text\.parquet is not a readable Parquet file"):
        captions.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet has columns a; window, caption"):
        captions.read(tmp_path / "other.parquet")
    captions.write(tmp_path / "gap.parquet", [rows([0, 2])])
    with pytest.raises(UserError, match="each window once"):
        captions.texts(tmp_path / "gap.parquet")
