"""The report's curves: which lines each chart holds, from the files of data/evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from pipeline import tables
from pipeline.charts import Chart, Series, line_chart
from pipeline.render import units_text
from pipeline.results import Results
from pipeline.store import Variable

STYLES = {  # CSS classes of the lines; further methods take m1, m2, ...
    "truth": "truth",
    "teacher": "teacher",
    "vision teacher": "teacher dashed",
    "persistence": "persistence",
    "climatology": "climatology",
    "baseline": "baseline",
    "fitnet": "fitnet",
    "s2kd": "s2kd",
    "s2kd_vision": "s2kd dashed",
    "semantic": "semantic",
    "spectral": "spectral",
    "kd": "kd",
    "reviewkd": "reviewkd",
    "sdkd": "sdkd",
}
DRAWN_ELSEWHERE = (*tables.PAPER_METRICS, "rmse", "mse_openstl", "mae_openstl")  # or a number for tables alone
VALIDATION_STYLE = "m1 dashed"  # the colour of the prediction term, which comes first
FIELD_TITLES = {"mae_above": "MAE above", "rmse_above": "RMSE above", "mape_above": "MAPE above"}
TAILS = {"lower": "low extremes", "upper": "high extremes"}
EXTREME_SCORES = {"pod": "POD", "far": "FAR", "csi": "CSI", "sedi": "SEDI", "fss": "FSS"}


def variables(results: Results) -> list[Variable]:
    return [Variable(**variable) for variable in results.setup["variables"]]


def style(method: str, methods: Sequence[str]) -> str:
    """The CSS class of a method's lines."""
    others = [name for name in methods if name not in STYLES]
    return STYLES.get(method) or f"m{others.index(method) % 4 + 1}"


def lead_charts(results: Results) -> list[Chart]:
    """RMSE by lead time: a chart for each student and variable."""
    shown = [*tables.references(results), *tables.teachers(results)]
    charts = []
    for student in results.students:
        for variable in variables(results):
            title = f"{variable.long_name}, {tables.name(student)}"
            rows = results.rmse[results.rmse["variable"] == variable.name]
            lines = _lines(results, rows, student, shown, "lead_hours", "rmse")
            charts.append(
                line_chart(title, _lead_label(results), f"RMSE, {units_text(variable.units)}", lines, markers=True)
            )
    return charts


def lead_tables(results: Results) -> list[tuple[str, tables.Table]]:
    """The numbers of the lead charts, one table for each variable."""
    return [
        (f"{variable.long_name}, {units_text(variable.units)}", lead_table(results, rows, "rmse"))
        for variable in variables(results)
        for rows in [results.rmse[results.rmse["variable"] == variable.name]]
    ]


def lead_table(results: Results, rows: pd.DataFrame, value: str) -> tables.Table:
    """Means over seeds by forecaster and lead time."""
    values = rows.pivot_table(index="model", columns="lead_hours", values=value, sort=False)
    values = values[sorted(values.columns)]
    head = ("", *(results.duration(float(hours)) for hours in values.columns))
    body = [
        tables.Row(tables.label(results, str(model)), tuple(f"{value:.4g}" for value in line))
        for model, line in zip(values.index, values.to_numpy(), strict=True)
    ]
    return tables.Table(head, tuple(body))


def field_charts(results: Results) -> list[Chart]:
    """The metrics that a domain is used to, by lead time: a chart for each student, metric and variable."""
    charts = []
    for student in results.students:
        for title, units, rows in _field_groups(results):
            if rows["metric"].iloc[0] in DRAWN_ELSEWHERE:
                continue
            lines = _lines(results, rows, student, _alone(results, rows), "lead_hours", "value")
            if rows["lead_hours"].nunique() > 1:
                label = f"{title.partition(',')[0]}{', ' if units else ''}{units}"
                charts.append(
                    line_chart(f"{title}, {tables.name(student)}", _lead_label(results), label, lines, markers=True)
                )
    return charts


def field_tables(results: Results) -> list[tuple[str, tables.Table]]:
    return [
        (f"{title}, {units}".removesuffix(", "), lead_table(results, rows.fillna({"lead_hours": 0.0}), "value"))
        for title, units, rows in _field_groups(results)
    ]


def rollout_charts(results: Results) -> list[Chart]:
    """RMSE of forecasts made from forecasts; a line marks the last lead time that was trained."""
    found = results.rollout
    if found is None:
        return []
    trained = results.setup["t_out"] * results.setup["step_hours"] * results.time_unit[1]
    charts = []
    for student in results.students:
        for variable in variables(results):
            rows = found[found["variable"] == variable.name]
            lines = _lines(results, rows, student, _alone(results, rows), "lead_hours", "rmse")
            title, label = f"{variable.long_name}, {tables.name(student)}", f"RMSE, {units_text(variable.units)}"
            charts.append(line_chart(title, _lead_label(results), label, lines, mark=trained))
    return charts


def rollout_tables(results: Results) -> list[tuple[str, tables.Table]]:
    found = results.rollout
    if found is None:
        return []
    return [
        (f"{variable.long_name}, {units_text(variable.units)}", lead_table(results, rows, "rmse"))
        for variable in variables(results)
        for rows in [found[found["variable"] == variable.name]]
    ]


