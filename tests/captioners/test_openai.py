"""A server that is slow, broken, strict, dear or silent costs what it must and no more: no window lost or doubled."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from pipeline.captioners import openai as module
from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.openai import OpenAI, _retry_after
from pipeline.captioners.openai_client.bill import Bill
from pipeline.errors import UserError
from pipeline.guard import SCHEMA
from pipeline.params import Caption as CaptionParams
from pipeline.pictures import Drawn
from tests.captioners.servers import Asked, Proxy, completion, failure, listening, proxied, serving
from tests.captioners.tiny_vlm import save_tiny_vlm
from tests.fields import describe

pytest.importorskip("openai", reason="the extra 'openai' is not installed")

KEY = "sk-test-0123456789abcdef"
DESCRIPTION = describe()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between tries, and no key from outside."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Asking(OpenAI):
    """Shows its window's number instead of a drawn picture, to spare the processes that draw."""

    def drawn(self, requests: Iterable[CaptionRequest]) -> Generator[Drawn, None, None]:
        for request in requests:
            yield Drawn(request, (f"window {request.window}".encode(),))


def captioner(server: str, kind: type[OpenAI] = Asking, **settings: Any) -> OpenAI:
    """`settings`: of the section caption.openai, but for `caption`, which is of the section above it."""
    section = {"sampling": {"max_tokens": 20}, **settings.pop("caption", {})}
    options = {"server": server, "model": "m", "timeout_seconds": 10, "in_flight": 8, **settings}
    return kind(CaptionParams.model_validate(section | {"openai": options}), 42, "weather_twin")


def requests(count: int, attempt: int = 0) -> Iterator[CaptionRequest]:
    times = np.arange(2).astype("datetime64[s]")
    inputs = np.zeros((2, len(DESCRIPTION.variables), *DESCRIPTION.grid.shape), dtype=np.float32)
    for window in range(count):
        yield CaptionRequest(window, inputs, times, DESCRIPTION, attempt, seed=1000 + window)


def echo(asked: Asked, number: int = 0) -> web.Response:
    """A server's answer that tells which picture it got."""
    return completion(f"seen: {asked.pictures[0].decode()}")


def every_window_once(captions: Iterable[Caption], count: int) -> None:
    captions = list(captions)
    assert Counter(caption.window for caption in captions) == Counter(range(count))
    assert {caption.text for caption in captions} == {f"seen: window {window}" for window in range(count)}
    assert all(caption.text.endswith(f" {caption.window}") for caption in captions)


def asked_again(answers: dict[int, web.Response | None]) -> Any:
    """Answers the first tries by `answers` (by number), all others well."""
    return lambda asked, number: answers[number] if number in answers else echo(asked)


# Asking.


def test_every_window_gets_the_answer_to_its_own_picture() -> None:
    with serving(echo) as (_, address):
        every_window_once(captioner(address).captions(requests(50)), 50)


async def in_any_order(asked: Asked, number: int) -> web.Response:
    await asyncio.sleep(0.001 * (number * 7919 % 60))
    return echo(asked)


def test_the_bound_on_requests_in_flight_is_reached_and_kept() -> None:
    with serving(in_any_order) as (server, address):
        captions = list(captioner(address, in_flight=5).captions(requests(40)))
        every_window_once(captions, 40)
    assert server.most_in_flight == 5
    assert [caption.window for caption in captions] != list(range(40))


def test_the_first_request_goes_alone() -> None:
    async def slowly(asked: Asked, number: int) -> web.Response:
        alone.append(server.in_flight == 1)
        await asyncio.sleep(0.1 if number == 0 else 0)
        alone.append(server.in_flight == 1)
        return echo(asked)

    alone: list[bool] = []
    with serving(slowly) as (server, address):
        every_window_once(captioner(address).captions(requests(10)), 10)
    assert alone[:2] == [True, True]


