"""What the report's window browser draws from: truth and errors of the example windows, a byte a cell.

A forecast is the truth plus its error. Both are kept in steps of a scale, the truth's from the smallest to the
largest value, the errors' symmetric about zero, so that errors stay visible where they are far smaller than the
field. Bytes are differenced along rows, deflated and base64-coded; report.js undoes it.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import tables
from pipeline.metrics.base import area_weights
from pipeline.render import ERROR_COLOURS, FIELD_COLOURS, palette, units_text
from pipeline.results import Results
from pipeline.store import Grid

BUDGET = 2_600_000  # characters of all maps together
LEAST_CELLS = 2048  # a map is thinned to so many cells before windows are left out
ERROR_STEPS = 127  # on either side of zero
SHOWN_SHARE = 0.998  # of the errors lie within the colours; the rest takes the colours of the ends


@dataclass(frozen=True)
class Maps:
    """(N, T_out, C, H, W) of the windows that are kept, thinned to every `step`-th row and column."""

    truth: NDArray[np.float32]
    forecasts: dict[str, NDArray[np.float32]]
    windows: list[int]  # positions among the example windows
    step: int


def payload(results: Results, grid: Grid) -> dict[str, Any]:
    """Plain values for the page, as JSON."""
    maps = _fitting(results)
    setup = results.setup
    examples = [results.examples[position] for position in maps.windows]
    shown = tables.shown_models(results)
    scales = [_scale(maps, index) for index in range(len(setup["variables"]))]
    variables = [
        {"name": v["name"], "longName": v["long_name"], "units": units_text(v["units"])} | scale
        for v, scale in zip(setup["variables"], scales, strict=True)
    ]
    return {
        "windows": [{"number": row["window"], "caption": row["caption"]} for row in examples],
        "times": [_times(results, row["last_input"]) for row in examples],
        "leads": [results.duration((lead + 1) * setup["step_hours"]) for lead in range(maps.truth.shape[1])],
        "variables": variables,
        "models": [
            {"name": tables.label(results, model), "shown": model in shown, "rmse": _rmse(results, model, maps, grid)}
            for model in maps.forecasts
        ],
        "y": _rounded(grid.y[:: maps.step]),
        "x": _rounded(grid.x[:: maps.step]),
        "geographic": grid.geographic,
        "colours": {"field": _text(palette(FIELD_COLOURS)), "error": _text(palette(ERROR_COLOURS))},
        "truth": _packed(maps.truth, [(s["low"], s["high"]) for s in scales], 255),
        "errors": [
            _packed(forecast - maps.truth, [(-s["bound"], s["bound"]) for s in scales], 2 * ERROR_STEPS)
            for forecast in maps.forecasts.values()
        ],
    }


def characters(tree: Any) -> int:
    """The length of all texts in a tree of lists."""
    return len(tree) if isinstance(tree, str) else sum(characters(branch) for branch in tree)


def _fitting(results: Results) -> Maps:
    """As many windows as fit in BUDGET, evenly spaced, of maps thinned no further than to LEAST_CELLS."""
    fields = results.fields
    models = [model for model in tables.forecasters(results) if model in fields]
    total = len(fields["truth"])
    shape: tuple[int, int] = fields["truth"].shape[-2:]
    arrays = (len(models) + 1) * fields["truth"][0, :, :, 0, 0].size  # in a window
    cells = max(LEAST_CELLS, BUDGET * 3 // 4 // (arrays * total))
    step = max(1, math.ceil(math.sqrt(shape[0] * shape[1] / cells)))
    thin = {name: fields[name][..., ::step, ::step] for name in ("truth", *models)}
    number = total
    while True:
        windows = [(2 * index + 1) * total // (2 * number) for index in range(number)]
        maps = Maps(thin["truth"][windows], {name: thin[name][windows] for name in models}, windows, step)
        size = _size(maps)
        if size <= BUDGET or number == 1:
            return maps
        number = min(number - 1, max(1, int(number * BUDGET / size)))


def _size(maps: Maps) -> int:
    """Characters that the maps take."""
    scales = [_scale(maps, index) for index in range(maps.truth.shape[2])]
    size = characters(_packed(maps.truth, [(s["low"], s["high"]) for s in scales], 255))
    for forecast in maps.forecasts.values():
        size += characters(_packed(forecast - maps.truth, [(-s["bound"], s["bound"]) for s in scales], 2 * ERROR_STEPS))
    return size


def _scale(maps: Maps, variable: int) -> dict[str, float]:
    """low, high: of the truth. bound: of all errors. shown: where the errors' colours end."""
    truth = maps.truth[:, :, variable]
    errors = [np.abs(forecast[:, :, variable] - truth) for forecast in maps.forecasts.values()]
    bound = max(float(error.max()) for error in errors) or 1.0
    shown = max(float(np.quantile(error, SHOWN_SHARE)) for error in errors) or bound
    low, high = float(truth.min()), float(truth.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return {"low": low, "high": high, "bound": bound, "shown": shown}


def _packed(fields: NDArray[np.float32], ranges: list[tuple[float, float]], steps: int) -> list[list[str]]:
    """(N, T_out, C, H, W) -> a text for each window and variable, of all lead times; rows from south to north."""
    low, high = (np.array(ends)[:, None, None] for ends in zip(*ranges, strict=True))
    levels = np.rint((fields.astype(np.float64) - low) / (high - low) * steps).clip(0, steps).astype(np.uint8)
    changes = np.diff(levels, axis=-1, prepend=np.uint8(0))  # modulo 256
    return [
        [_text(zlib.compress(changes[n, :, c].tobytes(), 9)) for c in range(levels.shape[2])]
        for n in range(len(levels))
    ]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _rmse(results: Results, model: str, maps: Maps, grid: Grid) -> list[list[list[float]]]:
    """By window, variable and lead time, of the whole maps, weighted by area."""
    fields = results.fields
    squares = (fields[model][maps.windows].astype(np.float64) - fields["truth"][maps.windows]) ** 2
    values = np.sqrt((squares * area_weights(grid)[:, None]).mean((-2, -1)))  # (N, T_out, C)
    rounded: list[list[list[float]]] = [[[float(f"{v:.4g}") for v in row] for row in window.T] for window in values]
    return rounded


def _times(results: Results, last_input: str) -> list[str]:
    """When the last input frame and each target frame are."""
    step = np.timedelta64(round(results.setup["step_hours"] * 3.6e6), "ms")
    start = np.datetime64(last_input, "ms")
    return [results.time_text(str(start + lead * step)) for lead in range(results.setup["t_out"] + 1)]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
