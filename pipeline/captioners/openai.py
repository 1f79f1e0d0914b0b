"""A captioner that asks a server with OpenAI's chat interface: a vLLM server, GPT-4o and their like.

Pictures go as PNG data URLs in the message's content parts, before the prompt; the interface knows no video, so
layout "video" sends its frames as images, in their order. The `openai` package makes each single try. Its own
retries are switched off, for they give up where a server asks for more than two minutes of patience, take an answer
that is no chat completion for good, and hide what may have been billed from the budget.

The first request goes alone. It finds out whether the server is there and takes the key, the model and our names of
parameters, and how many tokens a picture has.

caption.openai.budget holds for one run: what earlier runs spent is not known here. Asking stops before the requests
in flight could exceed it, each at the longest prompt seen so far (and a tenth) and max_tokens of output; only
the first request's prompt is not foreseen. Tries whose answer was lost count in full, since they may be billed.

The key comes from the environment variable caption.openai.key_variable and from nowhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.multimodal import Multimodal
from pipeline.captioners.openai_client.background import as_finished, event_loop
from pipeline.captioners.openai_client.bill import Bill
from pipeline.captioners.openai_client.chat import Choice, Completion, Dialect, RejectedError
from pipeline.captioners.openai_client.gate import BudgetSpentError, Gate
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.params import OpenAI as Options
from pipeline.pictures import Drawn

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled from try to try
CONNECT_SECONDS = 10.0
LONG_WAIT = 60.0  # seconds; a server that asks for more is worth a line in the log
NO_KEY = "EMPTY"  # for servers on this machine, which want none but the package does
SHORTEST_SECRET = 8  # characters; a shorter key may be a word of a caption
WORDS = 300  # characters of a server's words that are repeated
SETTINGS = {  # what a server names when it will not have a value -> where the value stands
    "model": "caption.openai.model",
    "temperature": "caption.sampling.temperature",
    "top_p": "caption.sampling.top_p",
    "response_format": "caption.output",
}
ADDRESS = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[\w-]{1,63}(\.[\w-]{1,63})*)(:\d{1,5})?(/\S*)?", re.ASCII)

log = logging.getLogger(__name__)


class OpenAI(Multimodal):
    """Asks caption.openai.model at caption.openai.server, caption.openai.in_flight requests at a time.

    A request that the server will not answer costs its row; one that finds it busy, broken or silent is tried
    again up to caption.openai.retries times. UserError: the server cannot be reached, refuses the key or knows no
    such model; the budget is spent. What had been asked for by then is waited for and yielded first.
    """

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError for an address that is none or holds a secret, and for a budget without prices."""
        super().__init__(settings, seed, dataset)
        options = settings.openai
        _check(options)
        self.model = options.model
        self.bill = Bill(options, settings.sampling.max_tokens)
        self.dialect = Dialect()
        self.known = False  # the server, which has answered

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "server": self.settings.openai.server.rstrip("/")}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        """One caption a request, as they come. See the class for what raises."""
        taken = Taken(requests)
        given = 0
        with event_loop() as loop, _connected(self, loop) as talk, closing(self.drawn(taken)) as drawn:
            jobs = (talk.caption(each) for each in takewhile(lambda _: talk.gate.trouble is None, drawn))
            with closing(as_finished(loop, jobs, 2 * self.settings.openai.in_flight)) as captions:
                for caption in captions:
                    if caption is not None:
                        given += 1
                        yield caption
        if isinstance(talk.gate.trouble, BudgetSpentError):
            left = taken.count - given + sum(1 for _ in taken.requests)
            raise UserError(f"{talk.gate.trouble}; {left} windows are left")
        if talk.gate.trouble is not None:
            raise UserError(str(talk.gate.trouble))  # a new one: the old may hang on an error that holds the key

    def close(self) -> str:
        return self.bill.sentence() if self.bill.answers or self.bill.lost else ""


class Taken:
    """Requests that counts how many were taken."""

    def __init__(self, requests: Iterable[CaptionRequest]) -> None:
        self.requests = iter(requests)
        self.count = 0

    def __iter__(self) -> Iterator[CaptionRequest]:
        for request in self.requests:
            self.count += 1
            yield request


@contextmanager
def _connected(captioner: OpenAI, loop: asyncio.AbstractEventLoop) -> Iterator[Talk]:
    talk = Talk(captioner)
    try:
        yield talk
    finally:
        asyncio.run_coroutine_threadsafe(talk.client.close(), loop).result()


# What can become of a try.


class LostError(Exception):
    """A try without a usable answer; another may succeed. wait: seconds that the server asks to be left alone."""

    def __init__(self, words: str, wait: float | None = None, billed: bool = False, reached: bool = True) -> None:
        super().__init__(words)
        self.wait, self.billed, self.reached = wait, billed, reached


