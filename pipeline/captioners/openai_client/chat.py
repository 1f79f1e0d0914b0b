"""A request for a chat completion and its answer, as OpenAI's chat interface has them and servers vary them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, Field

from pipeline.guard import SCHEMA
from pipeline.params import Caption as CaptionParams
from pipeline.pictures import Drawn

UNKNOWN_PARAMETER = re.compile(r"unknown|unrecogni[sz]ed|unexpected|extra|(?:un|not )(?:supported|permitted|allowed)")


class RejectedError(Exception):
    """The server will not answer this request, now or later."""

    def __init__(self, words: str, parameter: str | None) -> None:
        super().__init__(words)
        self.parameter = parameter


@dataclass(frozen=True)
class Dialect:
    """What a server calls or leaves out where servers differ."""

    limit: str = "max_tokens"
    seed: bool = True
    lengths: bool = True  # the longest text of a property, in a JSON schema

    def after(self, rejected: RejectedError) -> Dialect:
        """How to put it to a server that has said this; the same if it was something else that it disliked."""
        words = str(rejected).casefold()
        if "max_completion_tokens" in words and "max_tokens" in words:
            return replace(self, limit="max_completion_tokens")
        if "maxlength" in words:
            return replace(self, lengths=False)
        named = rejected.parameter == "seed" or (re.search(r"\bseed\b", words) and UNKNOWN_PARAMETER.search(words))
        return replace(self, seed=False) if named else self

    def body(self, drawn: Drawn, prompt: str, temperature: float, settings: CaptionParams) -> dict[str, Any]:
        """A chat completion's request."""
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(png)}} for png in drawn.pictures]
        body: dict[str, Any] = {
            "model": settings.openai.model,
            "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}],
            "temperature": temperature,
            "top_p": settings.sampling.top_p,
            self.limit: settings.sampling.max_tokens,
        }
        if self.seed:
            body["seed"] = drawn.request.seed
        if settings.output == "json":
            schema = {"name": "caption", "strict": True, "schema": SCHEMA if self.lengths else _without_lengths(SCHEMA)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _without_lengths(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_lengths(value) if isinstance(value, dict) else value
        for key, value in schema.items()
        if key != "maxLength"
    }


# The answer, as far as it is of use: servers add to it and leave out as they like.


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None


class Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(BaseModel):
    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Usage | None = None
