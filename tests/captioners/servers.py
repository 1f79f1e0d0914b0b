"""Servers on this machine for tests: one that speaks as much of OpenAI's chat interface as captions need, and a
proxy that puts faults between a client and such a server, by a seeded plan."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from pipeline.captioners.openai_client.background import event_loop

PATH = "/v1/chat/completions"
FAULTS = ("none", "none", "drop", "drop after", "delay", "429", "500", "garbage", "hang")
MOST_FAULTS = 3  # of one request; then it gets through
PLENTY = 1 << 26  # bytes of a request

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def listening(handler: Handler) -> Iterator[str]:
    """`handler` on a free port of 127.0.0.1, in a thread of its own; gives the address up to /v1."""
    with event_loop() as loop:
        runner = asyncio.run_coroutine_threadsafe(_start(handler), loop).result()
        host, port = runner.addresses[0]
        try:
            yield f"http://{host}:{port}/v1"
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()


async def _start(handler: Handler) -> web.AppRunner:
    app = web.Application(client_max_size=PLENTY)
    app.router.add_post(PATH, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


@dataclass
class Asked:
    """One request as the server saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    time: float  # monotonic, seconds

    @property
    def text(self) -> str:
        return str(self.body["messages"][0]["content"][-1]["text"])

    @property
    def pictures(self) -> tuple[bytes, ...]:
        urls = [part["image_url"]["url"] for part in self.body["messages"][0]["content"][:-1]]
        return tuple(base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True) for url in urls)


Reply = Callable[[Asked, int], Awaitable[web.Response] | web.Response | None]


@dataclass
class Server:
    """Answers by `reply`, from the request and its number; None breaks the connection. Remembers what it saw."""

    reply: Reply
    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(await request.json(), dict(request.headers), time.monotonic())
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self.reply(asked, len(self.asked) - 1)
            response = await reply if isinstance(reply, Awaitable) else reply
        finally:
            self.in_flight -= 1
        return response if response is not None else cut_off(request)


@contextmanager
def serving(reply: Reply) -> Iterator[tuple[Server, str]]:
    server = Server(reply)
    with listening(server.handle) as address:
        yield server, address


def cut_off(request: web.Request) -> web.Response:
    """Breaks the connection instead of answering."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def completion(
    text: str | None, finish: str = "stop", tokens: tuple[int, int] | None = (100, 10), refusal: str | None = None
) -> web.Response:
    """A chat completion; tokens: of the prompt and of the answer."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = (
        {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)} if tokens else None
    )
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return web.json_response(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def failure(
    status: int, words: str, headers: dict[str, str] | None = None, code: str | None = None, param: str | None = None
) -> web.Response:
    """An error in OpenAI's form."""
    error = {"message": words, "type": "error", "param": param, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


class Proxy:
    """Passes requests on to `upstream`, or does them harm as `seed`, the request and the number of the try decide."""

    def __init__(self, upstream: str, seed: int, hang_seconds: float, faults: tuple[str, ...] = FAULTS) -> None:
        self.upstream = upstream.removesuffix("/v1") + PATH
        self.seed, self.hang_seconds, self.faults = seed, hang_seconds, faults
        self.tries: Counter[str] = Counter()  # by the request's digest
        self.done: Counter[str] = Counter()  # by the fault's name

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        digest = hashlib.sha256(body).hexdigest()
        number = self.tries[digest]
        self.tries[digest] += 1
        plan = random.Random(f"{self.seed} {digest} {number}")
        fault = plan.choice(self.faults) if number < MOST_FAULTS else "none"
        self.done[fault] += 1
        return await self._with(fault, request, body)

    async def _with(self, fault: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if fault == "drop":
            return cut_off(request)
        if fault == "429":
            return failure(429, "slow down", {"Retry-After": "0.05"})
        if fault == "500":
            return web.Response(status=500, text="<html>Internal Server Error</html>")
        if fault == "garbage":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if fault in ("hang", "delay"):
            await asyncio.sleep(self.hang_seconds if fault == "hang" else 0.1)
        async with (
            aiohttp.ClientSession() as client,
            client.post(self.upstream, data=body, headers=_kept(request)) as got,
        ):
            content = await got.read()
        if fault == "drop after":
            return cut_off(request)
        return web.Response(status=got.status, body=content, content_type=got.content_type)


def _kept(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in ("Content-Type", "Authorization") if name in request.headers}


@contextmanager
def proxied(upstream: str, seed: int, hang_seconds: float) -> Iterator[tuple[Proxy, str]]:
    proxy = Proxy(upstream, seed, hang_seconds)
    with listening(proxy.handle) as address:
        yield proxy, address