class Talk:
    """One stream of requests to the server."""

    def __init__(self, captioner: OpenAI) -> None:
        """Raises UserError if a key is needed and the environment has none, or if the package is missing."""
        self.captioner = captioner
        self.settings, self.bill = captioner.settings, captioner.bill
        self.options = captioner.settings.openai
        self.secret = _key(self.options)
        self.client = _client(self.options, self.secret)
        self.gate = Gate(self.bill, places=self.options.in_flight if captioner.known else 1)

    async def caption(self, drawn: Drawn) -> Caption | None:
        """The answer for one window; None if there was trouble before one came."""
        if drawn.error:
            return Caption(drawn.request.window, "", "failed", drawn.error)
        try:
            async with self.gate.turn():
                return await self._tried(drawn)
        except UserError as error:
            await self.gate.stop(error)
            return None

    # ---- one request

    async def _tried(self, drawn: Drawn) -> Caption:
        """Tries until there is an answer, or enough tries were made."""
        window, tries = drawn.request.window, self.options.retries + 1
        for number in range(tries):
            await self.gate.ready()
            self.bill.retries += number > 0
            try:
                return await self._asked(drawn)
            except RejectedError as rejected:
                return Caption(window, "", "failed", f"the server says: {rejected}")
            except LostError as error:
                lost = error
            if lost.billed:
                self.bill.lose()
            if number + 1 < tries:
                await self._back_off(lost, number)
        if not lost.reached:
            raise UserError(f"caption.openai.server = '{self.options.server}' cannot be reached: {lost}")
        return Caption(window, "", "failed", f"{lost}, after {tries} tries")

    async def _back_off(self, lost: LostError, number: int) -> None:
        if not (lost.reached or self.captioner.known):
            log.warning("%s cannot be reached, trying again: %s", self.options.server, lost)
        if lost.wait is None:
            await self.gate.pause(min(FIRST_WAIT * 2**number, LONGEST_WAIT) * random.uniform(0.75, 1))
            return
        if lost.wait > LONG_WAIT:
            log.warning("%s asks to be left alone for %.0f s", self.options.server, lost.wait)
        self.gate.leave_alone(lost.wait)

    async def _asked(self, drawn: Drawn) -> Caption:
        """One try, in the server's dialect."""
        captioner, request = self.captioner, drawn.request
        prompt, temperature = captioner.prompt_for(request), captioner.temperature(request)
        dialect = captioner.dialect
        while True:
            try:
                text = await self._posted(dialect.body(drawn, prompt, temperature, self.settings))
            except RejectedError as rejected:
                other = dialect.after(rejected)
                if other == dialect:
                    raise
                dialect = other
                continue
            completion = self._completion(text)
            self._learn(dialect)
            await self._count(completion)
            return self._caption(request.window, completion.choices[0])

    def _learn(self, dialect: Dialect) -> None:
        """Keeps what has led to an answer."""
        if self.captioner.dialect.seed and not dialect.seed:
            log.warning("%s takes no seed: captions cannot be reproduced", self.options.server)
        self.captioner.dialect = dialect
        self.captioner.known = True
        self.gate.places = self.options.in_flight

    async def _posted(self, body: dict[str, Any]) -> str:
        """The body of a good answer. Raises LostError, RejectedError or UserError for every other outcome."""
        import httpx2
        import openai

        seconds = self.options.timeout_seconds
        try:
            async with asyncio.timeout(seconds):  # of all of it; the package's own is for each part
                response = await self.client.post("/chat/completions", body=body, cast_to=httpx2.Response)
                return response.text
        except (openai.APITimeoutError, TimeoutError) as error:
            reached = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            raise LostError(f"no answer within {seconds:g} s", billed=reached, reached=reached) from None
        except openai.APIConnectionError as error:
            reached = not isinstance(error.__cause__, httpx2.ConnectError)
            words = self._clean(str(error.__cause__ or error)) or "no reason given"
            raise LostError(f"the connection broke: {words}", billed=reached, reached=reached) from None
        except openai.APIStatusError as error:
            raise self._outcome(error) from None

    def _outcome(self, error: APIStatusError) -> Exception:
        """What an answer with an error's status means."""
        status, words, server = error.status_code, self._words(error), f"'{self.options.server}'"
        if status in (401, 403):
            variable = f"the environment variable {self.options.key_variable}"
            held = "holds" if self.secret.get_secret_value() != NO_KEY else "should hold"
            return UserError(f"caption.openai.server = {server} refuses the key that {variable} {held}: {words}")
        if status == 402 or error.code == "insufficient_quota":
            return UserError(f"caption.openai.server = {server} wants to be paid first: {words}")
        if status == 404 and (error.code == "model_not_found" or "model" in words.casefold()):
            return UserError(f"caption.openai.model = '{self.options.model}' is unknown to {server}: {words}")
        if status == 404 and not self.captioner.known:
            return UserError(
                f"caption.openai.server = {server} has no /chat/completions (does it end in /v1?): {words}"
            )
        setting = SETTINGS.get(str(error.param))
        if setting is not None:
            return UserError(f"{setting} does not suit '{self.options.model}' at {server}: {words}")
        if status in (408, 409, 425, 429) or status >= 500:
            return LostError(f"HTTP {status}: {words}", wait=_retry_after(error.response.headers.get("retry-after")))
        return RejectedError(f"HTTP {status}: {words}", error.param)

    # ---- reading

    def _completion(self, text: str) -> Completion:
        try:
            return Completion.model_validate_json(text)
        except ValidationError:
            words = self._clean(text) or "nothing"
            raise LostError(f"an answer that is no chat completion: {words}", billed=True) from None

    async def _count(self, completion: Completion) -> None:
        usage = completion.usage
        self.bill.add(*(usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0))
        if self.options.budget is not None and not (usage and usage.prompt_tokens):
            words = "gives no token counts, so that caption.openai.budget cannot be kept"
            await self.gate.stop(UserError(f"caption.openai.server = '{self.options.server}' {words}"))

    def _caption(self, window: int, choice: Choice) -> Caption:
        text = choice.message.content or ""
        if len(self.secret.get_secret_value()) >= SHORTEST_SECRET:
            text = self._without_key(text)
        if choice.message.refusal:
            return Caption(window, text, "refused", f"the model declined: {self._clean(choice.message.refusal)}")
        if choice.finish_reason == "content_filter":
            return Caption(window, text, "refused", "withheld by the server's content filter")
        if choice.finish_reason == "length":
            return Caption(window, text, "truncated", f"cut off at {self.settings.sampling.max_tokens} tokens")
        return Caption(window, text)

    def _words(self, error: APIStatusError) -> str:
        body = error.body
        message = body.get("message") if isinstance(body, dict) else None
        return self._clean(message if isinstance(message, str) else str(body or "")) or "no reason given"

    def _clean(self, text: str) -> str:
        """A server's words on one line, without the key."""
        printable = "".join(letter if letter.isprintable() else " " for letter in self._without_key(text)[: 4 * WORDS])
        return " ".join(printable.split())[:WORDS]

    def _without_key(self, text: str) -> str:
        key = self.secret.get_secret_value()
        return text if key == NO_KEY else text.replace(key, "<key>")