def spectrum_charts(results: Results) -> list[Chart]:
    """Power by wavenumber, both axes logarithmic: a chart for each student and variable."""
    found = results.spectra
    if found is None:
        return []
    charts = []
    for student in results.students:
        for variable in variables(results):
            rows = found[found["variable"] == variable.name]
            lines = _lines(results, rows, student, ["truth", *_alone(results, rows)], "wavenumber", "power")
            title = f"{variable.long_name}, {tables.name(student)}"
            label = f"power, ({units_text(variable.units)})²"
            charts.append(line_chart(title, "wavenumber", label, lines, log=True, log_x=True))
    return charts


def sharpness_table(results: Results) -> tables.Table | None:
    """Distance of the spectra and the finest scale that is still there, by forecaster and variable."""
    found = results.sharpness
    if found is None:
        return None
    heads, columns = [], []
    for variable in variables(results):
        rows = found[found["variable"] == variable.name]
        units = str(rows["units"].iloc[0]) if len(rows) else ""
        heads += [f"{variable.name}: distance, dB", f"{variable.name}: resolution, {units}"]
        columns += [rows.groupby("model")[key].mean() for key in ("log_spectral_distance", "effective_resolution")]
    models = [model for model in dict.fromkeys(found["model"]) if all(model in column for column in columns)]
    body = [
        tables.Row(tables.label(results, model), tuple(_value(float(column[model])) for column in columns))
        for model in models
    ]
    return tables.Table(("", *heads), tuple(body))


def extreme_charts(results: Results) -> list[Chart]:
    """SEDI by quantile: a chart for each student, variable and tail. It needs no event to be frequent."""
    found = results.extremes
    if found is None:
        return []
    charts = []
    for student in results.students:
        for variable in variables(results):
            for tail in dict.fromkeys(found["tail"]):
                rows = found[(found["variable"] == variable.name) & (found["tail"] == tail)]
                rows = rows.assign(rarity=100 * rows["quantile"])
                lines = _lines(results, rows, student, _alone(results, rows), "rarity", "sedi")
                title = f"{variable.long_name}, {TAILS.get(tail, tail)}, {tables.name(student)}"
                charts.append(
                    line_chart(title, "quantile of the training split, %", "SEDI, 1 is perfect", lines, markers=True)
                )
    return charts


def extreme_tables(results: Results) -> list[tuple[str, tables.Table]]:
    """All scores of extremes, means over seeds: a table for each variable, tail and quantile."""
    found = results.extremes
    if found is None:
        return []
    long_names = {variable.name: variable.long_name for variable in variables(results)}
    tables_found = []
    for (variable, tail, quantile), rows in found.groupby(["variable", "tail", "quantile"], sort=False):
        means = rows.groupby("model", sort=False)[list(EXTREME_SCORES)].mean()
        body = [
            tables.Row(tables.label(results, str(model)), tuple(_value(float(value)) for value in line))
            for model, line in zip(means.index, means.to_numpy(), strict=True)
        ]
        side = "below" if tail == "lower" else "above"
        rate = 100 * rows["base_rate"].mean()
        title = f"{long_names.get(str(variable), variable)} {side} the {100 * float(str(quantile)):g} % quantile"
        caption = f"{title}, which the truth is in {rate:.2g} % of cases"
        tables_found.append((caption, tables.Table(("", *EXTREME_SCORES.values()), tuple(body))))
    return tables_found


def training_charts(results: Results) -> list[Chart]:
    """Validation MSE of every repeat; loss terms and gradient norms of each method's first repeat and the teachers."""
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
    for teacher in tables.teachers(results):
        charts += _term_charts(teacher.capitalize(), training[training["model"] == teacher])
    return charts


def _lines(
    results: Results,
    rows: pd.DataFrame,
    student: str,
    alone: Sequence[str],
    x: str,
    y: str,
) -> list[Series]:
    """A line for each model of `alone` and each method of `student` in `rows`, means over seeds."""
    methods = results.students[student]
    lines = []
    for model in [*alone, *(f"{student} {method}" for method in methods)]:
        means = rows[rows["model"] == model].groupby(x, as_index=False)[y].mean()
        method = model.removeprefix(f"{student} ")
        places = means[x] * (results.time_unit[1] if x == "lead_hours" else 1)
        if len(means):
            lines.append(Series(tables.name(method), style(method, [*alone, *methods]), places, means[y]))
    return lines


def _alone(results: Results, rows: pd.DataFrame) -> list[str]:
    """Teachers and references that `rows` tell of."""
    present = set(rows["model"])
    return [model for model in [*tables.references(results), *tables.teachers(results)] if model in present]


def _field_groups(results: Results) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, units and rows of each metric and variable of field.csv."""
    found = results.field
    if found is None:
        return []
    long_names = {variable.name: variable.long_name for variable in variables(results)} | {"all": "all variables"}
    groups = []
    for (metric, variable), rows in found.groupby(["metric", "variable"], sort=False):
        entry = results.setup["metrics"].get(metric)
        title = entry["title"] if entry else FIELD_TITLES.get(str(metric), str(metric).replace("_", " "))
        units = "" if rows["units"].isna().all() else units_text(str(rows["units"].iloc[0]))
        groups.append((f"{title}, {long_names.get(str(variable), variable)}", "" if units == "1" else units, rows))
    return groups


def _lead_label(results: Results) -> str:
    return f"lead time, {results.time_unit[0]}"


def _value(value: float) -> str:
    """Three digits, or all of a large number's."""
    return tables.ABSENT if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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
