"""The table of captions, `data/caption/captions.parquet`: its columns, how it is written, read and cleaned.

One row a window, sorted by window:

    window       int64     number on the store's sample axis
    caption      string    cleaned text; empty where the captioner failed
    status       string    ok, truncated, empty, repeated, refused, malformed, failed
    reason       string    what went wrong, unless status is ok
    attempts     int64     how often the captioner was asked until this caption came; 0 if none came
    captioner    string    its name in the table of captioners
    model        string    what wrote the caption
    prompt_hash  string    sha256 of the prompt or the description of the rules
    input_hash   string    sha256 over the sha256 of each input frame, as float32 little-endian (C, H, W)
    key          string    digest of all that was put to the captioner for this caption
    t_start, t_end         time stamps of the first and the last input frame, UTC
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.work import replacing

SCHEMA = pa.schema(
    [
        ("window", pa.int64()),
        ("caption", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("attempts", pa.int64()),
        ("captioner", pa.string()),
        ("model", pa.string()),
        ("prompt_hash", pa.string()),
        ("input_hash", pa.string()),
        ("key", pa.string()),
        ("t_start", pa.timestamp("ms")),
        ("t_end", pa.timestamp("ms")),
    ]
)

TAG = re.compile(r"</?[A-Za-z!|][^<>]*>")  # <b>, </think>, <|im_end|>, <!-- -->; but not "a < b"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of `tables`, which come in the order of windows, each as one row group."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.combine_chunks())


def read(path: Path) -> pa.Table:
    """The rows, sorted by window. Raises UserError if `path` is missing or not such a table."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `dvc repro` makes it, `dvc pull` fetches it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from None
    if not table.schema.equals(SCHEMA):
        names = ", ".join(table.column_names)
        raise UserError(f"{path} has columns {names}; {', '.join(SCHEMA.names)} are expected: caption again")
    return table


def texts(path: Path) -> list[str]:
    """The captions of windows 0, 1, 2, ...; raises UserError if a window is missing."""
    table = read(path)
    windows = table["window"].to_numpy()
    if not np.array_equal(windows, np.arange(len(windows))):
        raise UserError(f"{path} does not hold each window once, from 0 to {len(windows) - 1}: caption again")
    captions: list[str] = table["caption"].to_pylist()
    return captions


def clean(text: str) -> str:
    """Plain text on one line: Unicode NFC, without control characters and markup tags, white space folded."""
    cleaned = _cleaned_once(text)
    while cleaned != text:  # what a removal joins may be a tag or a composed letter again
        text, cleaned = cleaned, _cleaned_once(cleaned)
    return cleaned


def cut(text: str, max_words: int) -> str:
    """The longest run of whole sentences within `max_words`; if the first is too long, its first words."""
    words = text.split()
    if len(words) <= max_words:
        return text
    kept: list[str] = []
    for sentence in SENTENCE_END.split(text):
        if len(kept) + len(sentence.split()) > max_words:
            break
        kept += sentence.split()
    return " ".join(kept or words[:max_words])


def _cleaned_once(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFC", text).split())
    plain = "".join(character for character in folded if unicodedata.category(character)[0] != "C")
    return " ".join(TAG.sub(" ", plain).split())