def test_requests_are_read_only_a_little_ahead_and_in_the_callers_thread() -> None:
    def watched() -> Iterator[CaptionRequest]:
        for request in requests(100):
            taken.append(threading.current_thread())
            yield request

    taken: list[threading.Thread] = []
    with serving(echo) as (_, address):
        captions = captioner(address, in_flight=2).captions(watched())
        for given in range(1, 20):
            next(captions)
            assert len(taken) <= given + 4
        captions.close()  # type: ignore[attr-defined]
    assert set(taken) == {threading.current_thread()}
    assert len(taken) < 30


def test_captions_come_while_others_are_still_under_way() -> None:
    async def some_never(asked: Asked, number: int) -> web.Response:
        if number == 1:
            await asyncio.sleep(30)
        return echo(asked)

    with serving(some_never) as (_, address):
        captions = captioner(address, in_flight=3).captions(requests(4))
        assert {next(captions).window for _ in range(3)} < set(range(4))
        captions.close()  # type: ignore[attr-defined]


def test_closing_cancels_what_is_in_flight_and_leaves_no_thread() -> None:
    async def hung(asked: Asked, number: int) -> web.Response:
        await asyncio.sleep(60 if number else 0.2)
        return echo(asked)

    before = threading.active_count()
    with serving(hung) as (server, address):
        captions = captioner(address).captions(requests(100))
        next(captions)
        until(lambda: server.in_flight == 8)
        start = time.monotonic()
        captions.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 5
        assert threading.active_count() == before + 1  # the server's
        asked = len(server.asked)
        time.sleep(0.1)
        assert len(server.asked) == asked


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_prompt_the_pictures_and_the_sampling_are_sent() -> None:
    settings = {"sampling": {"temperature": 0.2, "retry_temperature": 0.9, "top_p": 0.8, "max_tokens": 77}}
    with serving(echo) as (server, address):
        asking = captioner(address, caption=settings)
        (request,) = requests(1)
        list(asking.captions([request]))
        list(asking.captions([replace(request, attempt=1, seed=5)]))
    first, second = (asked.body for asked in server.asked)
    assert (first["temperature"], first["top_p"], first["max_tokens"], first["seed"]) == (0.2, 0.8, 77, 1000)
    assert (second["temperature"], second["seed"]) == (0.9, 5)
    assert first["model"] == "m"
    assert "response_format" not in first
    assert server.asked[0].text == asking.prompt_for(request)


def test_drawn_pictures_arrive_as_png_one_for_each_frame_of_a_video() -> None:
    for layout, count in (("sheet", 1), ("video", 2)):
        with serving(lambda asked, number: completion("ok")) as (server, address):
            asking = captioner(address, OpenAI, caption={"picture": {"layout": layout, "pixels": 64}})
            list(asking.captions(requests(2)))
            (request, _) = requests(2)
        assert len(server.asked[0].pictures) == count
        assert server.asked[0].pictures == asking.shown(request).pictures


def test_a_window_that_cannot_be_drawn_costs_its_row_and_no_request() -> None:
    class Half(Asking):
        def drawn(self, requests: Iterable[CaptionRequest]) -> Generator[Drawn, None, None]:
            for drawn in super().drawn(requests):
                yield drawn if drawn.request.window % 2 else Drawn(drawn.request, (), "NaN in it")

    with serving(echo) as (server, address):
        captions = list(captioner(address, Half).captions(requests(10)))
    assert sorted(caption.window for caption in captions if caption.status == "ok") == [1, 3, 5, 7, 9]
    assert {caption.reason for caption in captions if caption.status == "failed"} == {"NaN in it"}
    assert len(server.asked) == 5


