"""The report: one HTML page without outside resources, the main table in Markdown, and maps for slides."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import tables
from pipeline.charts import Chart, Series, Tick, line_chart, map_frame
from pipeline.params import Params
from pipeline.render import (
    Scale,
    colour_stops,
    error_scale,
    field_scale,
    maps_png,
    raster_png,
    units_text,
)
from pipeline.results import Results
from pipeline.store import Grid, Variable

STYLES = {  # CSS classes of the lines; further methods take m1, m2, ...
    "teacher": "teacher",
    "persistence": "persistence",
    "climatology": "climatology",
    "baseline": "baseline",
    "fitnet": "fitnet",
    "s2kd": "s2kd",
}
VALIDATION_STYLE = "m1 dashed"  # the colour of the prediction term, which comes first
PIXELS = 2_400_000  # of all maps together, so that the page stays under 5 MB whatever the grid
VERSIONS = ("torch", "numpy", "zarr", "dvc")  # named in the report


@dataclass(frozen=True)
class Picture:
    """A map: `source` is a data URL, `alt` says what it shows."""

    title: str
    alt: str
    source: str


@dataclass(frozen=True)
class ColourBar:
    label: str
    stops: list[str]
    ticks: list[Tick]  # position in per cent of the bar's length


@dataclass(frozen=True)
class MapSet:
    """Maps of one window and variable: fields on one scale, errors on another."""

    fields: list[Picture]
    field_bar: ColourBar
    errors: list[Picture]
    error_bar: ColourBar


@dataclass(frozen=True)
class Example:
    """A test window with its caption, which may hold anything and is escaped by the template."""

    window: int
    last_input: str
    caption: str
    maps: list[MapSet]


def write(results: Results, params: Params, folder: Path) -> None:
    """Fills `folder` with index.html, tables.md and maps/."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page(results, params))
    (folder / "tables.md").write_text(markdown(results))
    (folder / "maps").mkdir()
    for name, picture in slides(results):
        (folder / "maps" / name).write_bytes(picture)


def page(results: Results, params: Params) -> str:
    """The whole HTML page. Every text from outside (captions, descriptions, parameters) is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("pipeline").joinpath("report.html.j2").read_text())
    return template.render(
        title=params.report.title,
        setup=results.setup,
        params=params,
        teacher=tables.name(params.teacher),
        parameters=parameters_text(params),
        table=tables.main_table(results),
        scope=tables.scope(results),
        sentences=tables.sentences(results),
        notes=tables.metric_notes(results),
        device=results.costs["teacher"].device,
        lead_charts=lead_charts(results),
        lead_tables=lead_tables(results),
        curves=training_charts(results),
        frame=map_frame(_grid(results)),
        last_lead=_last_lead(results),
        step=results.duration(results.setup["step_hours"]),
        by_domain=tables.domain_table(results),
        domain_scope=tables.domain_scope(results) if results.setup["domains"] else "",
        domain_sentences=tables.sentences(results, domains=True),
        examples=examples(results),
        captions=tables.captions_sentence(results),
        units={v["name"]: units_text(v["units"]) for v in results.setup["variables"]},
        versions={name: metadata.version(name) for name in VERSIONS} | {"Python": platform.python_version()},
    )


def markdown(results: Results) -> str:
    """The main table, what it rests on, the verdicts, the same by seen and unseen, the metrics' definitions."""
    sentences = "\n".join(f"- {sentence}" for sentence in tables.sentences(results))
    notes = "\n".join(f"- {note}" for note in tables.metric_notes(results))
    parts = [tables.as_markdown(tables.main_table(results)), tables.scope(results), sentences]
    if by_domain := tables.domain_table(results):
        within = "\n".join(f"- {sentence}" for sentence in tables.sentences(results, domains=True))
        parts += [tables.as_markdown(by_domain), tables.domain_scope(results), within]
    return "\n\n".join([*parts, notes]) + "\n"


