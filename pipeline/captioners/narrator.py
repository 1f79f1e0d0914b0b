"""A captioner of rules: says in a forecaster's words what the input frames show. Deterministic, without a model.

It reads a window as a forecaster reads a chart: how far the field is from normal and where it is heading,
how lively the flow is, where highs and lows of the anomaly sit and how they move, where the sharpest
gradient lies, and where the field has changed most. On a plane (a city, a section through a fire) it also says
the field's mean and highest value, how much of the area stands out and to which sides that spreads, and of two
fields of one kind, such as inflow and outflow, which exceeds which and where. Nothing in it knows a variable by
name; units alone choose between words such as warm and high.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.captioners import narration
from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.captioners.narration.chart import Chart
from pipeline.captioners.narration.findings import (
    FAINT,
    activity,
    centres,
    change,
    excess,
    gradient,
    highest,
    level,
    standing_out_words,
)
from pipeline.captioners.narration.measures import peak
from pipeline.captioners.narration.opening import known, season, span
from pipeline.captioners.narration.paragraph import Clause, compose
from pipeline.captioners.narration.places import place
from pipeline.captioners.narration.rounding import number
from pipeline.captioners.narration.vocabulary import HEAT_WORDS, TEMPERATURE_WORDS, Words, named, words_for
from pipeline.params import Caption as CaptionParams
from pipeline.store import Variable
from pipeline.work import fingerprint

MAX_WORDS = 110
MAX_PIECES = 150  # of a BERT word-piece tokenizer, estimated from above; common text encoders take 160 and more
MAX_PIECES_ON_A_PLANE = 146  # its many numbers are estimated a little worse
SPEAKING_NAME = re.compile(r"[A-Za-z_]{4,}")


class Narrator(Captioner):
    """Writes 60 to 110 words about a window, or fewer if `caption.max_words` says so."""

    model = "narrator rules, version 1"
    prompt = (
        "For each variable: distance from the training climatology and trend over the inputs; for each hemisphere, or "
        "the whole grid: liveliness, its growth, dominant wave and drift; the strongest anomalies of either sign, in "
        "the variable's units, with place, movement over the inputs and growth; the sharpest gradient; the largest "
        "changes. Movements are in degrees of longitude and latitude. Season and hour where time stamps are of a "
        "calendar. On planes, right is larger x and upper is larger y, in the axes' units; also the mean, the highest "
        "value, the share of the area above one standard deviation over the training mean and the sides to which it "
        "spreads, and of two fields of equal units that are never negative which exceeds which. Where something was "
        "known at the last frame's time, that too."
    )

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        super().__init__(settings.model_copy(update={"output": "text"}), seed, dataset)  # JSON is for models
        self._words = min(settings.max_words, MAX_WORDS)

    @property
    def identity(self) -> dict[str, Any]:
        parts = [f"{narration.__name__}.{part.name}" for part in pkgutil.iter_modules(narration.__path__)]
        return {"words": self._words, "rules": fingerprint((), code=[__name__, "pipeline.coarse", *parts])}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        for request in requests:
            if np.isfinite(request.inputs).all():
                yield Caption(request.window, narrate(request, self._words))
            else:
                yield Caption(request.window, "", "failed", "the input frames hold NaN or infinity")


def narrate(request: CaptionRequest, max_words: int = MAX_WORDS) -> str:
    """The paragraph about one window of finite values."""
    opening = [text for text in (season(request), span(request), known(request)) if text]
    clauses = [Clause(0, (text,), "", text) for text in opening]
    variables = request.description.variables
    charts = [Chart(request.inputs[:, index].astype(float), request, index) for index in range(len(variables))]
    for index, (chart, variable) in enumerate(zip(charts, variables, strict=True)):
        if chart.geographic:
            clauses += describe(chart, variable)
        else:
            told = variable.units in {before.units for before in variables[:index]}
            clauses += describe_plane(
                chart, replace(variable, units="") if told else variable, words_for(variable.units)
            )
    if not request.description.grid.geographic:
        clauses += balance(charts, request)
        return compose(clauses, max_words, MAX_PIECES_ON_A_PLANE)
    return compose(clauses, max_words, MAX_PIECES)


def describe(chart: Chart, variable: Variable) -> Iterator[Clause]:
    """All that can be said of one variable."""
    words = words_for(variable.units)
    yield Clause(0, (variable.name,), named(variable), level(chart, words))
    for region, rows in chart.regions().items():
        strongest, opposite = centres(chart, rows, words)
        said = [(2, activity(chart, rows)), (1, strongest), (3, opposite), (4, gradient(chart, rows, words))]
        if len(chart.fields) > 1:
            said.append((5, change(chart, rows, words)))
        for rank, text in said:
            yield Clause(rank, (variable.name, region), region, text)


def describe_plane(chart: Chart, variable: Variable, words: Words) -> Iterator[Clause]:
    """All that can be said of one variable on a plane."""
    words = HEAT_WORDS if words is TEMPERATURE_WORDS else words
    if SPEAKING_NAME.fullmatch(variable.name):  # long names leave too little room for what happens
        variable = replace(variable, long_name=variable.name)
    rows = slice(0, len(chart.y))
    strongest, opposite = centres(chart, rows, words)
    several = len(chart.fields) > 1
    said = [
        (0, f"mean {chart.value(chart.mean(chart.fields[-1]))}, {level(chart, words)}"),
        (1, highest(chart, words)),
        (2, standing_out_words(chart)),
        (2, strongest),
        (3, change(chart, rows, words) if several else ""),
        (4, opposite),
        (6, gradient(chart, rows, words)),
    ]
    for rank, text in said:
        if text:
            yield Clause(rank, (variable.name,), named(variable), text)
    yield Clause(5, (variable.name, "pattern"), "Pattern", activity(chart, rows))


def balance(charts: Sequence[Chart], request: CaptionRequest) -> Iterator[Clause]:
    """Of the first two variables of equal units that are never negative: which exceeds which, over all and where."""
    climatology = request.description.statistics.climatology
    variables = request.description.variables
    for one, other in combinations(range(len(charts)), 2):
        if (
            variables[one].units == variables[other].units
            and min(climatology[one].min(), climatology[other].min()) >= 0
        ):
            names = [variable.name.replace("_", " ") for variable in (variables[one], variables[other])]
            key = ("balance", *names)
            difference = charts[one].fields[-1] - charts[other].fields[-1]
            yield Clause(1, key, "Balance", excess(charts[one], charts[other], names))
            for rank, sign, (more, less) in ((2, 1, names), (3, -1, names[::-1])):
                row, column = peak(sign * difference, slice(0, None))
                by = sign * difference[row, column]
                if by >= FAINT * charts[one].usual:
                    where = place(charts[one], row, column)
                    yield Clause(rank, key, "Balance", f"{more} exceeds {less} most {where} by {number(by)}")
            return
