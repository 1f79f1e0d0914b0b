"""What a model answered -> the caption that is kept, or what is wrong with it.

Text of a model is data from outside: a chat model's habits (thoughts, special tokens, Markdown, a preamble) are
taken off, then whatever is no caption is given a status and a reason. Nothing here raises for any text.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from pipeline import captions
from pipeline.captioners.base import Caption, Status
from pipeline.params import Caption as CaptionParams

FAILURES: tuple[Status, ...] = ("empty", "repeated", "refused", "malformed", "failed")
NO_CAPTION = "no caption is meant"  # the reason by which an empty text with status "ok" is known as intended

LONGEST_PART = 400  # characters of one property
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string", "maxLength": LONGEST_PART} for name in ("state", "change", "extremes", "movement")
    },
    "required": ["state", "change", "extremes", "movement"],
    "additionalProperties": False,
}

QUOTED = 80  # characters of a bad answer that its reason repeats
PHRASE = 5  # words; a run of so many that occurred before is a repetition
REPEATED_SHARE = 0.4  # of the words, in such runs; templates of rules reach 0.2
LOOPS = 4  # a phrase so often in a row is a loop, however short the text
LOOP_WORDS = 40  # the longest phrase looked for in a row
WORDS_LOOKED_AT = 2000

THOUGHT_WORD = "think|thinking|thought|thoughts|reasoning"
THOUGHT = re.compile(rf"[<◁]({THOUGHT_WORD})[>▷].*?(?:[<◁]/\1[>▷]|\Z)", re.IGNORECASE | re.DOTALL)
END_OF_THOUGHT = re.compile(rf"[<◁]/(?:{THOUGHT_WORD})[>▷]", re.IGNORECASE)
TURN = re.compile(r"<\|(?:im_start|start_header_id)\|>\w*(?:<\|end_header_id\|>)?|<start_of_turn>\w*|\[/?INST\]")
END_OF_TURN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end|eom_id)\|>|</s>|<eos>|<end_of_turn>|<end_of_utterance>|<\uff5cend\u2581of\u2581sentence\uff5c>"
)
SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^<>\s]{1,40}[|\uff5c]>|◁[^◁▷\s]{1,40}▷")

FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)\w*[^\S\n]*$", re.MULTILINE)
RULE = re.compile(r"^[^\S\n]*(?:[-*_=][^\S\n]*){3,}$", re.MULTILINE)
HEADING = re.compile(r"^[^\S\n]*#{1,6}[^\S\n]+(.*)$", re.MULTILINE)
ITEM = re.compile(r"^[^\S\n]*(?:[-*+•\u2013]|\d{1,2}[.)])[^\S\n]+(.*)$", re.MULTILINE)
BLOCK_QUOTE = re.compile(r"^[^\S\n]*>[^\S\n]+", re.MULTILINE)
LINK = re.compile(r"!?\[([^\[\]\n]*)\]\([^()\s]*\)")
EMPHASIS = re.compile(r"(?<!\w)\*+(?=\S)|(?<=\S)\*+(?!\w)|\*{2,}|(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)|`+")
SENTENCE_CLOSED = re.compile(r"""[.!?:;,]["'\u201d\u2019)\]]*$""")
SENTENCE_FINISHED = re.compile(r"""[.!?]["'\u201d\u2019)\]]*$""")

PREAMBLES = (
    re.compile(r"(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great)\s*[,.!:]+\s*", re.IGNORECASE),
    re.compile(
        r"(?:here(?:['\u2019]s|\s+is|\s+are)|(?:this|the following)\s+is)\b[^.:!?]{0,80}?\b"
        r"(?:caption|description|summary|answer|paragraph|analysis|response|json)s?\b[^.:!?]{0,80}:\s*",
        re.IGNORECASE,
    ),
    re.compile(r"(?:final\s+)?(?:caption|answer|description|summary|output|response|assistant)\s*:\s*", re.IGNORECASE),
)
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»", "„": "\u201c"}

