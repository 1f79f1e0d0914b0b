"""The report: one HTML page without outside resources, tables for papers and repositories, and maps for slides."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pipeline import browser, figures, highlight, latex, maps, provenance, tables, verdicts
from pipeline.charts import Interval, intervals, map_frame
from pipeline.comparison import Comparison
from pipeline.params import Params
from pipeline.provenance import Origin
from pipeline.render import units_text
from pipeline.results import Results

VERSIONS = ("torch", "numpy", "zarr", "dvc")  # named in the report
NOWHERE = Origin(None, (), ())


def write(results: Results, params: Params, folder: Path) -> None:
    """Fills `folder` with index.html, tables.md, tables.tex and maps/."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page(results, params, provenance.origin()))
    (folder / "tables.md").write_text(markdown(results))
    (folder / "tables.tex").write_text(latex.document([(params.dataset, results)], params.teacher))
    (folder / "maps").mkdir()
    for name, picture in maps.slides(results):
        (folder / "maps" / name).write_bytes(picture)


def page(results: Results, params: Params, origin: Origin = NOWHERE) -> str:
    """The whole HTML page. Every text from outside (captions, descriptions, parameters) is escaped."""
    grid = maps.grid_of(results)
    verdict_table, compared = verdicts.verdict_table(results)
    return render(
        "report.html.j2",
        title=params.report.title,
        setup=results.setup,
        params=params,
        teacher=tables.name(params.teacher),
        teachers=tables.teachers(results),
        claims=verdicts.claims(results),
        table=tables.main_table(results),
        other_scores=tables.other_scores(results),
        scope=tables.scope(results),
        precision=verdicts.precision_sentence(results),
        verdicts=verdict_table,
        intervals=_intervals(compared),
        comparisons=max((each.comparisons for each in compared), default=1),
        seeds=tables.seed_table(results),
        controls=verdicts.control_sentences(results),
        notes=tables.metric_notes(results),
        legends=results.setup["legends"],
        device=next(iter(results.costs.values())).device,
        counts=results.field is not None and "mae_above" in set(results.field["metric"]),
        frame=map_frame(grid),
        last_lead=results.duration(float(results.rmse["lead_hours"].max())),
        step=results.duration(results.setup["step_hours"]),
        by_domain=tables.domain_table(results),
        domain_scope=tables.domain_scope(results) if results.setup["domains"] else "",
        domain_sentences=verdicts.sentences(results, domains=True),
        examples=maps.examples(results),
        rule=highlight.RULE,
        on_frame=maps.on_frame,
        windows=browser.payload(results, grid),
        captions=tables.captions_sentence(results),
        units={v["name"]: units_text(v["units"]) for v in results.setup["variables"]},
        origin=origin,
        sources=provenance.sources(results),
        parameters=provenance.parameters_text(params),
        **_curves(results),
    )


def render(template: str, **values: Any) -> str:
    """A page from a template beside this file, with style sheet and script inside and a policy that allows no other.

    The templates escape all texts; `embedded` makes JSON that no text in it can end.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    script = _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        script=script, style=_resource("report.css"), script_hash=f"sha256-{digest}", versions=_versions(), **values
    )


def embedded(tree: Any) -> str:
    """JSON for a <script> element: no text in it can close the element or open a comment."""
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def markdown(results: Results) -> str:
    """The tables in the paper's layout, what they rest on, the verdicts, seen and unseen, the metrics' definitions."""
    sentences = "\n".join(f"- {sentence}" for sentence in verdicts.sentences(results))
    notes = "\n".join(f"- {note}" for note in tables.metric_notes(results))
    parts = [tables.as_markdown(tables.main_table(results)), tables.scope(results), sentences]
    if precision := verdicts.precision_sentence(results):
        parts.append(precision)
    if by_domain := tables.domain_table(results):
        within = "\n".join(f"- {sentence}" for sentence in verdicts.sentences(results, domains=True))
        parts += [tables.as_markdown(by_domain), tables.domain_scope(results), within]
    for student in results.students:
        if ablation := tables.ablation_table(results, student):
            parts += [f"Ablation, {tables.name(student)}:", tables.as_markdown(ablation)]
    if others := tables.other_scores(results):
        parts.append(tables.as_markdown(others))
    return "\n\n".join([*parts, tables.BOLD_NOTE, notes]) + "\n"


def _intervals(compared: Sequence[Comparison]) -> list[Interval]:
    """On the scale of the methods: a teacher's lead may leave it."""
    ends = [(each.difference, each.low, each.high, each.corrected_low, each.corrected_high) for each in compared]
    return intervals(ends, [verdicts.of_methods(each) for each in compared])


def _curves(results: Results) -> dict[str, Any]:
    """The charts and their numbers, by the names that the template uses."""
    drawn: dict[str, Callable[[Results], Any]] = {
        "lead_charts": figures.lead_charts,
        "lead_tables": figures.lead_tables,
        "field_charts": figures.field_charts,
        "field_tables": figures.field_tables,
        "spectrum_charts": figures.spectrum_charts,
        "sharpness": figures.sharpness_table,
        "extreme_charts": figures.extreme_charts,
        "extreme_tables": figures.extreme_tables,
        "rollout_charts": figures.rollout_charts,
        "rollout_tables": figures.rollout_tables,
        "curves": figures.training_charts,
    }
    return {name: draw(results) for name, draw in drawn.items()}


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in VERSIONS} | {"Python": platform.python_version()}


def _resource(name: str) -> str:
    return resources.files("pipeline").joinpath(name).read_text()