def test_json_output_asks_for_the_guards_schema() -> None:
    with serving(echo) as (server, address):
        list(captioner(address, caption={"output": "json"}).captions(requests(1)))
    form = server.asked[0].body["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)


# Dialects.


def strict(asked: Asked, number: int) -> web.Response:
    """Refuses what OpenAI's newer models and some other servers refuse, one thing at a time."""
    if "max_tokens" in asked.body:
        words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return failure(400, words, code="unsupported_parameter", param="max_tokens")
    if "seed" in asked.body:
        detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
        return web.json_response({"detail": detail}, status=422)
    if "maxLength" in json.dumps(asked.body):
        return failure(400, "Invalid schema: In context=('properties', 'state'), 'maxLength' is not permitted.")
    return echo(asked)


def test_a_servers_own_names_are_learnt_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    with serving(strict) as (server, address):
        asking = captioner(address, caption={"output": "json"})
        every_window_once(asking.captions(requests(20)), 20)
        every_window_once(asking.captions(requests(20, attempt=1)), 20)
    assert len(server.asked) == 3 + 40
    assert server.asked[-1].body["max_completion_tokens"] == 20
    assert "takes no seed" in caplog.text


def test_a_rejection_that_only_mentions_the_seed_costs_its_row_and_the_seed_is_kept() -> None:
    def moody(asked: Asked, number: int) -> web.Response:
        if asked.pictures[0] == b"window 0":
            return failure(400, "unknown trouble with a body of seed: 1000")
        return echo(asked)

    with serving(moody) as (server, address):
        captions = list(captioner(address).captions(requests(5)))
    assert Counter(caption.status for caption in captions) == {"failed": 1, "ok": 4}
    assert all("seed" in asked.body for asked in server.asked[2:])


# Trying again.


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_busy_or_broken_server_is_asked_again(status: int) -> None:
    with serving(asked_again({0: failure(status, "no"), 3: failure(status, "no")})) as (server, address):
        asking = captioner(address)
        every_window_once(asking.captions(requests(6)), 6)
    assert len(server.asked) == 8
    assert "2 retries" in asking.close()


GARBAGE = {
    "not JSON": web.Response(text="<html>hello</html>"),
    "cut JSON": web.Response(text='{"choices": [{"mess', content_type="application/json"),
    "a list": web.json_response([1, 2]),
    "null": web.json_response(None),
    "no choices": web.json_response({"choices": []}),
    "no message": web.json_response({"choices": [{"finish_reason": "stop"}]}),
    "an error in disguise": web.json_response({"error": {"message": "overloaded"}}),
    "numbers for text": web.json_response({"choices": [{"message": {"content": 7}}]}),
    "nothing": web.Response(text=""),
    "no UTF-8": web.Response(body=b"\xff\xfe\x00", content_type="application/json"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_a_failed_try(kind: str) -> None:
    garbage = GARBAGE[kind]
    assert isinstance(garbage.body, bytes | None)

    def reply(asked: Asked, number: int) -> web.Response:
        again = web.Response(body=garbage.body, content_type=garbage.content_type)
        return again if asked.pictures[0] == b"window 3" or number == 0 else echo(asked)

    with serving(reply) as (server, address):
        captions = {caption.window: caption for caption in captioner(address, retries=2).captions(requests(6))}
    assert Counter(caption.status for caption in captions.values()) == {"ok": 5, "failed": 1}
    assert "no chat completion" in captions[3].reason
    assert "after 3 tries" in captions[3].reason
    assert len(server.asked) == 1 + 5 + 3


def test_a_broken_connection_is_a_failed_try() -> None:
    with serving(asked_again({0: None, 2: None, 3: None})) as (server, address):
        every_window_once(captioner(address).captions(requests(6)), 6)
    assert len(server.asked) == 9


def test_a_silent_server_is_asked_again_after_the_time_out() -> None:
    async def silent_at_first(asked: Asked, number: int) -> web.Response:
        if number in (1, 2):
            await asyncio.sleep(30)
        return echo(asked)

    with serving(silent_at_first) as (_, address):
        start = time.monotonic()
        every_window_once(captioner(address, timeout_seconds=0.4).captions(requests(6)), 6)
        assert 0.4 < time.monotonic() - start < 5


def test_an_answer_that_drips_does_not_outlast_the_time_out() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    with listening(drip) as address:
        (caption,) = captioner(address, timeout_seconds=0.3, retries=1).captions(requests(1))
    assert caption.status == "failed"
    assert "no answer within 0.3 s" in caption.reason


def test_the_last_try_that_fails_costs_one_row() -> None:
    def reply(asked: Asked, number: int) -> web.Response:
        return failure(503, "busy with it") if asked.pictures[0] == b"window 2" else echo(asked)

    with serving(reply) as (server, address):
        captions = {caption.window: caption for caption in captioner(address, retries=3).captions(requests(5))}
    assert captions[2] == Caption(2, "", "failed", "HTTP 503: busy with it, after 4 tries")
    assert sum(caption.status == "ok" for caption in captions.values()) == 4
    assert len(server.asked) == 4 + 4


def test_waits_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.3)
    with serving(lambda asked, number: failure(500, "no")) as (server, address):
        list(captioner(address, retries=4).captions(requests(1)))
    times = np.diff([asked.time for asked in server.asked])
    for wait, expected in zip(times, (0.1, 0.2, 0.3, 0.3), strict=True):
        assert 0.75 * expected <= wait < expected + 0.2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_by_all_requests(status: int) -> None:
    async def reply(asked: Asked, number: int) -> web.Response:
        if number == 3:
            return failure(status, "wait", {"Retry-After": "0.7"})
        await asyncio.sleep(0.1)
        return echo(asked)

    with serving(reply) as (server, address):
        every_window_once(captioner(address).captions(requests(30)), 30)
    asked_at = [asked.time for asked in server.asked]
    refused = asked_at[3]
    assert asked_at[9] - refused > 0.65  # the eight before it were in flight by then
    assert len(asked_at) == 31


def test_retry_after_may_be_a_date_and_longer_than_any_backoff() -> None:
    def reply(asked: Asked, number: int) -> web.Response:
        later = formatdate(time.time() + 2, usegmt=True)  # whole seconds: 1 to 2
        return failure(429, "wait", {"Retry-After": later}) if number == 0 else echo(asked)

    with serving(reply) as (server, address):
        list(captioner(address).captions(requests(1)))
    assert 0.9 < server.asked[1].time - server.asked[0].time < 2.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), ("0.5", 0.5), ("7200", 7200), ("-1", 0), ("inf", None), ("nan", None), ("soon", None), ("", None)],
)
def test_retry_after_is_read_as_seconds(value: str, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    assert _retry_after(None) is None
    assert _retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0
    assert _retry_after(formatdate(time.time() + 1000, usegmt=True)) == pytest.approx(1000, abs=2)


# What costs a row, and what ends the run.


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_request_that_the_server_will_not_answer_costs_one_row_and_no_retry(status: int) -> None:
    def reply(asked: Asked, number: int) -> web.Response:
        return failure(status, "this picture\x1b[31m is bad") if asked.pictures[0] == b"window 2" else echo(asked)

    with serving(reply) as (server, address):
        captions = {caption.window: caption for caption in captioner(address).captions(requests(5))}
    assert captions[2].status == "failed"
    assert captions[2].reason == f"the server says: HTTP {status}: this picture [31m is bad"
    assert sum(caption.status == "ok" for caption in captions.values()) == 4
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failure(401, "bad key"), "refuses the key that the environment variable OPENAI_API_KEY should hold: bad key"),
        (failure(403, "not yours"), "refuses the key"),
        (failure(402, "balance is 0"), "wants to be paid first: balance is 0"),
        (failure(429, "you exceeded your quota", code="insufficient_quota"), "wants to be paid first"),
        (failure(404, "The model `m` does not exist."), "caption.openai.model = 'm' is unknown"),
        (failure(404, "nothing", code="model_not_found"), "caption.openai.model = 'm' is unknown"),
        (failure(404, "Not Found"), "does it end in /v1"),
        (failure(400, "only 1 is allowed", param="temperature"), "caption.sampling.temperature does not suit 'm'"),
    ],
)
def test_what_would_fail_for_every_window_ends_the_run_after_one_request(reply: web.Response, words: str) -> None:
    def same(asked: Asked, number: int) -> web.Response:
        return web.Response(body=reply.body, status=reply.status, content_type="application/json")

    with serving(same) as (server, address):
        with pytest.raises(UserError) as error:
            list(captioner(address).captions(requests(20)))
        assert words in str(error.value)
        assert address in str(error.value)
        assert len(server.asked) == 1


