"""Store windows to rows: what captioners are shown, what they may do wrong, and what is kept of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import captioning
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.captioning import Captioning
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.store import Store
from pipeline.work import Work
from tests.helpers import make_store

Answer = Callable[[CaptionRequest], Caption]


class Scripted(Captioner):
    """Answers in a shuffled order, several requests in flight, as a batched engine would."""

    model = "scripted 1"
    prompt = "say something"

    def __init__(self, answer: Answer, settings: CaptionParams | None = None, in_flight: int = 7) -> None:
        super().__init__(settings or CaptionParams(), seed=0)
        self.answer = answer
        self.in_flight = in_flight
        self.asked: list[int] = []

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        waiting: list[CaptionRequest] = []
        order = random.Random(0)
        for request in requests:
            self.asked.append(request.window)
            waiting.append(request)
            if len(waiting) == self.in_flight:
                yield self.answer(waiting.pop(order.randrange(len(waiting))))
        while waiting:
            yield self.answer(waiting.pop(order.randrange(len(waiting))))


def says_the_mean(request: CaptionRequest) -> Caption:
    return Caption(request.window, f"window {request.window} has mean {request.inputs.mean():.4f}")


def rows_of(table: list[pa.Table]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pa.concat_tables(table).sort_by("window").to_pylist()
    return rows


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return make_store(tmp_path / "store.zarr", frames=90, shape=(4, 6), t_in=3, step=2)


@pytest.fixture
def work(store: Store) -> Iterator[Work]:
    with Work("caption") as work:
        yield work


@pytest.mark.parametrize("megabytes", [64, 0.001, 0.0])
def test_requests_hold_the_input_frames_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch, megabytes: float
) -> None:
    monkeypatch.setattr(captioning, "BLOCK_MEGABYTES", megabytes)
    windows = np.array([0, 1, 5, 6, len(store.windows) - 1])
    requests = list(captioning.requests(store, windows))
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
    list(captioning.requests(store, np.arange(len(store.windows))))
    assert len(reads) == 1


def test_rows_are_traceable_and_belong_to_their_window_in_whatever_order_answers_come(store: Store, work: Work) -> None:
    captioner = Scripted(says_the_mean)
    rows = rows_of(Captioning(captioner, "scripted", work).tables(store))
    assert [row["window"] for row in rows] == list(range(len(store.windows)))
    for row, request in zip(rows, captioning.requests(store, np.arange(len(store.windows))), strict=True):
        assert row["caption"] == says_the_mean(request).text
        assert row["input_hash"] == hashlib.sha256(request.inputs.astype("<f4").tobytes()).hexdigest()
        assert np.datetime64(str(row["t_start"])) == request.times[0]
        assert np.datetime64(str(row["t_end"])) == request.times[-1]
        assert (row["captioner"], row["model"]) == ("scripted", "scripted 1")
        assert row["prompt_hash"] == hashlib.sha256(b"say something").hexdigest()


def test_captions_are_cleaned_cut_and_marked(store: Store, work: Work) -> None:
    answers = {0: "<b>calm</b>\n sea", 1: "One two three. Four five six.", 2: "<b></b>", 3: "as\x00k again"}

    def answer(request: CaptionRequest) -> Caption:
        text = answers.get(request.window, "fine")
        return Caption(request.window, text, *(("refused", "not polite") if request.window == 3 else ("ok", "")))

    settings = CaptionParams(max_words=4, max_failed_share=0.5)
    rows = rows_of(Captioning(Scripted(answer, settings), "scripted", work).tables(store))
    assert [(row["caption"], row["status"]) for row in rows[:5]] == [
        ("calm sea", "ok"),
        ("One two three.", "truncated"),
        ("", "empty"),
        ("", "refused"),
        ("fine", "ok"),
    ]
    assert rows[1]["reason"] == "6 words, 4 allowed"
    assert rows[3]["reason"] == "not polite"


def test_more_failures_than_allowed_stop_the_run_with_a_reason(store: Store, work: Work) -> None:
    def answer(request: CaptionRequest) -> Caption:
        failed = request.window % 10 == 0
        return Caption(
            request.window, "" if failed else "fine", "failed" if failed else "ok", "server is down" * failed
        )

    failing = len(range(0, len(store.windows), 10))
    enough = CaptionParams(max_failed_share=failing / len(store.windows) + 1e-9)
    rows = rows_of(Captioning(Scripted(answer, enough), "scripted", work).tables(store))
    assert sum(row["status"] == "failed" for row in rows) == failing


def test_one_failure_too_many_is_a_users_error(store: Store, work: Work) -> None:
    def answer(request: CaptionRequest) -> Caption:
        return Caption(request.window, "", "failed", "server is down")

    captioner = Scripted(answer, CaptionParams(max_failed_share=0.1))
    with pytest.raises(UserError, match=r"failed on \d+ windows, caption.max_failed_share = 0.1 .* server is down"):
        Captioning(captioner, "scripted", work).tables(store)
    assert len(captioner.asked) < 0.5 * len(store.windows)  # it does not go on in vain


@pytest.mark.parametrize("change", ["lost", "doubled", "unasked"])
def test_a_captioner_that_loses_doubles_or_invents_a_window_is_caught(store: Store, work: Work, change: str) -> None:
    class Careless(Scripted):
        def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
            for caption in super().captions(requests):
                if caption.window == 5 and change == "lost":
                    continue
                yield Caption(10_000, "x") if caption.window == 5 and change == "unasked" else caption
                if caption.window == 5 and change == "doubled":
                    yield caption

    with pytest.raises(RuntimeError, match="lost windows" if change == "lost" else "twice or unasked"):
        Captioning(Careless(says_the_mean), "careless", work).tables(store)


def test_finished_captions_are_kept_and_failed_ones_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioning, "ROWS_PER_PART", 10)

    def breaks_down(request: CaptionRequest) -> Caption:
        if request.window == 3:
            return Caption(3, "", "failed", "hiccup")
        if request.window == 35:
            raise ConnectionError
        return says_the_mean(request)

    with pytest.raises(ConnectionError), Work("caption") as work:
        Captioning(Scripted(breaks_down, in_flight=1), "scripted", work).tables(store)
    with Work("caption") as work:
        second = Scripted(says_the_mean)
        rows = rows_of(Captioning(second, "scripted", work).tables(store))
    assert second.asked == [3, *range(30, len(store.windows))]
    undisturbed = Scripted(says_the_mean)
    with Work("other") as work:
        assert rows == rows_of(Captioning(undisturbed, "scripted", work).tables(store))