REFUSAL = re.compile(
    r"(?:\w{1,20}:\s*)?(?:(?:i'?m|i am)\s+(?:so\s+|very\s+|really\s+)?(?:sorry|afraid)\b"
    r"|(?:sorry|(?:my\s+)?apologies)\b\s*[,.!;:-]|sorry\s+(?:but|i)\b|i\s+(?:must\s+)?apologi[sz]e\b"
    r"|(?:unfortunately|regrettably|sadly)\s*,?\s+(?:i\b|(?:there\s+(?:is|are)\s+)?no\s+(?:image|picture|frame))"
    r"|i\s+(?:can\s*not|can't|could\s+not|couldn't|will\s+not|won't|do\s+not\s+have|don't\s+have)\b"
    r"|(?:i\s+am|i'm)\s+(?:unable|not\s+able)\b|i\s+must\s+decline\b"
    r"|as\s+an?\s+(?:ai|artificial|(?:large\s+|text-based\s+)?(?:language|vision)\W+(?:\w+\W+)?(?:model|assistant))\b"
    r"|(?:there\s+(?:is|are)\s+)?no\s+(?:image|picture)s?\s+(?:is|are|was|were|has|have|attached|provided|given)\b"
    r"|please\s+(?:provide|upload|attach|share)\b)",
    re.IGNORECASE,
)


def judged(caption: Caption, settings: CaptionParams) -> Caption:
    """The caption as it is kept: cleaned, cut, and with the status that its text deserves.

    A failure has text "" and a reason that quotes the answer's first characters. "truncated" is usable: the
    captioner said so, or it is longer than caption.max_words; whole sentences are kept. An empty text counts as
    intended if the captioner gives NO_CAPTION as reason. A text that has been judged is not changed by judging it
    again, but for JSON, which is a text then.
    """
    if caption.status in FAILURES:
        reason = captions.clean(caption.reason) or "no reason given"
        return Caption(caption.window, "", caption.status, reason)
    if (caption.text, caption.status, caption.reason) == ("", "ok", NO_CAPTION):
        return caption
    text, status, problem = _said(caption, settings)
    if status in FAILURES:
        return Caption(caption.window, "", status, f"{problem}: '{captions.clean(caption.text)[:QUOTED]}'")
    return _shortened(caption, text, settings.max_words)


def plain(text: str) -> str:
    """One line of plain text, without what chat models put around an answer."""
    result = _plain_once(text)
    while result != text:  # what a removal uncovers may be a habit again; each pass shortens
        text, result = result, _plain_once(result)
    return result


def repeats(text: str) -> bool:
    """Whether the writer fell into a loop.

    Either a phrase stands LOOPS times in a row, or more than REPEATED_SHARE of the words lie in runs of PHRASE
    words that occurred before (the duplicate n-grams of Rae et al. 2021, arXiv:2112.11446, table A1).
    """
    words = re.findall(r"\w+|[^\w\s]", text.casefold())[:WORDS_LOOKED_AT]
    return _loops(words) or _duplicate_share(words) > REPEATED_SHARE or re.search(r"(\w)\1{15}", text) is not None


def refuses(text: str) -> bool:
    """Whether the answer begins by declining; the same words in the middle of a caption are none of it."""
    return REFUSAL.match(text.replace("\u2019", "'")) is not None


# What is wrong with an answer.


def _said(caption: Caption, settings: CaptionParams) -> tuple[str, Status, str]:
    """The answer as plain text, its status and what is wrong with it."""
    text = plain(caption.text)
    status, problem = _problem(text)
    if settings.output == "text" or status in ("empty", "refused"):
        return text, status, problem
    answer = _object(caption.text)
    fault = _fault(answer)
    if fault:
        return text, "malformed", f"cut off, {fault}" if caption.status == "truncated" else fault
    text = plain(_sentences(answer))
    return text, *_problem(text)


def _problem(text: str) -> tuple[Status, str]:
    """Why a text is no caption; ("ok", "") for one that is."""
    if not _has_words(text):
        return "empty", "no words are left of it"
    if refuses(text):
        return "refused", "the model declined"
    if repeats(text):
        return "repeated", "the same words over and over"
    return "ok", ""