def test_what_was_under_way_when_trouble_came_is_still_given() -> None:
    async def reply(asked: Asked, number: int) -> web.Response:
        await asyncio.sleep(0.05 if number == 4 else 0.3)
        return failure(401, "key was withdrawn") if number == 4 else echo(asked)

    given: list[Caption] = []
    with serving(reply) as (server, address), pytest.raises(UserError, match="key was withdrawn"):
        given.extend(captioner(address, in_flight=4).captions(requests(50)))
    assert len(server.asked) == 5
    assert len(given) == 4


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="cannot be reached") as error:
        list(captioner(address, retries=1).captions(requests(5)))
    assert address in str(error.value)


def test_a_host_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match=r"http://nowhere\.invalid/v1' cannot be reached"):
        list(captioner("http://nowhere.invalid/v1", retries=0).captions(requests(5)))


# Answers that are no captions.


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (lambda: completion("half a", "length"), "truncated", "cut off at 20 tokens"),
        (lambda: completion(None, "content_filter"), "refused", "content filter"),
        (lambda: completion(None, refusal="I will not."), "refused", "I will not."),
        (lambda: completion(None), "ok", ""),
        (lambda: completion("fine", tokens=None), "ok", ""),
    ],
)
def test_cut_off_and_withheld_answers_are_told_apart(reply: Any, status: str, words: str) -> None:
    with serving(lambda asked, number: reply()) as (_, address):
        (caption,) = captioner(address).captions(requests(1))
    assert caption.status == status
    assert words in caption.reason


