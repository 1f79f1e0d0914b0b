"""A page to look at before a captioner is set to work: pictures, prompts and captions of a few windows.

One HTML page without outside resources. Prompts and captions may hold anything and are escaped.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import guard, pictures
from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import Caption, Captioner, CaptionRequest, Shown
from pipeline.errors import UserError
from pipeline.params import Picture
from pipeline.store import SPLITS, Store
from pipeline.work import replacing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One window on the page. `pictures` are data URLs; `raw` is the answer before it was cleaned."""

    window: int
    split: str
    frames: str
    prompt: str
    pictures: list[str]
    seen: bool  # whether the captioner sees these pictures
    problem: str  # what kept the pictures from being drawn
    caption: Caption
    raw: str
    source: int  # the window that the caption was asked for: another one for controls


def write(path: Path, store: Store, captioner: Captioner, count: int) -> None:
    """Asks `captioner` for the captions of `count` windows, evenly spaced over the record, and closes it.

    Raises UserError for a count below one, or if the captioner cannot work at all.
    """
    if count < 1:
        raise UserError(f"--preview is {count}; a number of windows is expected, at least 1")
    try:
        shown = entries(store, captioner, count)
    finally:
        cost = captioner.close()
    with replacing(path) as temporary:
        temporary.write_text(page(shown, captioner, store, cost), encoding="utf-8")
    log.info("%d windows are on the page %s", len(shown), path)


def entries(store: Store, captioner: Captioner, count: int) -> list[Entry]:
    """The chosen windows with what the captioner is shown and what it answers, once each."""
    total = len(store.windows)
    windows = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    sources = captioner.arrangement(store.windows.split)[windows]
    answers = {answer.window: answer for answer in captioner.captions(caption_requests(store, np.unique(sources)))}
    return [
        _entry(request, int(source), answers, captioner, store)
        for request, source in zip(caption_requests(store, windows), sources, strict=True)
    ]


def page(shown: Sequence[Entry], captioner: Captioner, store: Store, cost: str = "") -> str:
    """The HTML page. Every text from outside (captions, prompts, descriptions) is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("pipeline").joinpath("preview.html.j2").read_text())
    return template.render(
        entries=shown,
        captioner=type(captioner).__name__,
        model=captioner.model,
        identity=_flat(captioner.identity),
        description=store.description.text,
        total=len(store.windows),
        cost=cost,
    )


def _entry(
    request: CaptionRequest, source: int, answers: dict[int, Caption], captioner: Captioner, store: Store
) -> Entry:
    shown, seen, problem = _shown(request, captioner)
    raw = answers.get(source) or Caption(source, "", "failed", "no answer came")
    labels = pictures.frame_labels(request.times, request.description.time_stamps != "nominal")
    return Entry(
        window=request.window,
        split=SPLITS[store.windows.split[request.window]],
        frames=f"{labels[0]} to {labels[-1]}",
        prompt=shown.prompt,
        pictures=[f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in shown.pictures],
        seen=seen,
        problem=problem,
        caption=guard.judged(raw, captioner.settings),
        raw=raw.text,
        source=source,
    )


def _shown(request: CaptionRequest, captioner: Captioner) -> tuple[Shown, bool, str]:
    """Prompt and pictures, whether the captioner sees the pictures, and why there are none."""
    try:
        shown = captioner.shown(request)
        if shown.pictures:
            return shown, True, ""
        return Shown(shown.prompt, pictures.draw(request, Picture())), False, ""
    except pictures.UndrawableError as error:
        return Shown(captioner.prompt_for(request)), False, str(error)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}"""
    found: dict[str, str] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": str(value)}
    return found
