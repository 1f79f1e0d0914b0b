"""docs/troubleshooting.md quotes what the code says: a message that was reworded must not live on in the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
FOREIGN = (  # DVC's words and the system's
    *("Key ", "Sweep overrides", "unexpected error", "YAML file structure", "No file hash info", "Stage '"),
    *("No such file", "... is busy", "exited with", "config file error", "No remote provided", "failed to connect"),
    *("Could not connect", "Checkout failed", "a queued experiment", "Author identity"),
)


def messages() -> list[str]:
    """What stands in backticks in the first column of the page's tables."""
    rows = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    return [message for message in quoted if not message.startswith(FOREIGN)]


def words_of_the_code() -> str:
    """All texts of the library, with what is filled in left out."""
    texts = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(each.value) if isinstance(each, ast.Constant) else "\0" for each in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


WORDS = words_of_the_code()


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_of_the_codes(message: str) -> None:
    """Some run of its words, about as long as what stands between two values, is in the code as it stands."""
    words = message.split()
    pairs = [(first, end) for first in range(len(words)) for end in range(first + 2, len(words) + 1)]
    runs = (" ".join(words[first:end]).strip(" :;,()") for first, end in pairs)
    assert max((len(run) for run in runs if run in WORDS), default=0) >= 10


def test_another_message_is_not_found() -> None:
    with pytest.raises(AssertionError):
        test_a_quoted_message_is_one_of_the_codes("Zebras sneeze; rest awhile, windows")