# The bill and the budget.

PRICES = {"input": 1000.0, "output": 10000.0}  # a million tokens; 100 in and 10 out cost 0.2, 20 out 0.3


def test_the_bill_counts_requests_tokens_and_money() -> None:
    with serving(asked_again({2: failure(500, "no"), 4: web.Response(text="?")})) as (_, address):
        asking = captioner(address, prices=PRICES)
        assert asking.close() == ""
        list(asking.captions(requests(10)))
        list(asking.captions(requests(2, attempt=1)))
        bill = asking.close()
    assert "12 answers, 2 retries, 1200 tokens in, 120 tokens out, which cost 2.4" in bill
    assert "1 try without a usable answer may have been billed too, up to 0.31 more" in bill


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize("spend", [10, 20])
def test_the_budget_is_used_and_never_overspent(in_flight: int, spend: int) -> None:
    async def reply(asked: Asked, number: int) -> web.Response:
        await asyncio.sleep(0.005)
        return completion("fine", tokens=(100, spend))

    each = 0.1 + 0.01 * spend
    with serving(reply) as (server, address):
        given: list[Caption] = []
        asking = captioner(address, in_flight=in_flight, prices=PRICES, budget=5.0)
        with pytest.raises(UserError) as error:
            given.extend(asking.captions(requests(100)))
    cost = each * len(server.asked)
    assert 5 - 0.31 < cost <= 5
    assert len(given) == len({caption.window for caption in given}) == len(server.asked)
    assert "caption.openai.budget is 5" in str(error.value)
    assert f"which cost {cost:.4g}" in str(error.value)
    assert f"{100 - len(given)} windows are left" in str(error.value)


def test_the_budget_holds_over_rounds() -> None:
    with serving(lambda asked, number: completion("fine")) as (server, address):
        asking = captioner(address, prices=PRICES, budget=3.0)
        list(asking.captions(requests(10)))
        with pytest.raises(UserError, match="budget"):
            list(asking.captions(requests(10, attempt=1)))
    assert 2.6 < 0.2 * len(server.asked) <= 3


def test_tries_without_an_answer_count_as_if_they_had_been_billed() -> None:
    with serving(lambda asked, number: echo(asked) if number == 0 else None) as (server, address):
        asking = captioner(address, prices=PRICES, budget=2.0, retries=3)
        with pytest.raises(UserError, match="budget"):
            list(asking.captions(requests(100)))
    assert len(server.asked) == 1 + 5  # 0.2 + 5 x 0.31 <= 2


def test_a_budget_without_token_counts_is_an_error_that_keeps_the_first_answer() -> None:
    with serving(lambda asked, number: completion("fine", tokens=None)) as (server, address):
        captions = captioner(address, prices=PRICES, budget=2.0).captions(requests(9))
        assert next(captions).text == "fine"
        with pytest.raises(UserError, match="gives no token counts"):
            next(captions)
    assert len(server.asked) == 1


