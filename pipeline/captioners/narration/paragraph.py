"""The paragraph: the most important clauses for which there is room, in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """A piece of the paragraph. Clauses of one sentence share its key and head; smaller ranks are kept first."""

    rank: int
    sentence: tuple[object, ...]
    head: str
    text: str


def compose(clauses: Sequence[Clause], max_words: int, max_pieces: int) -> str:
    """The most important clauses that fit, in the order in which they were said."""
    kept: set[int] = set()
    for index in sorted(range(len(clauses)), key=lambda index: clauses[index].rank):
        text = paragraph([clauses[i] for i in sorted({*kept, index})])
        if len(text.split()) <= max_words and pieces(text) <= max_pieces:
            kept.add(index)
    return paragraph([clauses[i] for i in sorted(kept)])


def paragraph(clauses: Sequence[Clause]) -> str:
    sentences: dict[tuple[object, ...], tuple[str, list[str]]] = {}
    for clause in clauses:
        sentences.setdefault(clause.sentence, (clause.head, []))[1].append(clause.text)
    return " ".join(f"{head}{': ' * bool(head)}{'; '.join(texts)}." for head, texts in sentences.values())


def pieces(text: str) -> int:
    """At most how many word pieces a BERT-like tokenizer makes of `text`: longer words and numbers break.

    Of scripts without spaces every sign is one.
    """
    parts = re.findall(r"[\u2e80-\uffff]|[^\W\d_\u2e80-\uffff]+|\d+|[^\w\s]|_", text)
    return sum(1 + (len(part) - 1) // (3 if part.isdigit() else 7) for part in parts)