def parameters_text(params: Params) -> str:
    """Every parameter that can change a result, as YAML."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(params.model_dump(mode="json", by_alias=True, exclude={"runtime"}), stream)
    return stream.getvalue()


def lead_charts(results: Results) -> list[Chart]:
    """RMSE by lead time: a chart for each student and variable."""
    charts = []
    for student, methods in results.students.items():
        shown = ["persistence", "climatology", "teacher", *(f"{student} {method}" for method in methods)]
        for variable in _variables(results):
            rows = results.rmse[results.rmse["variable"] == variable.name]
            lines = [_lead_series(results, rows[rows["model"] == model], model, methods) for model in shown]
            title = f"{variable.long_name}, {tables.name(student)}"
            x_label, y_label = f"lead time, {results.time_unit[0]}", f"RMSE, {units_text(variable.units)}"
            charts.append(line_chart(title, x_label, y_label, lines, markers=True))
    return charts


def lead_tables(results: Results) -> list[tuple[str, tables.Table]]:
    """The numbers of the lead charts, one table for each variable."""
    found = []
    for variable in _variables(results):
        rows = results.rmse[results.rmse["variable"] == variable.name]
        values = rows.pivot_table(index="model", columns="lead_hours", values="rmse", sort=False)
        head = ("", *(results.duration(float(hours)) for hours in values.columns))
        body = [
            tables.Row(tables.name(*str(model).split()), tuple(f"{value:.4g}" for value in line))
            for model, line in zip(values.index, values.to_numpy(), strict=True)
        ]
        found.append((f"{variable.long_name}, {units_text(variable.units)}", tables.Table(head, tuple(body))))
    return found


def training_charts(results: Results) -> list[Chart]:
    """Validation MSE of every repeat; loss terms and gradient norms of each method's first repeat and the teacher."""
    training = results.training
    charts = []
    for student, methods in results.students.items():
        of_student = training[training["model"] == student]
        lines = [
            Series(tables.name(method), style(method, methods), rows["epoch"], rows["validation_prediction"])
            for method in methods
            for _, rows in of_student[of_student["method"] == method].groupby("seed")
        ]
        charts.append(line_chart(f"{tables.name(student)}, validation", "epoch", "MSE of z-scores", lines, log=True))
        for method in methods:
            rows = of_student[(of_student["method"] == method) & (of_student["seed"] == results.seeds[0])]
            charts += _term_charts(tables.name(student, method), rows)
    return charts + _term_charts("Teacher", training[training["model"] == "teacher"])


def examples(results: Results) -> list[Example]:
    """Maps of the example windows at the last lead time."""
    return [
        Example(row["window"], _time_text(results, row["last_input"]), row["caption"], _map_sets(results, position))
        for position, row in enumerate(results.examples)
    ]


def slides(results: Results) -> Iterator[tuple[str, bytes]]:
    """A file name and a labelled picture for each example window and variable."""
    for position, row in enumerate(results.examples):
        for index, variable in enumerate(_variables(results)):
            fields = _fields(results, position, index)
            picture = maps_png(fields, variable, _grid(results), field_scale(fields.values()))
            yield f"window-{row['window']}-{variable.name}.png", picture


def style(method: str, methods: Sequence[str]) -> str:
    """The CSS class of a method's lines."""
    others = [name for name in methods if name not in STYLES]
    return STYLES.get(method) or f"m{others.index(method) % 4 + 1}"


def _lead_series(results: Results, rows: pd.DataFrame, model: str, methods: Sequence[str]) -> Series:
    method = model.rpartition(" ")[2]
    lead = rows["lead_hours"] * results.time_unit[1]
    return Series(tables.name(method), style(method, methods), lead, rows["rmse"])


def _term_charts(name: str, rows: pd.DataFrame) -> list[Chart]:
    """Loss terms, beside the validation loss, and the terms' gradient norms over the epochs of one run."""
    losses = {column: column.removeprefix("train_") for column in _terms(rows, "train_")}
    losses |= {"validation_prediction": "prediction, validation"}
    norms = {column: column.removeprefix("gradient_") for column in _terms(rows, "gradient_")}
    charts = [line_chart(f"{name}, loss terms", "epoch", "unweighted loss", _term_series(rows, losses), log=True)]
    if len(norms) > 1:  # a single gradient has nothing to be held against
        label = "norm of the weighted term's gradient"
        charts.append(line_chart(f"{name}, gradients", "epoch", label, _term_series(rows, norms), log=True))
    return charts