def test_a_budget_needs_prices() -> None:
    with pytest.raises(UserError, match=r"budget = 2 needs caption\.openai\.prices"):
        captioner("http://127.0.0.1:1/v1", budget=2.0)


def test_an_estimate_is_never_below_the_longest_prompt_with_full_output() -> None:
    bill = Bill(captioner("http://127.0.0.1:1/v1", prices=PRICES).settings.openai, 20)
    for tokens in (50, 200, 100):
        bill.add(tokens, 1)
    assert bill.most_for_one >= 0.2 + 0.2


# The key.


def test_a_server_on_this_machine_needs_no_key() -> None:
    with serving(echo) as (server, address):
        list(captioner(address).captions(requests(1)))
        list(captioner(address.replace("127.0.0.1", "localhost")).captions(requests(1)))
    assert {asked.headers["Authorization"] for asked in server.asked} == {"Bearer EMPTY"}


def test_the_key_comes_from_the_named_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "sk-another")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-another")
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(echo) as (server, address):
        list(captioner(address, key_variable="MY_KEY").captions(requests(2)))
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert not any("sk-another" in str(asked.headers) for asked in server.asked)


def test_a_missing_key_is_named_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something was asked"))
    with pytest.raises(UserError, match=r"https://api\.example\.com/v1' needs a key.*variable MY_KEY"):
        list(captioner("https://api.example.com/v1", key_variable="MY_KEY").captions(requests(1)))


def test_the_key_is_in_no_error_log_caption_or_representation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def indiscreet(asked: Asked, number: int) -> web.Response:
        said = f"you sent {asked.headers['Authorization']} and {'x' * 280} {asked.headers['Authorization']}"
        replies = [echo(asked), failure(400, said), failure(500, said), web.Response(text=said), completion(said)]
        replies += [completion(None, refusal=said), web.json_response({"detail": {"headers": said}}, status=422)]
        return replies[number] if number < len(replies) else failure(401, said)

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with serving(indiscreet) as (_, address):
        asking = captioner(address, retries=0, in_flight=1)
        captions: list[Caption] = []
        with pytest.raises(UserError) as error:
            captions.extend(asking.captions(requests(20)))
    assert len(captions) == 7
    kept = [str(error.value), repr(error.value), caplog.text, repr(captions), asking.close(), repr(vars(asking))]
    kept += [repr(asking.identity), repr(error.value.__context__), repr(error.value.__cause__)]
    assert "<key>" in kept[0]
    for text in kept:
        assert KEY not in text
        assert KEY[:12] not in text


def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ünderground")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
        list(captioner("http://127.0.0.1:1/v1").captions(requests(1)))
    assert "nderground" not in str(error.value)


@pytest.mark.parametrize(
    "server",
    [
        "https://user:hunter2hunter2@api.example.com/v1",
        "https://hunter2hunter2@api.example.com/v1",
        "user:hunter2hunter2@api.example.com/v1",
        "https://api.example.com/v1?key=hunter2hunter2",
        "https://api.example.com/sk-hunter2hunter2/v1",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(server: str) -> None:
    with pytest.raises(UserError, match="environment variable") as error:
        captioner(server)
    assert "hunter2" not in str(error.value)


def test_a_key_for_a_variables_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="key_variable") as error:
        captioner("http://127.0.0.1:1/v1", key_variable=KEY)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "server", ["", "api.example.com/v1", "ftp://host/v1", "http:///v1", "http://a..b/v1", "http://[1"]
)
def test_an_address_that_is_none_is_refused(server: str) -> None:
    with pytest.raises(UserError, match=r"caption\.openai\.server = "):
        captioner(server)


# Identity.


