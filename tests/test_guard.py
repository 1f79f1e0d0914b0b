"""The guard on a model's answers: what it takes off, what it finds wrong, and that no text upsets it."""

from __future__ import annotations

import json
import random
import unicodedata
from typing import Literal

import numpy as np
import pytest

from pipeline import captions, guard
from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption, Status
from pipeline.captioners.narrator import Narrator
from pipeline.guard import judged, plain, refuses, repeats
from pipeline.params import Caption as CaptionParams
from tests.helpers import make_store

SOUND = "Temperature at 850 hPa is near normal. A cold pool lies at 35S 145E, moving east."


def judge(text: str, status: Status = "ok", reason: str = "", **settings: object) -> Caption:
    return judged(Caption(3, text, status, reason), CaptionParams.model_validate(settings))


@pytest.fixture(scope="module")
def narrated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Captions of the rules, which are as alike as sound captions ever are."""
    store = make_store(tmp_path_factory.mktemp("guard") / "store.zarr", frames=80, shape=(16, 32))
    every = caption_requests(store, np.arange(len(store.windows)))
    return [caption.text for caption in Narrator(CaptionParams(), 0).captions(every)]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (f"<think>It may be warm.\nOr not.</think>\n{SOUND}", SOUND),
        (f"It may be warm, who knows.</think>{SOUND}", SOUND),
        (f"◁think▷hm◁/think▷ {SOUND}", SOUND),
        (f"<thinking>a</thinking><Reasoning>b</Reasoning>{SOUND}", SOUND),
        (f"{SOUND}<|im_end|>", SOUND),
        (f"<|im_start|>assistant\n{SOUND}<|im_end|>\n<|im_start|>user\nThanks!", SOUND),
        (f"</s> {SOUND}</s>", SOUND),
        (f"{SOUND}<\uff5cend\u2581of\u2581sentence\uff5c>", SOUND),
        (f"ASSISTANT: {SOUND}", SOUND),
        (f"**Caption:** {SOUND}", SOUND),
        (f"## Caption\n\n{SOUND}", SOUND),
        (f"Sure! Here is a caption for the frames:\n\n{SOUND}", SOUND),
        (f"Certainly, here's the description: {SOUND}", SOUND),
        (f'"{SOUND}"', SOUND),
        (f"\u201c{SOUND}\u201d", SOUND),
        (f'Sure, here is the summary: "Caption: {SOUND}"', SOUND),
        (f"```\n{SOUND}\n```", SOUND),
        (f"> {SOUND}\n---", SOUND),
        ("- warm *ridge* at 40N\n- `cold` **pool** at 30S.", "warm ridge at 40N. cold pool at 30S."),
        ("### Movement\n1. eastward\n2) poleward", "Movement: eastward. poleward."),
        ('{"state": "warm", "change": "cooling by 2 K."}', "State: warm. Change: cooling by 2 K."),
        ('```json\n{"all": "The field warms."}\n```', "All: The field warms."),
        ("z500 in m**2 s**-2 is 5 * 3 and geopotential_500", "z500 in m2 s-2 is 5 * 3 and geopotential_500"),
        ('The words "warm" and "cold"', 'The words "warm" and "cold"'),
        ("[a <b>front</b>](http://x.y/z) passes", "a front passes"),
        ("p < 5 hPa and q > 3", "p < 5 hPa and q > 3"),
        ("Here is where it warms: the south.", "Here is where it warms: the south."),
    ],
)
def test_a_chat_models_habits_are_taken_off(raw: str, kept: str) -> None:
    assert judge(raw) == Caption(3, kept)


@pytest.mark.parametrize(
    "text",
    ["", " \n\t", "<|im_end|>", "<think>no end in sight", "...", "\x00\u200b", '""', "```\n```", "**", "12.5", "{}"],
)
def test_an_answer_without_words_is_empty(text: str) -> None:
    caption = judge(text)
    assert (caption.text, caption.status) == ("", "empty")
    assert "no words" in caption.reason


def test_an_empty_text_counts_as_intended_only_if_the_captioner_says_so() -> None:
    intended = Caption(3, "", "ok", guard.NO_CAPTION)
    assert judged(intended, CaptionParams()) == intended
    assert judge("", reason="whatever").status == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m so sorry, I cannot view images.",
        "**I am sorry**, the image is unclear.",
        "Sorry, I can't see any frames.",
        "I cannot describe this.",
        "I can't view the picture.",
        "I am unable to see images.",
        "I'm not able to see the frames you mention.",
        "I don't have the ability to see images.",
        "As an AI language model, I cannot see.",
        "As a large language model I have no eyes.",
        "As a vision-language model, I only see colours.",
        "Unfortunately, I cannot determine the trend.",
        "There is no image attached to your message.",
        "Please provide the image.",
        "Caption: I'm sorry, I can't.",
        '{"state": "I\'m sorry, I cannot tell."}',
    ],
)
def test_a_refusal_is_found_at_the_start(text: str) -> None:
    assert judge(text).status == "refused"
    assert not refuses(f"{SOUND} {text}")


@pytest.mark.parametrize(
    "text",
    [
        SOUND,
        f"{SOUND} I cannot tell whether it will persist, sorry.",
        "As a ridge builds, temperatures rise.",
        "I can see a ridge in the north.",
        "No imagery beyond 60N. A ridge grows.",
        "There is no trend.",
        "Sorry state of the jet aside, it warms.",
        "As an aim of the flow",
    ],
)
def test_sound_captions_are_no_refusals(text: str) -> None:
    assert judge(text).status == "ok"


def test_captions_of_rules_pass_as_they_are(narrated: list[str]) -> None:
    assert len(narrated) > 50
    assert [judge(text) for text in narrated] == [Caption(3, text) for text in narrated]


@pytest.mark.parametrize(
    "text",
    [
        "warm warm warm warm warm",
        "The field is warming and the field is warming and the field is warming and the field is warming",
        " ".join([SOUND] * 2),
        " ".join(f"Frame {number}: the temperature is high in the tropics." for number in range(9)),
        SOUND + " moving east, moving east, moving east, moving east, moving",
        "The field is coooooooooooooooooooold.",
        "A ridge. " * 300,
        "1, 2, a, 1, 2, a, 1, 2, a, 1, 2, a",
    ],
)
def test_a_loop_is_found(text: str) -> None:
    caption = judge(text)
    assert (caption.text, caption.status) == ("", "repeated")


@pytest.mark.parametrize(
    "text",
    [
        SOUND,
        "Very, very warm.",
        "North: steady, steady, steady. South: growing.",
        "Changes of 0 0 0 0 K.",
        "A cold pool at 40N moving 10 east and 2 north. A warm pool at 20N moving 10 east and 2 north, growing.",
    ],
)
def test_what_is_said_more_than_once_is_not_yet_a_loop(text: str) -> None:
    assert not repeats(text)


@pytest.mark.parametrize("copies", [2, 3, 10])
def test_any_caption_said_over_again_is_a_loop(narrated: list[str], copies: int) -> None:
    assert all(repeats(" ".join([text] * copies)) for text in narrated[:20])


def test_overlong_answers_are_cut_at_a_sentence_and_marked() -> None:
    assert judge("One two three. Four five six.", max_words=4) == Caption(
        3, "One two three.", "truncated", "6 words, 4 allowed"
    )
    assert judge("one two three four five six", max_words=4).text == "one two three four"


def test_an_answer_that_was_cut_off_keeps_its_whole_sentences() -> None:
    kept = judge("A ridge grows. A trough is mov", "truncated", "max_tokens = 9 reached")
    assert kept == Caption(3, "A ridge grows.", "truncated", "max_tokens = 9 reached after 7 words")
    assert judge("A ridge gro", "truncated") == Caption(3, "A ridge gro", "truncated", "cut off after 3 words")
    assert judge("A ridge grows.", "truncated", "limit").text == "A ridge grows."
    long = judge("A ridge grows. A trough is mov", "truncated", "limit", max_words=3)
    assert long == Caption(3, "A ridge grows.", "truncated", "limit; 7 words, 3 allowed")


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_what_a_captioner_knows_to_have_failed_stays_so_without_a_text(status: Literal["refused", "failed"]) -> None:
    assert judge("half an ans", status, "time\nout <b>") == Caption(3, "", status, "time out")
    assert judge("", status).reason == "no reason given"


ANSWER = {"state": "near normal", "change": "warming.", "extremes": "ridge at 40N", "movement": ""}


def test_an_answer_of_the_schema_becomes_sentences() -> None:
    expected = Caption(3, "State: near normal. Change: warming. Extremes: ridge at 40N.")
    assert judge(json.dumps(ANSWER), output="json") == expected
    assert judge(f"Sure:\n```json\n{json.dumps(ANSWER, indent=1)}\n```", output="json") == expected
    assert judge(f"<think>{{}}</think>{json.dumps(ANSWER)}<|im_end|>", output="json") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SOUND, "no JSON object"),
        ('{"state": "warm", "chan', "no JSON object"),
        ("[" * 100_000 + "x", "no JSON object"),
        ('{"a": ' * 100_000 + "}" * 100_000, "no JSON object"),
        ('["warm"]', "no JSON object"),
        (json.dumps({**ANSWER, "<b>mood</b>": "x"}), "JSON has an unknown 'mood'"),
        (json.dumps({**ANSWER, "state": 5}), "JSON 'state' is no string"),
        (json.dumps({**ANSWER, "state": "x" * 401}), "JSON 'state' has 401 characters, 400 allowed"),
        (json.dumps({key: ANSWER[key] for key in ("state", "change", "extremes")}), "JSON lacks 'movement'"),
    ],
    ids=range(9),
)
def test_an_answer_off_the_schema_is_malformed_for_a_reason(text: str, reason: str) -> None:
    caption = judge(text, output="json")
    assert (caption.text, caption.status) == ("", "malformed")
    assert caption.reason.startswith(f"{reason}: '")
    assert len(caption.reason) <= len(reason) + guard.QUOTED + 4
    assert judge(text, "truncated", output="json").reason.startswith(f"cut off, {reason}")


def test_json_may_also_be_empty_refused_or_in_a_loop() -> None:
    for words, status in (("", "empty"), ("I'm sorry, I cannot.", "refused"), ("warm " * 30, "repeated")):
        assert judge(json.dumps({**dict.fromkeys(ANSWER, ""), "state": words}), output="json").status == status
    assert judge("I'm sorry, I cannot.", output="json").status == "refused"


def test_the_schema_is_one_that_a_constrained_decoder_takes() -> None:
    assert list(guard.SCHEMA["properties"]) == guard.SCHEMA["required"] == list(ANSWER)
    assert guard.SCHEMA["additionalProperties"] is False
    assert all(part["maxLength"] > 0 for part in guard.SCHEMA["properties"].values())


PIECES = [
    *"ab <>/|!.\n\t\x00\u0301\u200b\u1100\u1161'\"`*_#-{}[]():1\u25c1\u25b7\ud800",
    *[
        "<think>",
        "</think>",
        "<|im_end|>",
        "\u25c1think\u25b7",
        "Caption:",
        "Sure, ",
        "```json\n",
        '{"a": "',
        '"}',
        "- ",
        "I'm sorry",
    ],
]


def texts() -> list[str]:
    rng = random.Random(0)
    pieces = ["".join(rng.choices(PIECES, k=rng.randrange(25))) for _ in range(1500)]
    octets = [rng.randbytes(rng.randrange(60)).decode("utf-8", "surrogateescape") for _ in range(500)]
    points = ["".join(chr(rng.randrange(0x3000)) for _ in range(30)) for _ in range(300)]
    return pieces + octets + points


@pytest.mark.parametrize("output", ["text", "json"])
def test_no_text_raises_or_leaves_anything_but_plain_text(output: str) -> None:
    for text in texts():
        for status in ("ok", "truncated"):
            caption = judge(text, status, reason=text, output=output, max_words=5)
            for kept in (caption.text, caption.reason):
                assert not any(unicodedata.category(character)[0] == "C" for character in kept)
                assert not captions.TAG.search(kept)
                assert unicodedata.is_normalized("NFC", kept)
            assert len(caption.text.split()) <= 5
            assert (caption.text == "") == (caption.status in guard.FAILURES)
            assert caption.reason or caption.status == "ok"


def test_judging_twice_changes_nothing_more() -> None:
    settings = CaptionParams()
    for text in [*texts(), SOUND * 20, f"{SOUND} And then"]:
        assert plain(plain(text)) == plain(text)
        for status in ("ok", "truncated"):
            once = judged(Caption(3, text, status, "limit" * (status == "truncated")), settings)
            assert judged(once, settings) == once


@pytest.mark.parametrize(
    "unit", ["<", "<a", "{", '{"a":"', "*", "- ", "\n", "# ", "<think>", "'", "a ", "[](", "\u0301"]
)
def test_long_rubbish_takes_no_long_time(unit: str) -> None:
    judge(unit * 3000)