def _client(options: Options, secret: SecretStr) -> AsyncOpenAI:
    """Proxies of the environment are not for servers on this machine."""
    try:
        import openai
    except ImportError:
        raise UserError("captioner 'openai' needs the package openai: pip install 's2kd[openai]'") from None

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line for each request
    timeout = openai.Timeout(options.timeout_seconds, connect=min(CONNECT_SECONDS, options.timeout_seconds))
    transport = openai.DefaultAsyncHttpxClient(trust_env=not _on_this_machine(options.server))
    key = secret.get_secret_value()
    return openai.AsyncOpenAI(
        base_url=options.server,
        api_key=key,
        default_headers={"Authorization": f"Bearer {key}"},  # before one in the variable OPENAI_CUSTOM_HEADERS
        timeout=timeout,
        max_retries=0,
        http_client=transport,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds from now of a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


# The settings.


def _check(options: Options) -> None:
    server = options.server
    if re.search(r"[@?#]|\bsk-\w{8}", server):
        raise UserError(
            "caption.openai.server holds more than an address (a name, password, key or query, not repeated here); "
            "put the key into the environment variable that caption.openai.key_variable names"
        )
    if not re.fullmatch(r"[A-Za-z_]\w*", options.key_variable):
        raise UserError(
            "caption.openai.key_variable is no name of an environment variable; give the variable's name, not the key"
        )
    if not ADDRESS.fullmatch(server):
        raise UserError(f"caption.openai.server = '{server}' is no address such as http://127.0.0.1:8000/v1")
    if options.budget is not None and not (options.prices.input or options.prices.output):
        raise UserError(f"caption.openai.budget = {options.budget:g} needs caption.openai.prices, which are all 0")


def _key(options: Options) -> SecretStr:
    key = os.environ.get(options.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {options.key_variable} holds characters that no key has")
    if not key and not _on_this_machine(options.server):
        raise UserError(
            f"caption.openai.server = '{options.server}' needs a key, and the environment variable "
            f"{options.key_variable} (caption.openai.key_variable) holds none"
        )
    return SecretStr(key or NO_KEY)


def _on_this_machine(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
