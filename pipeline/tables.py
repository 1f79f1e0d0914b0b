"""The main table and the verdicts in words, as text, Markdown and plain rows for the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.comparison import Comparison, teacher_leads
from pipeline.results import Results

NAMES = {"s2kd": "S2-KD", "fitnet": "FitNet", "unet": "U-Net", "simvp": "SimVP"}
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Row:
    """One forecaster; `cells` in the order of the table's head."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[Row, ...]


def name(*words: str) -> str:
    """A model's or method's name for people."""
    return " ".join(NAMES.get(word, word) for word in words if word)


def main_table(results: Results) -> Table:
    """Teacher, each student and method, persistence, climatology; means over seeds, ± their standard deviation."""
    metrics = {key: entry["title"] for key, entry in results.setup["metrics"].items() if entry["across_variables"]}
    head = ("", *metrics.values(), "parameters", "latency, ms", "share of the teacher's lead")
    rows = [_row(results, list(metrics), "teacher")]
    for student, methods in results.students.items():
        rows += [_row(results, list(metrics), student, method) for method in methods]
    rows += [_row(results, list(metrics), reference) for reference in ("persistence", "climatology")]
    return Table(head, tuple(rows))


def domain_table(results: Results) -> Table | None:
    """Scores in seen and in unseen environments; None where the test split does not have both."""
    domains: dict[str, int] = results.setup["domains"]
    if not domains:
        return None
    metrics = {key: entry["title"] for key, entry in results.setup["metrics"].items() if entry["across_variables"]}
    columns = [(key, title, domain) for key, title in metrics.items() for domain in domains]
    head = ("", *(f"{title}, {domain}" for _, title, domain in columns), "MSE, unseen / seen")
    forecasters = [
        ("teacher", ""),
        *((student, method) for student in results.students for method in results.students[student]),
        ("persistence", ""),
        ("climatology", ""),
    ]
    rows = []
    for model, method in forecasters:
        scores = results.metrics[model][method] if method else results.metrics[model]
        cells = [f"{scores[f'{key}_{domain}']:.4f}" for key, _, domain in columns]
        ratio = scores["mse_unseen"] / scores["mse_seen"] if scores["mse_seen"] else float("nan")
        rows.append(Row(name(model, method), (*cells, f"{ratio:.2f}")))
    return Table(head, tuple(rows))


def domain_scope(results: Results) -> str:
    """Which environments were seen, which were not."""
    setup = results.setup
    names = {
        kind: [environment["name"] for environment in setup["environments"] if environment["seen"] is seen]
        for kind, seen in (("seen", True), ("unseen", False))
    }
    parts = [
        f"{setup['domains'][kind]} test windows of {len(listed)} {kind} environments ({', '.join(listed)})"
        for kind, listed in names.items()
    ]
    return f"{' and '.join(parts)}. Training and validation hold simulations of seen environments alone."


def metric_notes(results: Results) -> list[str]:
    """What each score in the table is, with its reduction and units."""
    return [f"{entry['title']}: {entry['label']}." for entry in results.setup["metrics"].values()]


def sentences(results: Results, domains: bool = False) -> list[str]:
    """One line per comparison, with its interval and verdict: over all test windows, or (`domains`) within each."""
    return [_sentence(comparison) for comparison in results.comparisons if bool(comparison.domain) is domains]


def scope(results: Results) -> str:
    """What the numbers rest on."""
    setup, seeds = results.setup, results.seeds
    repeats = f"{len(seeds)} seeds ({', '.join(map(str, seeds))}); ± is their standard deviation"
    return (
        f"{setup['windows']['test']} test windows, {setup['t_in']} frames in, {setup['t_out']} out, "
        f"{results.duration(setup['step_hours'])} apart. "
        f"Each student and method: {repeats if len(seeds) > 1 else f'one seed ({seeds[0]})'}."
    )


def as_text(table: Table) -> str:
    """Columns aligned for a terminal."""
    lines = [table.head, *((row.name, *row.cells) for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
    aligned = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def as_markdown(table: Table) -> str:
    lines = [table.head, ("---", *["---:"] * (len(table.head) - 1)), *((row.name, *row.cells) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(results: Results, metrics: list[str], model: str, method: str = "") -> Row:
    scores = results.metrics[model][method] if method else results.metrics[model]
    cost = results.costs.get(model)
    return Row(
        name(model, method),
        (
            *(_with_deviation(scores[metric], scores.get(f"{metric}_sd"), "{:.4f}") for metric in metrics),
            f"{cost.parameters:,}" if cost else ABSENT,
            f"{cost.latency_ms:.1f}" if cost else ABSENT,
            _share(results, model, method),
        ),
    )


def captions_sentence(results: Results) -> str:
    """What the teacher read, at a glance."""
    found = results.captions
    grounding, failed = found["grounding"]["test"], found["failed_share"] * found["number"]
    origin = f"{found['number']} captions by {found['captioner']} ({found['model']}), {failed:.0f} failed"
    if not found["words"]:
        return f"{origin}; none has words."
    words = f"{found['words']['mean']:.0f} words on average, {100 * found['distinct_share']:.0f} % distinct"
    if not grounding["all"]["judged"]:
        return f"{origin}; {words}. Nothing in them can be held against the fields of the test split."
    right, chance = (grounding["all"][name] for name in ("right", "chance"))
    by_chance = "" if chance is None else f"; captions of other windows would be right in {100 * chance:.0f} %"
    return (
        f"{origin}; {words}. Of what they say of trend, place and movement in the test split's input frames "
        f"{100 * right:.0f} % is right{by_chance}."
    )


def _share(results: Results, model: str, method: str) -> str:
    scores = results.metrics[model].get(method, {}) if method else {}
    if "share_of_lead" in scores:
        deviation = scores.get("share_of_lead_sd")
        return _with_deviation(100 * scores["share_of_lead"], deviation and 100 * deviation, "{:.0f}") + " %"
    if method in ("", "baseline") or "baseline" not in results.students[model]:
        return ABSENT
    return "the teacher does not lead"


def _with_deviation(value: float, deviation: float | None, layout: str) -> str:
    return layout.format(value) + ("" if deviation is None else f" ± {layout.format(deviation)}")


def _sentence(comparison: Comparison) -> str:
    difference = _signed(comparison.difference)
    student = name(comparison.student)
    method = "the teacher" if comparison.method == "teacher" else name(comparison.method)
    against = "the baseline" if comparison.against == "baseline" else name(comparison.against)
    if comparison.low is None or comparison.high is None:
        units = f"blocks of {comparison.block_windows} windows" if comparison.simulations is None else "simulations"
        interval = f"no interval, under two {units}"
    else:
        interval = f"95 % interval {_signed(comparison.low)} to {_signed(comparison.high)}"
    domain = f"{comparison.domain.capitalize()} environments: " if comparison.domain else ""
    line = (
        f"{domain}{student}, {method} against {against}: {comparison.verdict}, MSE difference {difference} ({interval})"
    )
    if comparison.method == "teacher" and not teacher_leads(comparison):
        line += "; the teacher does not lead, so there is no share of its lead to give"
    return line + "."


def _signed(value: float) -> str:
    return f"{value:+.5f}".replace("-", "\N{MINUS SIGN}")