def _terms(rows: pd.DataFrame, prefix: str) -> list[str]:
    return [column for column in rows.columns if column.startswith(prefix) and rows[column].notna().any()]


def _term_series(rows: pd.DataFrame, names: dict[str, str]) -> list[Series]:
    return [
        Series(name, VALIDATION_STYLE if "validation" in column else f"m{number % 4 + 1}", rows["epoch"], rows[column])
        for number, (column, name) in enumerate(names.items())
    ]


def _map_sets(results: Results, position: int) -> list[MapSet]:
    variables = _variables(results)
    first = _fields(results, position, 0)
    pixels = PIXELS // (len(results.examples) * len(variables) * (2 * len(first) - 1))
    return [_map_set(_fields(results, position, index), variable, pixels) for index, variable in enumerate(variables)]


def _map_set(fields: dict[str, NDArray[np.float32]], variable: Variable, pixels: int) -> MapSet:
    truth = fields["truth"]
    errors = {name: field - truth for name, field in fields.items() if name != "truth"}
    shared, of_errors = field_scale(fields.values()), error_scale(errors.values())
    units = units_text(variable.units)

    def pictures(shown: dict[str, NDArray[np.float32]], scale: Scale) -> list[Picture]:
        return [
            _picture(f"{variable.long_name}, {title}", title, field, scale, units, pixels)
            for title, field in shown.items()
        ]

    return MapSet(
        fields=pictures(fields, shared),
        field_bar=_colour_bar(f"{variable.long_name}, {units}", shared),
        errors=pictures({f"{title} \N{MINUS SIGN} truth": error for title, error in errors.items()}, of_errors),
        error_bar=_colour_bar(f"forecast \N{MINUS SIGN} truth, {units}", of_errors),
    )


def _picture(what: str, title: str, field: NDArray[np.float32], scale: Scale, units: str, pixels: int) -> Picture:
    alt = f"Map of {what}: from {field.min():.5g} to {field.max():.5g} {units}"
    png = base64.b64encode(raster_png(field, scale, pixels)).decode()
    return Picture(title, alt, f"data:image/png;base64,{png}")


def _colour_bar(label: str, scale: Scale) -> ColourBar:
    from matplotlib.ticker import MaxNLocator

    values = [v for v in MaxNLocator(4).tick_values(scale.low, scale.high) if scale.low <= v <= scale.high]
    ticks = [
        Tick(100 * (value - scale.low) / (scale.high - scale.low), f"{value:g}".replace("-", "\N{MINUS SIGN}"))
        for value in values
    ]
    return ColourBar(label, colour_stops(scale), ticks)


def _fields(results: Results, position: int, variable: int) -> dict[str, NDArray[np.float32]]:
    """Title -> (H, W) at the last lead time: truth, the first student's baseline and S2-KD, the teacher."""
    student, methods = next(iter(results.students.items()))
    shown = [method for method in ("baseline", "s2kd") if method in methods] or methods[:1]
    models = {"truth": "truth"} | {tables.name(student, method): f"{student} {method}" for method in shown}
    models["teacher"] = "teacher"
    return {title: results.fields[model][position, -1, variable] for title, model in models.items()}


def _variables(results: Results) -> list[Variable]:
    return [Variable(**variable) for variable in results.setup["variables"]]


def _grid(results: Results) -> Grid:
    grid: dict[str, Any] = results.setup["grid"]
    return Grid((grid["dims"][0], grid["dims"][1]), np.array(grid["y"]), np.array(grid["x"]), grid["units"])


def _last_lead(results: Results) -> str:
    return results.duration(float(results.rmse["lead_hours"].max()))


def _time_text(results: Results, time: str) -> str:
    clock = {"calendar": "UTC", "local": "local time", "nominal": "(nominal)"}[results.setup["time_stamps"]]
    return f"{time.replace('T', ' ')} {clock}"
