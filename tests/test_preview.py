"""The page to look at before captioning: what it shows, that it shows it as text, and that it asks for no more."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import pictures, preview
from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.multimodal import Multimodal
from pipeline.captioners.narrator import Narrator
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.params import Picture
from pipeline.store import Store
from tests.browser import CHROMIUM, opened
from tests.helpers import make_store
from tests.test_report import Outline

HOSTILE = "A low </blockquote><script>alert('x')</script> & a high <img src=http://127.0.0.1:9/x.png onerror=alert(1)>."


class Scripted(Multimodal):
    """Answers what it is told, in reverse order."""

    model = "scripted <b>1</b>"

    def __init__(self, answer: Caption | None = None, settings: CaptionParams | None = None) -> None:
        super().__init__(settings or CaptionParams(), 42, "weatherbench")
        self.answer = answer
        self.asked: list[int] = []
        self.closed = 0

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        self.asked += [request.window for request in requests]
        for window in reversed(self.asked):
            text, status, reason = f"Caption of window {window}.", "ok", ""
            if self.answer:
                text, status, reason = self.answer.text, self.answer.status, self.answer.reason
            yield Caption(window, text, status, reason)  # type: ignore[arg-type]

    def close(self) -> str:
        self.closed += 1
        return "1,234 tokens"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store") / "store.zarr", frames=60, t_in=3)


def images(outline: Outline) -> list[bytes]:
    sources = [str(attributes["src"]) for tag, attributes in outline.tags if tag == "img"]
    return [base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) for source in sources]


def test_the_page_shows_what_the_model_is_shown_and_asks_once_for_each_window(store: Store, tmp_path: Path) -> None:
    captioner = Scripted(settings=CaptionParams.model_validate({"picture": {"layout": "images", "pixels": 64}}))
    preview.write(tmp_path / "new" / "preview.html", store, captioner, 4)
    last = len(store.windows) - 1
    windows = [0, round(last / 3), round(2 * last / 3), last]
    assert captioner.asked == windows
    assert captioner.closed == 1
    outline = Outline((tmp_path / "new" / "preview.html").read_text())
    requests = list(caption_requests(store, np.array(windows)))
    expected = [captioner.shown(request) for request in requests]
    assert images(outline) == [picture for shown in expected for picture in shown.pictures]
    places = [outline.text.index(f"Caption of window {window}.") for window in windows]
    assert places == sorted(places)
    assert all(shown.prompt in outline.text for shown in expected)
    assert "Drawn with the default settings" not in outline.text
    assert "scripted <b>1</b>" in outline.text
    assert "1,234 tokens" in outline.text
    assert "picture.layout" in outline.text


def test_a_captioner_without_pictures_gets_some_that_are_labelled_as_such(store: Store, tmp_path: Path) -> None:
    captioner = Narrator(CaptionParams(), 42)
    preview.write(tmp_path / "preview.html", store, captioner, 2)
    outline = Outline((tmp_path / "preview.html").read_text())
    requests = list(caption_requests(store, np.array([0, len(store.windows) - 1])))
    assert images(outline) == [picture for request in requests for picture in pictures.draw(request, Picture())]
    assert outline.text.count("Drawn with the default settings") == 2
    assert all(caption.text in outline.text for caption in captioner.captions(requests))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Caption(0, "I'm sorry, but I cannot see any image."), ["(no caption)", "refused: the model declined"]),
        (Caption(0, "", "failed", "server is <i>down</i>"), ["(no caption)", "failed: server is down"]),
        (Caption(0, "**Caption:** Calm weather."), ["Calm weather.", "ok, 2 words", "**Caption:** Calm weather."]),
    ],
)
def test_status_and_reason_stand_beside_the_cleaned_caption(store: Store, answer: Caption, words: list[str]) -> None:
    captioner = Scripted(answer)
    outline = Outline(preview.page(preview.entries(store, captioner, 1), captioner, store))
    assert all(word in outline.text for word in words)


def test_an_answer_stays_text_whatever_is_in_it(store: Store) -> None:
    captioner = Scripted(Caption(0, HOSTILE))
    outline = Outline(preview.page(preview.entries(store, captioner, 2), captioner, store))
    tags = [tag for tag, _ in outline.tags]
    assert "script" not in tags
    assert tags.count("img") == 2
    assert outline.text.count(HOSTILE) == 2


def test_a_control_shows_whose_caption_a_window_gets(store: Store) -> None:
    class Reversed(Scripted):
        def arrangement(self, split: NDArray[np.int8]) -> NDArray[np.int64]:
            return np.arange(len(split))[::-1].copy()

    captioner = Reversed()
    first, second = preview.entries(store, captioner, 2)
    last = len(store.windows) - 1
    assert captioner.asked == [0, last]
    assert (first.window, first.caption.text) == (0, f"Caption of window {last}.")
    assert (second.window, second.caption.text) == (last, "Caption of window 0.")
    assert f"This is the caption of window {last}." in preview.page([first, second], captioner, store)


def test_a_window_that_cannot_be_drawn_keeps_its_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = caption_requests

    def with_a_gap(store: Store, windows: NDArray[np.int64]) -> Iterator[CaptionRequest]:
        for request in read(store, windows):
            if request.window == 0:
                request.inputs[0, 0, 0, 0] = np.nan
            yield request

    monkeypatch.setattr(preview, "caption_requests", with_a_gap)
    captioner = Scripted()
    outline = Outline(preview.page(preview.entries(store, captioner, 2), captioner, store))
    assert "No picture: input frame 1 of 3 holds 1 values of z500 that are NaN or infinite." in outline.text
    assert len(images(outline)) == 1


def test_a_captioner_is_closed_even_if_it_cannot_work_and_no_page_is_left(store: Store, tmp_path: Path) -> None:
    class Broken(Scripted):
        def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
            raise UserError("no such model")

    captioner = Broken()
    with pytest.raises(UserError, match="no such model"):
        preview.write(tmp_path / "preview.html", store, captioner, 2)
    assert captioner.closed == 1
    assert not (tmp_path / "preview.html").exists()
    with pytest.raises(UserError, match="--preview is -1; a number of windows is expected"):
        preview.write(tmp_path / "preview.html", store, captioner, -1)


def test_more_windows_than_there_are_show_each_once_and_pages_repeat_byte_for_byte(store: Store) -> None:
    captioner = Scripted(settings=CaptionParams.model_validate({"picture": {"pixels": 32}}))
    entries = preview.entries(store, captioner, 10_000)
    assert [entry.window for entry in entries] == list(range(len(store.windows)))
    assert {entry.split for entry in entries} == {"train", "validation", "test"}
    page = preview.page(entries[:2], captioner, store)
    assert page == preview.page(
        preview.entries(store, Scripted(settings=captioner.settings), 10_000)[:2], captioner, store
    )
    assert all(Image.open(io.BytesIO(picture)).format == "PNG" for picture in images(Outline(page)))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_the_page_without_an_error_or_an_outside_request(store: Store, tmp_path: Path) -> None:
    preview.write(tmp_path / "preview.html", store, Scripted(Caption(0, HOSTILE)), 2)
    with opened(tmp_path / "preview.html", tmp_path / "profile") as page:
        assert page.messages == []
        assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []
        assert page.run("document.images.length > 0 && [...document.images].every(image => image.naturalWidth > 0)")
