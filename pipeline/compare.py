"""One page for several revisions: what differs in their parameters, their scores, and differences with intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import figures, latex, tables, verdicts
from pipeline.charts import Chart, Series, category_chart, intervals, line_chart
from pipeline.errors import UserError
from pipeline.render import units_text
from pipeline.report import render
from pipeline.revisions import Difference, Revision, changed_parameters, differences, not_comparable, read
from pipeline.tables import Row, Table

LINES = ("s2kd", "baseline", "fitnet", "semantic", "spectral", "kd", "reviewkd", "sdkd")  # looks of revisions' lines


def compare(names: Sequence[str], output: Path, latex_file: Path | None = None, root: Path = Path()) -> str:
    """Writes the page, and the tables for LaTeX if asked for; returns the table of scores for a terminal.

    Raises UserError if fewer than two revisions are given, or one is given twice.
    """
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"{' '.join(names) or 'nothing'}: two or more different revisions are compared")
    with tempfile.TemporaryDirectory() as folder:
        revisions = [read(name, Path(folder) / str(number), root) for number, name in enumerate(names)]
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(revisions))
        if latex_file is not None:
            latex_file.write_text(_latex(revisions))
        return tables.as_text(score_table(revisions))


def page(revisions: Sequence[Revision]) -> str:
    """The whole HTML page, self-contained as the report is."""
    found = differences(revisions)
    ends = [(each.difference, each.low, each.high, each.corrected_low, each.corrected_high) for each in found]
    return render(
        "compare.html.j2",
        title=f"Comparison of {', '.join(revision.name for revision in revisions)}",
        revisions=revisions,
        claims=[(revision.name, claim) for revision in revisions for claim in verdicts.claims(revision.results)],
        scopes=[(revision.name, tables.scope(revision.results)) for revision in revisions],
        scores=score_table(revisions),
        changed=parameter_table(revisions),
        differences=difference_table(revisions, found),
        intervals=intervals(ends, ["teacher" not in each.model for each in found]) if found else [],
        comparisons=len(found),
        reasons=reasons(revisions),
        captioners=captioner_charts(revisions),
        captions=[(revision.name, tables.captions_sentence(revision.results)) for revision in revisions],
        lead_charts=lead_charts(revisions),
        command=f"s2kd compare {' '.join(revision.name for revision in revisions)}",
    )


def score_table(revisions: Sequence[Revision]) -> Table:
    """The main tables under one another; the first column names forecaster and revision."""
    found = [(revision.name, tables.main_table(revision.results)) for revision in revisions]
    head = found[0][1].head
    rows = [
        Row(row.name, (name, *(cells[title] for title in head[1:])), frozenset(1 + number for number in row.bold))
        for name, table in found
        for row in table.rows
        for cells in [dict.fromkeys(head[1:], tables.ABSENT) | dict(zip(table.head[1:], row.cells, strict=True))]
    ]
    return Table(("", "revision", *head[1:]), tuple(rows))


def parameter_table(revisions: Sequence[Revision]) -> Table:
    rows = [
        Row(key, tuple(tables.ABSENT if value is None else str(value) for value in values))
        for key, values in changed_parameters(revisions).items()
    ]
    return Table(("", *(revision.name for revision in revisions)), tuple(rows))


def difference_table(revisions: Sequence[Revision], found: Sequence[Difference]) -> Table:
    """The columns of the report's table of verdicts."""
    rows = [
        Row(
            f"{tables.label(revisions[0].results, each.model)}, {each.revision} against {each.against}",
            (
                each.verdict,
                verdicts.signed(each.difference),
                verdicts.span(each.low, each.high),
                verdicts.span(each.corrected_low, each.corrected_high),
                str(each.seeds),
            ),
        )
        for each in found
    ]
    head = ("", "verdict", "MSE difference", "95 % interval", "corrected interval", "seeds in common")
    return Table(head, tuple(rows))


def reasons(revisions: Sequence[Revision]) -> list[str]:
    """Which revisions cannot be held against the first, and why."""
    first = revisions[0]
    pairs = [(other.name, not_comparable(first.results, other.results)) for other in revisions[1:]]
    return [f"{name} and {first.name} are not comparable: {reason}." for name, reason in pairs if reason]


def captioner_charts(revisions: Sequence[Revision]) -> list[Chart]:
    """Figure 4 of the paper: each student's MSE by who wrote the captions; none where all are the same captioner's."""
    names = [str(revision.results.captions["captioner"]) for revision in revisions]
    if len(set(names)) < 2 or reasons(revisions):
        return []
    places = list(range(len(revisions)))
    charts = []
    for student, methods in revisions[0].results.students.items():
        shared = [method for method in methods if all(method in r.results.students.get(student, []) for r in revisions)]
        points = [
            Series(tables.name(method), figures.style(method, methods), places, *_scores(revisions, student, method))
            for method in shared
        ]
        charts.append(category_chart(tables.name(student), "captioner", "MSE of z-scores", names, points))
    return charts


def lead_charts(revisions: Sequence[Revision]) -> list[Chart]:
    """RMSE by lead time of each student's S2-KD (or last method), a line for each revision that is comparable."""
    first = revisions[0].results
    usable = [each for each in revisions if each is revisions[0] or not not_comparable(first, each.results)]
    charts = []
    for student, methods in first.students.items():
        model = f"{student} {'s2kd' if 's2kd' in methods else methods[-1]}"
        for variable in figures.variables(first):
            lines = []
            for number, revision in enumerate(usable):
                rmse = revision.results.rmse
                rows = rmse[(rmse["model"] == model) & (rmse["variable"] == variable.name)]
                lead = rows["lead_hours"] * first.time_unit[1]
                lines.append(Series(revision.name, LINES[number % len(LINES)], lead, rows["rmse"]))
            title = f"{variable.long_name}, {tables.label(first, model)}"
            x_label, y_label = f"lead time, {first.time_unit[0]}", f"RMSE, {units_text(variable.units)}"
            charts.append(line_chart(title, x_label, y_label, lines, markers=True))
    return charts


def _scores(revisions: Sequence[Revision], student: str, method: str) -> tuple[list[float], list[float]]:
    """The mean over seeds at each revision, and the standard deviation; 0 of one seed."""
    found = [revision.results.metrics[student][method] for revision in revisions]
    return [float(each["mse"]) for each in found], [float(each.get("mse_sd", 0.0)) for each in found]


def _latex(revisions: Sequence[Revision]) -> str:
    runs: list[tuple[str, Any]] = [(revision.name, revision.results) for revision in revisions]
    return latex.document(runs, str(revisions[0].parameters.get("teacher", "")))
