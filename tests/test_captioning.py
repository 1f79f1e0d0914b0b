"""Store windows to rows: what captioners are shown, what they may do wrong, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import captioning, captions
from pipeline.answers import Answers
from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.captioning import Captioning
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.store import Store
from tests.helpers import make_store

Reply = Callable[[CaptionRequest], Caption]


class Scripted(Captioner):
    """Answers in a shuffled order, several requests in flight, as a batched engine would."""

    asks_again = True
    model = "scripted 1"
    prompt = "say something"

    def __init__(self, reply: Reply, settings: CaptionParams | None = None, in_flight: int = 7) -> None:
        super().__init__(settings or CaptionParams(), seed=0)
        self.reply = reply
        self.in_flight = in_flight
        self.asked: list[CaptionRequest] = []
        self.extra = ""

    @property
    def identity(self) -> dict[str, Any]:
        return {"extra": self.extra}

    @property
    def windows(self) -> list[int]:
        return [request.window for request in self.asked]

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        waiting: list[CaptionRequest] = []
        order = random.Random(0)
        for request in requests:
            self.asked.append(request)
            waiting.append(request)
            if len(waiting) == self.in_flight:
                yield self.reply(waiting.pop(order.randrange(len(waiting))))
        while waiting:
            yield self.reply(waiting.pop(order.randrange(len(waiting))))


def says_the_mean(request: CaptionRequest) -> Caption:
    return Caption(request.window, f"This field has mean {request.inputs.mean():.4f}.")


def captioned(captioner: Captioner, store: Store, log: str = "answers.sqlite") -> list[dict[str, Any]]:
    with Answers(Path(log)) as answers:
        Captioning(captioner, "scripted", answers).write(Path("captions.parquet"), store)
    rows: list[dict[str, Any]] = captions.read(Path("captions.parquet")).to_pylist()
    return rows


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return make_store(tmp_path / "store.zarr", frames=90, shape=(4, 6), t_in=3, step=2)


@pytest.mark.parametrize("megabytes", [64, 0.001, 0.0])
def test_requests_hold_the_input_frames_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch, megabytes: float
) -> None:
    monkeypatch.setattr("pipeline.caption_requests.BLOCK_MEGABYTES", megabytes)
    windows = np.array([0, 1, 5, 6, len(store.windows) - 1])
    requests = list(caption_requests(store, windows))
    assert [request.window for request in requests] == windows.tolist()
    for request in requests:
        frames = store.windows.input_frames(request.window)
        expected = np.stack([store.frames(int(frame), int(frame) + 1)[0] for frame in frames])
        np.testing.assert_array_equal(request.inputs, expected)
        np.testing.assert_array_equal(request.times, store.times[frames])
        assert request.inputs.base is None  # no way back to the record, where the targets are
        assert request.inputs.dtype == np.float32


def test_the_record_is_read_in_few_sequential_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, int]] = []
    read = Store.frames

    def counted(self: Store, start: int, stop: int) -> object:
        reads.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(Store, "frames", counted)
    list(caption_requests(store, np.arange(len(store.windows))))
    assert len(reads) == 1


def test_rows_are_traceable_and_belong_to_their_window_in_whatever_order_answers_come(store: Store) -> None:
    rows = captioned(Scripted(says_the_mean), store)
    assert [row["window"] for row in rows] == list(range(len(store.windows)))
    for row, request in zip(rows, caption_requests(store, np.arange(len(store.windows))), strict=True):
        assert row["caption"] == says_the_mean(request).text
        frames = [hashlib.sha256(frame.astype("<f4").tobytes()).digest() for frame in request.inputs]
        assert row["input_hash"] == hashlib.sha256(b"".join(frames)).hexdigest()
        assert np.datetime64(row["t_start"]) == request.times[0]
        assert np.datetime64(row["t_end"]) == request.times[-1]
        assert (row["captioner"], row["model"], row["attempts"]) == ("scripted", "scripted 1", 1)
        assert row["prompt_hash"] == hashlib.sha256(b"say something").hexdigest()
    assert len({row["key"] for row in rows}) == len(rows)


def test_the_table_does_not_depend_on_the_blocks_it_is_made_in(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = captioned(Scripted(says_the_mean), store)
    monkeypatch.setattr(captioning, "ROWS_PER_BLOCK", 7)
    monkeypatch.setattr("pipeline.caption_requests.BLOCK_MEGABYTES", 0.001)
    assert captioned(Scripted(says_the_mean), store, "other.sqlite") == whole


def test_a_bad_caption_is_asked_for_again_with_another_seed_and_the_first_good_one_stays(store: Store) -> None:
    def reply(request: CaptionRequest) -> Caption:
        if request.window == 3 and request.attempt < 2:
            return Caption(3, "I'm sorry, I can't help with that." if request.attempt else "")
        if request.window == 5 and request.attempt < 1:
            return Caption(5, "It is calm in the north and", "truncated", "cut off")
        return says_the_mean(request)

    captioner = Scripted(reply, CaptionParams(attempts=4))
    rows = captioned(captioner, store)
    assert [row["attempts"] for row in rows[:7]] == [1, 1, 1, 3, 1, 2, 1]
    assert {row["status"] for row in rows} == {"ok"}
    assert len(captioner.asked) == len(rows) + 3
    seeds = [request.seed for request in captioner.asked]
    assert len(set(seeds)) == len(seeds)


def test_a_captioner_that_would_only_repeat_itself_is_asked_once(store: Store) -> None:
    captioner = Scripted(lambda request: Caption(request.window, ""), CaptionParams(max_failed_share=1))
    captioner.asks_again = False
    rows = captioned(captioner, store)
    assert len(captioner.asked) == len(rows)
    assert {(row["status"], row["caption"]) for row in rows} == {("empty", "")}


def test_what_stays_bad_is_recorded_with_its_reason_and_the_usable_attempt_is_kept(store: Store) -> None:
    def reply(request: CaptionRequest) -> Caption:
        if request.window == 0:
            return Caption(0, "One two three. Four five six." if request.attempt == 1 else "")
        return Caption(request.window, "As an AI I cannot." if request.window == 1 else "Fine.")

    rows = captioned(Scripted(reply, CaptionParams(max_words=4, attempts=3, max_failed_share=0.5)), store)
    assert (rows[0]["caption"], rows[0]["status"], rows[0]["attempts"]) == ("One two three.", "truncated", 2)
    assert "6 words" in rows[0]["reason"]
    assert (rows[1]["caption"], rows[1]["status"], rows[1]["attempts"]) == ("", "refused", 3)
    assert "As an AI" in rows[1]["reason"]


def fails_every_tenth(request: CaptionRequest) -> Caption:
    if request.window % 10:
        return says_the_mean(request)
    return Caption(request.window, "", "failed", "server is down")


def test_failures_up_to_the_limit_cost_their_rows_only(store: Store) -> None:
    failing = len(range(0, len(store.windows), 10))
    enough = CaptionParams(max_failed_share=failing / len(store.windows) + 1e-9)
    rows = captioned(Scripted(fails_every_tenth, enough), store)
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == failing
    assert {(row["caption"], row["reason"], row["attempts"]) for row in failed} == {("", "server is down", 0)}


def test_one_failure_too_many_stops_the_run_at_once_with_the_reason(store: Store) -> None:
    captioner = Scripted(
        lambda request: Caption(request.window, "", "failed", "server is down"), CaptionParams(max_failed_share=0.1)
    )
    with pytest.raises(UserError, match=r"failed on \d+ windows, caption.max_failed_share = 0.1 .* server is down"):
        captioned(captioner, store)
    assert len(captioner.asked) < 0.5 * len(store.windows)
    assert not Path("captions.parquet").exists()


@pytest.mark.parametrize("change", ["lost", "doubled", "unasked"])
def test_a_captioner_that_loses_doubles_or_invents_a_window_is_caught(store: Store, change: str) -> None:
    class Careless(Scripted):
        def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
            for caption in super().captions(requests):
                if caption.window == 5 and change == "lost":
                    continue
                yield Caption(10_000, "x") if caption.window == 5 and change == "unasked" else caption
                if caption.window == 5 and change == "doubled":
                    yield caption

    with pytest.raises(RuntimeError, match="lost windows" if change == "lost" else "twice or unasked"):
        captioned(Careless(says_the_mean), store)


def test_an_interrupted_run_asks_only_for_what_is_missing_and_ends_in_the_same_bytes(store: Store) -> None:
    def breaks_down(request: CaptionRequest) -> Caption:
        if request.window == 3:
            return Caption(3, "", "failed", "hiccup")
        if request.window == 5:
            return Caption(5, "")
        if request.window == 35:
            raise ConnectionError
        return says_the_mean(request)

    def empty_at_first(request: CaptionRequest) -> Caption:
        return Caption(5, "") if (request.window, request.attempt) == (5, 0) else says_the_mean(request)

    with pytest.raises(ConnectionError):
        captioned(Scripted(breaks_down, in_flight=1), store)
    second = Scripted(empty_at_first)
    captioned(second, store)
    assert sorted(second.windows) == [3, 5, *range(35, len(store.windows))]
    resumed = Path("captions.parquet").read_bytes()
    captioned(Scripted(empty_at_first), store, "undisturbed.sqlite")
    assert Path("captions.parquet").read_bytes() == resumed
    third = Scripted(empty_at_first)
    captioned(third, store)
    assert third.asked == []


def test_attempts_that_were_used_up_are_not_made_again(store: Store) -> None:
    def reply(request: CaptionRequest) -> Caption:
        return Caption(request.window, "" if request.window == 2 else "Fine.")

    settings = CaptionParams(attempts=2, max_failed_share=0.5)
    first, second = Scripted(reply, settings), Scripted(reply, settings)
    assert captioned(first, store) == captioned(second, store)
    assert (first.windows.count(2), second.asked) == (2, [])
    third = Scripted(reply, CaptionParams(attempts=3, max_failed_share=0.5))
    captioned(third, store)
    assert third.windows == [2]


def test_another_prompt_model_or_setting_asks_for_all_and_another_limit_for_none(store: Store) -> None:
    captioned(Scripted(says_the_mean), store)
    for attribute in ("prompt", "model", "extra"):
        changed = Scripted(says_the_mean)
        setattr(changed, attribute, "another")
        captioned(changed, store)
        assert len(changed.asked) == len(store.windows)
    shorter = Scripted(says_the_mean, CaptionParams(max_words=3))
    rows = captioned(shorter, store)
    assert {row["status"] for row in rows} == {"truncated"}  # judged again, by the new limit
    assert {request.attempt for request in shorter.asked} == {1, 2}  # and only what that made bad is asked again


def test_another_stride_asks_for_the_new_windows_only(store: Store, tmp_path: Path) -> None:
    class Picturing(Scripted):
        def described(self, description: Any, frames: int) -> dict[str, Any]:
            return {"variables": [variable.name for variable in description.variables]}

    captioned(Picturing(says_the_mean), store)
    sparse = make_store(tmp_path / "sparse.zarr", frames=90, shape=(4, 6), t_in=3, step=2, stride=2)
    fewer = Picturing(says_the_mean)
    captioned(fewer, sparse)
    assert fewer.asked == []
    closer = make_store(tmp_path / "closer.zarr", frames=90, shape=(4, 6), t_in=3, step=1)
    other = Picturing(says_the_mean)
    captioned(other, closer)
    assert len(other.asked) == len(closer.windows)


def test_two_runs_at_once_ask_once_and_write_the_same_table(store: Store) -> None:
    runs = [Scripted(says_the_mean), Scripted(says_the_mean)]

    def run(number: int) -> None:
        with Answers(Path("answers.sqlite")) as answers:
            Captioning(runs[number], "scripted", answers).write(Path(f"{number}.parquet"), store)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(run.asked) for run in runs) == len(store.windows)
    assert Path("0.parquet").read_bytes() == Path("1.parquet").read_bytes()


def test_a_rearranging_captioner_gives_windows_each_others_captions(store: Store) -> None:
    class Backwards(Scripted):
        def arrangement(self, split: NDArray[np.int8]) -> NDArray[np.int64]:
            return np.arange(len(split))[::-1]

    plain, turned = captioned(Scripted(says_the_mean), store), captioned(Backwards(says_the_mean), store)
    for column in ("caption", "key"):
        assert [row[column] for row in turned] == [row[column] for row in plain][::-1]
    for column in ("window", "input_hash", "t_start"):
        assert [row[column] for row in turned] == [row[column] for row in plain]


def test_the_cost_is_told_and_engines_are_ended_even_after_an_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    class Costly(Scripted):
        closed = 0

        def close(self) -> str:
            self.closed += 1
            return "12 tokens"

    captioner = Costly(says_the_mean)
    with caplog.at_level("INFO"):
        captioned(captioner, store)
    assert "12 tokens" in caplog.text
    broken = Costly(lambda request: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        captioned(broken, store, "other.sqlite")
    assert (captioner.closed, broken.closed) == (1, 1)


@pytest.mark.parametrize("output", ["text", "json"])
def test_captions_of_a_table_can_be_taken_into_another_log(store: Store, output: str) -> None:
    def reply(request: CaptionRequest) -> Caption:
        text = says_the_mean(request).text
        parts = {"state": text, "change": "It warms.", "extremes": "None.", "movement": "Eastward."}
        return Caption(request.window, json.dumps(parts) if output == "json" else text)

    settings = CaptionParams.model_validate({"output": output})
    rows = captioned(Scripted(reply, settings), store)
    with Answers(Path("elsewhere.sqlite")) as answers:
        assert captioning.keep(captions.read(Path("captions.parquet")), answers) == len(rows)
    second = Scripted(reply, settings)
    assert captioned(second, store, "elsewhere.sqlite") == rows
    assert second.asked == []
