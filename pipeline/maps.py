"""The report's maps: figure 5 with its box, and the same for slides."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import tables
from pipeline.charts import MapFrame, Tick
from pipeline.figures import variables
from pipeline.highlight import Box, busiest_box, detail_kept
from pipeline.render import Scale, colour_stops, error_scale, field_scale, maps_png, raster_png, units_text
from pipeline.results import Results
from pipeline.store import Grid, Variable

STILL_WINDOWS = 3  # drawn as maps that need no script; the browser shows all
PIXELS = 1_200_000  # of all maps together, so that the page stays under 5 MB whatever the grid


@dataclass(frozen=True)
class Picture:
    """A map: `source` is a data URL, `alt` says what it shows, `note` stands below it."""

    title: str
    alt: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class ColourBar:
    label: str
    stops: list[str]
    ticks: list[Tick]  # position in per cent of the bar's length


@dataclass(frozen=True)
class MapSet:
    """Maps of one window and variable: fields on one scale, errors on another, the box enlarged.

    box: where it lies on the map, in shares of its width and height from the upper left corner.
    """

    name: str
    fields: list[Picture]
    field_bar: ColourBar
    errors: list[Picture]
    error_bar: ColourBar
    details: list[Picture]
    box: dict[str, float]


@dataclass(frozen=True)
class Example:
    """A test window with its caption, which may hold anything and is escaped by the template."""

    window: int
    last_input: str
    caption: str
    maps: list[MapSet]


def examples(results: Results) -> list[Example]:
    """Maps of a few of the example windows at the last lead time."""
    positions = still_positions(results)
    return [
        Example(
            row["window"],
            results.time_text(row["last_input"]),
            row["caption"],
            [_map_set(results, position, index, len(positions)) for index in range(len(variables(results)))],
        )
        for position in positions
        for row in [results.examples[position]]
    ]


def still_positions(results: Results) -> list[int]:
    """Evenly spaced among the example windows, which are evenly spaced over the test split."""
    total = len(results.examples)
    count = min(STILL_WINDOWS, total)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def slides(results: Results) -> Iterator[tuple[str, bytes]]:
    """A file name and a labelled picture for each window that is drawn, and each variable."""
    for position in still_positions(results):
        for index, variable in enumerate(variables(results)):
            fields = _fields(results, position, index)
            picture = maps_png(fields, variable, grid_of(results), field_scale(fields.values()))
            yield f"window-{results.examples[position]['window']}-{variable.name}.png", picture


def grid_of(results: Results) -> Grid:
    grid: dict[str, Any] = results.setup["grid"]
    return Grid((grid["dims"][0], grid["dims"][1]), np.array(grid["y"]), np.array(grid["x"]), grid["units"])


def colour_bar(label: str, scale: Scale) -> ColourBar:
    from matplotlib.ticker import MaxNLocator

    values = [v for v in MaxNLocator(4).tick_values(scale.low, scale.high) if scale.low <= v <= scale.high]
    ticks = [
        Tick(100 * (value - scale.low) / (scale.high - scale.low), f"{value:g}".replace("-", "\N{MINUS SIGN}"))
        for value in values
    ]
    return ColourBar(label, colour_stops(scale), ticks)


def on_frame(frame: MapFrame, box: dict[str, float]) -> dict[str, float]:
    """The box in a map's own lengths."""
    return {
        "x": round(frame.left + box["left"] * frame.picture_width, 1),
        "y": round(frame.top + box["top"] * frame.picture_height, 1),
        "width": round(box["width"] * frame.picture_width, 1),
        "height": round(box["height"] * frame.picture_height, 1),
    }


def _map_set(results: Results, position: int, index: int, windows: int) -> MapSet:
    variable, grid = variables(results)[index], grid_of(results)
    fields = _fields(results, position, index)
    truth = fields["truth"]
    errors = {name: field - truth for name, field in fields.items() if name != "truth"}
    shared, of_errors = field_scale(fields.values()), error_scale(errors.values())
    units = units_text(variable.units)
    box = busiest_box(truth, grid)
    pixels = PIXELS // (windows * len(variables(results)) * (2 * len(fields) - 1))

    def pictures(shown: dict[str, NDArray[np.float32]], scale: Scale) -> list[Picture]:
        return [
            _picture(f"Map of {variable.long_name}, {title}", title, field, scale, units, pixels)
            for title, field in shown.items()
        ]

    return MapSet(
        name=variable.long_name,
        fields=pictures(fields, shared),
        field_bar=colour_bar(f"{variable.long_name}, {units}", shared),
        errors=pictures({f"{title} \N{MINUS SIGN} truth": error for title, error in errors.items()}, of_errors),
        error_bar=colour_bar(f"forecast \N{MINUS SIGN} truth, {units}", of_errors),
        details=[_detail(name, field, truth, box, grid, variable, pixels) for name, field in fields.items()],
        box=_shares(box, grid),
    )


def _detail(
    title: str,
    field: NDArray[np.float32],
    truth: NDArray[np.float32],
    box: Box,
    grid: Grid,
    variable: Variable,
    pixels: int,
) -> Picture:
    """The box of one map, on the scale of the truth within it."""
    units = units_text(variable.units)
    what = f"Enlarged box of {variable.long_name}, {title}"
    picture = _picture(what, title, box.of(field), field_scale([box.of(truth)]), units, pixels)
    if field is truth:
        return picture
    rmse = float(np.sqrt(((box.of(field) - box.of(truth)).astype(np.float64) ** 2).mean()))
    note = f"RMSE {rmse:.4g} {units}, detail kept {100 * detail_kept(field, truth, box, grid):.0f}\N{NO-BREAK SPACE}%"
    return Picture(title, f"{picture.alt}; {note}", picture.source, note)


def _shares(box: Box, grid: Grid) -> dict[str, float]:
    rows, columns = grid.shape
    return {
        "left": box.left / columns,
        "top": 1 - box.top / rows,
        "width": (box.right - box.left) / columns,
        "height": (box.top - box.bottom) / rows,
    }


def _picture(what: str, title: str, field: NDArray[np.float32], scale: Scale, units: str, pixels: int) -> Picture:
    alt = f"{what}: from {field.min():.5g} to {field.max():.5g} {units}"
    png = base64.b64encode(raster_png(field, scale, pixels)).decode()
    return Picture(title, alt, f"data:image/png;base64,{png}")


def _fields(results: Results, position: int, variable: int) -> dict[str, NDArray[np.float32]]:
    """Title -> (H, W) at the last lead time: truth, the first student's baseline and S2-KD, the teacher."""
    shown = {"truth": "truth"} | {tables.label(results, model): model for model in tables.shown_models(results)}
    return {title: results.fields[model][position, -1, variable] for title, model in shown.items()}