def test_the_identity_tells_what_changes_captions_and_nothing_else() -> None:
    plain = captioner("http://127.0.0.1:1/v1")
    same = captioner(
        "http://127.0.0.1:1/v1/", in_flight=3, retries=1, timeout_seconds=5, prices=PRICES, budget=1.0, key_variable="K"
    )
    assert (plain.identity, plain.model) == (same.identity, same.model)
    assert captioner("http://127.0.0.1:2/v1").identity != plain.identity
    assert captioner("http://127.0.0.1:1/v1", model="n").model != plain.model
    assert captioner("http://127.0.0.1:1/v1", caption={"sampling": {"top_p": 0.5}}).identity != plain.identity
    json.dumps(plain.identity)


# Faults between, by a seeded plan.


@pytest.mark.parametrize("seed", [1, 2])
def test_no_window_is_lost_or_doubled_behind_a_proxy_that_does_harm(seed: int) -> None:
    with serving(in_any_order) as (server, upstream), proxied(upstream, seed, hang_seconds=2) as (proxy, address):
        asking = captioner(address, timeout_seconds=0.6)
        every_window_once(asking.captions(requests(60)), 60)
    assert_harm_was_done(proxy)
    assert server.most_in_flight <= 8 + proxy.done["hang"]  # the proxy does not learn that a client has gone


def test_the_plan_of_harm_is_the_seeds() -> None:
    def done(seed: int) -> Counter[str]:
        with serving(echo) as (_, upstream), proxied(upstream, seed, hang_seconds=2) as (proxy, address):
            list(captioner(address, timeout_seconds=0.6).captions(requests(12)))
            return proxy.done

    assert done(3) == done(3) != done(4)


def assert_harm_was_done(proxy: Proxy) -> None:
    assert set(proxy.done) == set(proxy.faults)
    assert max(proxy.tries.values()) > 1


# A real server.


@contextmanager
def vllm_server(model: Path) -> Iterator[str]:
    """A vLLM server of `model` on this machine; its whole process group ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "512", "--max-num-seqs", "16", "--limit-mm-per-prompt", '{"image": 1}']
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
    }
    log = model.parent / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=os.environ | settings, stdout=stream, stderr=stream, start_new_session=True, cwd=model.parent
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")


VLLM_WINDOWS = 24


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_no_window_is_lost_or_doubled_between_a_vllm_server_and_a_proxy_that_does_harm(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Frames of $times. Describe the weather map.")
    section = {"template": str(tmp_path / "prompt.txt"), "picture": {"pixels": 64}, "sampling": {"max_tokens": 24}}
    with vllm_server(save_tiny_vlm(tmp_path / "model", pixels=64)) as upstream:
        settings: dict[str, Any] = {"model": "tiny", "caption": section, "timeout_seconds": 60}
        plainly = captioner(upstream, OpenAI, **settings)
        plain = {caption.window: caption for caption in plainly.captions(noise(VLLM_WINDOWS))}
        with proxied(upstream, seed=5, hang_seconds=8) as (proxy, address):
            asking = captioner(address, OpenAI, **settings | {"timeout_seconds": 6})
            harmed = list(asking.captions(noise(VLLM_WINDOWS)))
        formal = captioner(upstream, OpenAI, **settings | {"caption": section | {"output": "json"}})
        forms = list(formal.captions(noise(2)))
        with pytest.raises(UserError, match=r"caption\.openai\.model = 'huge' is unknown"):
            list(captioner(upstream, OpenAI, **settings | {"model": "huge"}).captions(noise(3)))
    assert Counter(caption.window for caption in harmed) == Counter(range(VLLM_WINDOWS))
    assert {caption.status for caption in harmed} <= {"ok", "truncated"}
    assert_harm_was_done(proxy)
    assert all(caption.text.startswith("{") for caption in forms)
    same = sum(caption.text == plain[caption.window].text for caption in harmed)
    assert len({caption.text for caption in plain.values()}) > 5
    assert same >= 0.9 * VLLM_WINDOWS  # batches differ, and with them the last bits
    assert f"{VLLM_WINDOWS} answers" in asking.close()


def noise(count: int) -> Iterator[CaptionRequest]:
    """Windows whose pictures and times differ."""
    for request in requests(count):
        values = np.random.default_rng(request.window).normal(0, 3, request.inputs.shape)
        times = request.times + np.timedelta64(6, "h") * request.window
        yield replace(request, inputs=values.astype(np.float32), times=times)