def _has_words(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _fault(answer: Any) -> str:
    """In what a parsed answer departs from SCHEMA."""
    allowed = SCHEMA["properties"]
    if not isinstance(answer, dict):
        return "no JSON object"
    wrong = [f"lacks '{name}'" for name in allowed if name not in answer]
    wrong += [f"has an unknown '{captions.clean(name)[:QUOTED]}'" for name in answer if name not in allowed]
    for name, value in answer.items():
        if not isinstance(value, str):
            wrong.append(f"'{captions.clean(name)[:QUOTED]}' is no string")
        elif name in allowed and len(value) > allowed[name]["maxLength"]:
            wrong.append(f"'{name}' has {len(value)} characters, {allowed[name]['maxLength']} allowed")
    return f"JSON {wrong[0]}" if wrong else ""


def _loops(words: list[str]) -> bool:
    """Whether some phrase with a letter in it stands LOOPS times in a row."""
    numbers: dict[str, int] = {}
    of_word = np.array([numbers.setdefault(word, len(numbers)) for word in words])
    for period in range(1, min(LOOP_WORDS, len(words) // LOOPS) + 1):
        differs = np.flatnonzero(of_word[period:] != of_word[:-period])
        edges = np.concatenate([[-1], differs, [len(words) - period]])
        longest = int(np.argmax(np.diff(edges)))
        first, end = edges[longest] + 1, edges[longest + 1]
        if end - first >= (LOOPS - 1) * period and any(word.isalpha() for word in words[first : first + period]):
            return True
    return False


def _duplicate_share(words: list[str]) -> float:
    """The share of words that lie in a run of PHRASE words which stood before."""
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(words)
    for start in range(len(words) - PHRASE + 1):
        phrase = tuple(words[start : start + PHRASE])
        if phrase in seen:
            repeated[start : start + PHRASE] = [True] * PHRASE
        seen.add(phrase)
    return sum(repeated) / max(1, len(words))


# Length.


def _shortened(caption: Caption, text: str, max_words: int) -> Caption:
    """Whole sentences of at most `max_words`; the status says whether anything had to go."""
    count = len(text.split())
    cut_off = caption.status == "truncated"
    kept = captions.cut(_whole_sentences(text) if cut_off else text, max_words)
    reason = captions.clean(caption.reason)
    if count > max_words:
        too_long = f"{count} words, {max_words} allowed"
        return Caption(caption.window, kept, "truncated", f"{reason}; {too_long}" if reason else too_long)
    if cut_off and (kept != text or not reason):
        return Caption(caption.window, kept, "truncated", f"{reason or 'cut off'} after {count} words")
    return Caption(caption.window, kept, caption.status, reason)


def _whole_sentences(text: str) -> str:
    """`text` without a last sentence that was not finished, unless nothing else is said."""
    finished = " ".join(captions.SENTENCE_END.split(text)[:-1])
    return text if SENTENCE_FINISHED.search(text) or not _has_words(finished) else finished


# A chat model's habits.


def _plain_once(text: str) -> str:
    text = _spoken(text)
    answer = _parsed(FENCE.sub("", text).strip())
    if isinstance(answer, dict) and answer and all(isinstance(value, str) for value in answer.values()):
        text = _sentences(answer)
    text = captions.clean(_without_markdown(text))
    for preamble in PREAMBLES:
        text = text[match.end() :] if (match := preamble.match(text)) else text
    return _unquoted(text)


def _spoken(text: str) -> str:
    """The first turn of the answer proper: no thoughts, no special tokens, no invented further turns."""
    text = END_OF_THOUGHT.split(THOUGHT.sub(" ", text))[-1]  # a prompt may have opened the thought
    for turn in END_OF_TURN.split(text):
        spoken = SPECIAL_TOKEN.sub(" ", TURN.sub(" ", turn))
        if spoken.strip():
            return spoken
    return ""


def _without_markdown(text: str) -> str:
    text = RULE.sub("", FENCE.sub("", text))
    text = ITEM.sub(lambda match: _closed(match[1].strip(), "."), text)
    text = HEADING.sub(lambda match: _closed(match[1].strip(" \t#:"), ":"), text)
    return EMPHASIS.sub("", LINK.sub(r"\1", BLOCK_QUOTE.sub("", text)))


def _unquoted(text: str) -> str:
    """`text` without quotes around the whole of it."""
    close = QUOTES.get(text[:1])
    inner = text[1:-1]
    whole = close is not None and len(text) > 1 and text.endswith(close) and text[0] not in inner and close not in inner
    return inner.strip() if whole else text


# JSON.


def _object(text: str) -> Any:
    """What the braces of an answer enclose, parsed; None if that is no JSON."""
    spoken = _spoken(text)
    return _parsed(spoken[spoken.find("{") : spoken.rfind("}") + 1])


def _parsed(text: str) -> Any:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _sentences(answer: dict[str, str]) -> str:
    """A sentence for each property that says something, introduced by its name."""
    said = {name.replace("_", " "): value.strip() for name, value in answer.items() if value.strip()}
    return " ".join(f"{name[:1].upper()}{name[1:]}: {_closed(value, '.')}" for name, value in said.items())


def _closed(text: str, mark: str) -> str:
    return text if not text or SENTENCE_CLOSED.search(text[-3:]) else text + mark
