"""Captions at a glance: how long, how varied, how often bad, and how well they fit the fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import guard
from pipeline.grounding import grounding
from pipeline.store import Store

SHINGLE = 3  # words
NEAR = 0.8  # Jaccard similarity of two captions' shingles from which they are near-duplicates
PAIRS = 20_000  # of each kind, compared at most
SEED_OF_PAIRS = 4


def quality(table: pa.Table, store: Store, seed: int) -> dict[str, Any]:
    """What data/evaluate/captions.json holds, as plain values; `table` is that of `captions.read`.

    Words, variety and near-duplicates are of the texts that came out; shares of status, and attempts, of all windows.
    """
    texts: list[str] = table["caption"].to_pylist()
    status: list[str] = table["status"].to_pylist()
    said = [text for text in texts if text]
    counts = Counter(status)
    return {
        "number": len(texts),
        "captioner": _only(table, "captioner"),
        "model": _only(table, "model"),
        "words": word_counts(said),
        "distinct_share": _rounded(len(set(said)) / len(said)) if said else None,
        "vocabulary": len({word for text in said for word in _words(text)}),
        "near_duplicates": near_duplicates(texts, seed),
        "status": {name: _rounded(counts[name] / len(texts)) for name in sorted(counts)},
        "failed_share": _rounded(sum(counts[name] for name in guard.FAILURES) / max(1, len(texts))),
        "attempts": attempts(table["attempts"].to_numpy()),
        "grounding": grounding(texts, store, seed),
    }


def word_counts(texts: Sequence[str]) -> dict[str, float] | None:
    """Words in a caption: mean, extremes and quartiles; None without captions."""
    if not texts:
        return None
    counts = np.array([len(text.split()) for text in texts])
    quartiles = np.percentile(counts, [25, 50, 75])
    names = ("mean", "min", "lower_quartile", "median", "upper_quartile", "max")
    values = (counts.mean(), counts.min(), *quartiles, counts.max())
    return {name: round(float(value), 2) for name, value in zip(names, values, strict=True)}


def near_duplicates(texts: Sequence[str], seed: int) -> dict[str, float | None]:
    """The share of pairs whose runs of SHINGLE words are alike, by a Jaccard similarity of NEAR or more.

    Of neighbours on the sample axis, which overlap in time, and of pairs drawn anywhere; equal texts count. At
    most PAIRS of each are compared, so the work does not grow with the square of the captions.
    """
    said = np.array([number for number, text in enumerate(texts) if text], dtype=np.int64)
    rng = np.random.default_rng([seed, SEED_OF_PAIRS])
    neighbours = np.stack([said[:-1], said[1:]], axis=1)
    neighbours = neighbours[neighbours[:, 1] == neighbours[:, 0] + 1]
    if len(neighbours) > PAIRS:
        neighbours = neighbours[np.sort(rng.choice(len(neighbours), PAIRS, replace=False))]
    first, step = (rng.integers(low, max(low + 1, len(said)), PAIRS) for low in (0, 1))
    anywhere = np.stack([said[first], said[(first + step) % len(said)]], axis=1) if len(said) > 1 else neighbours[:0]
    return {"neighbours": _alike(neighbours, texts), "any_pair": _alike(anywhere, texts)}


def attempts(counts: NDArray[np.int64]) -> dict[str, Any]:
    """How often a captioner was asked for a window until it answered well: mean, and windows by number."""
    mean = round(float(counts.mean()), 3) if len(counts) else None
    numbers, windows = np.unique(counts, return_counts=True)
    return {"mean": mean, "windows": {str(n): int(w) for n, w in zip(numbers, windows, strict=True)}}


def _alike(pairs: NDArray[np.int64], texts: Sequence[str]) -> float | None:
    if not len(pairs):
        return None
    return _rounded(float(np.mean([similarity(texts[one], texts[other]) >= NEAR for one, other in pairs.tolist()])))


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of two texts' shingles, 0 to 1."""
    shingles = _shingles(one), _shingles(other)
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


def _shingles(text: str) -> frozenset[str]:
    """Runs of SHINGLE words; all words of a shorter text in one."""
    words = _words(text) or [text]
    last = max(1, len(words) - SHINGLE + 1)
    return frozenset(" ".join(words[start : start + SHINGLE]) for start in range(last))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w.+-]*\w", text.casefold())


def _only(table: pa.Table, column: str) -> str:
    """The value that all rows share; several are joined."""
    return ", ".join(sorted(set(table[column].to_pylist())))


def _rounded(share: float) -> float:
    return round(share, 4)
