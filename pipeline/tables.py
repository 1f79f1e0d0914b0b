"""Tables of scores: plain rows for the report, as text for a terminal, as Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.cost import Cost
from pipeline.results import Results

NAMES = {
    "s2kd": "S2-KD",
    "s2kd_vision": "S2-KD without text",
    "fitnet": "FitNet",
    "kd": "KD",
    "reviewkd": "ReviewKD",
    "sdkd": "SDKD",
    "semantic": "semantic term alone",
    "spectral": "spectral term alone",
    "unet": "U-Net",
    "resnet": "ResNet",
    "mlp_mixer": "MLP-Mixer",
    "simvp": "SimVP",
    "earthfarseer": "EarthFarseer",
    "triton": "Triton",
}
ABLATION = {  # method -> the terms of its loss
    "baseline": ("prediction",),
    "spectral": ("prediction", "spectral"),
    "semantic": ("prediction", "semantic"),
    "s2kd": ("prediction", "spectral", "semantic"),
}
BOLD_NOTE = (
    "Bold: an MSE better than the same student's baseline, the 95 % interval of the difference, corrected for the "
    "number of comparisons, excluding zero. MAE and SSIM are not tested."
)
PAPER_METRICS = ("mse", "mae", "ssim")  # of the main table; others have a table of their own
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Row:
    """One forecaster; `cells` in the order of the table's head. bold: the positions of cells that stand out."""

    name: str
    cells: tuple[str, ...]
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Entry:
    """Whose scores a row holds: means over a method's seeds, or those of one model, which `alone` tells apart.

    cost: None where none was measured.
    """

    model: str
    method: str
    scores: dict[str, float]
    cost: Cost | None = None
    alone: str = ""

    @property
    def name(self) -> str:
        return self._with_alone(name(self.model, self.method))

    @property
    def method_name(self) -> str:
        return self._with_alone(name(self.method) if self.method else ABSENT)

    def _with_alone(self, text: str) -> str:
        return f"{text}, {self.alone}" if self.alone else text


def name(*words: str) -> str:
    """A model's or method's name for people."""
    return " ".join(NAMES.get(word, word) for word in words if word)


def label(results: Results, model: str) -> str:
    """The name for people of a forecaster as data/evaluate calls it: "unet s2kd", "vision teacher", "truth"."""
    student, _, method = model.partition(" ")
    return name(student, method) if student in results.students else name(model)


def teachers(results: Results) -> list[str]:
    return [run.model for run in results.runs if not run.method and run.model.endswith("teacher")]


def references(results: Results) -> list[str]:
    """What forecasts without having learnt: persistence, climatologies."""
    return [run.model for run in results.runs if not run.method and not run.model.endswith("teacher")]


def forecasters(results: Results) -> list[str]:
    """Teachers, then students with their methods, as data/evaluate calls them."""
    taught = [f"{student} {method}" for student, methods in results.students.items() for method in methods]
    return [*teachers(results), *taught]


def shown_models(results: Results) -> list[str]:
    """Those that maps show at first sight: the first student without and with S2-KD, and the teacher."""
    student, methods = next(iter(results.students.items()))
    chosen = [method for method in ("baseline", "s2kd") if method in methods] or methods[:1]
    return [*(f"{student} {method}" for method in chosen), *teachers(results)[:1]]


def main_table(results: Results) -> Table:
    """Teachers, each student and method, references; means over seeds, ± their standard deviation.

    Where a student was scored in 8 bits too, that one model in both precisions stands below its method.
    """
    titles = metric_titles(results)
    metrics = [key for key in PAPER_METRICS if key in titles]
    head = (*(titles[key] for key in metrics), "parameters", "operations", "latency, ms", "share of lead")
    rows = [_row(results, metrics, entry) for entry in _entries(results)]
    return Table(("", *head), tuple(rows))


def other_scores(results: Results) -> Table | None:
    """The same forecasters by all further scores; None where there are none."""
    titles = {key: title for key, title in metric_titles(results).items() if key not in PAPER_METRICS}
    if not titles:
        return None
    rows = []
    for entry in _entries(results):
        cells = (_with_deviation(entry.scores[key], entry.scores.get(f"{key}_sd"), "{:.4g}") for key in titles)
        rows.append(Row(entry.name, tuple(cells)))
    return Table(("", *titles.values()), tuple(rows))


def paper_table(results: Results) -> Table:
    """Tables 1 to 3 of the paper: teachers, then students by method, with costs and scores."""
    titles = metric_titles(results)
    metrics = [key for key in PAPER_METRICS if key in titles]
    arrows = ("\N{DOWNWARDS ARROW}", "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}")
    scores = (f"{titles[key]} {arrow}" for key, arrow in zip(PAPER_METRICS, arrows, strict=True) if key in titles)
    head = ("Model", "Method", "Params (M)", "Latency (ms)", *scores, "Share of lead")
    rows = []
    for entry in _entries(results):
        standing_out, cost = _standing_out(results, entry), entry.cost
        costs = (f"{cost.parameters / 1e6:.3g}", f"{cost.latency_ms:.1f}") if cost else (ABSENT, ABSENT)
        cells = (f"{entry.scores[key]:.4f}" for key in metrics)
        bold = frozenset(3 + number for number, key in enumerate(metrics) if key in standing_out)
        rows.append(Row(name(entry.model), (entry.method_name, *costs, *cells, _share(results, entry)), bold))
    return Table(head, tuple(rows))


def ablation_table(results: Results, student: str) -> Table | None:
    """Table 4 of the paper: which terms the loss has; None where neither term was tried alone."""
    methods = [method for method in ABLATION if method in results.students[student]]
    if not {"semantic", "spectral"} & {*methods}:
        return None
    titles = metric_titles(results)
    metrics = [key for key in PAPER_METRICS if key in titles]
    rows = []
    for method in methods:
        terms = ("yes" if term in ABLATION[method] else ABSENT for term in ("prediction", "spectral", "semantic"))
        scores, standing_out = results.metrics[student][method], better_metrics(results, student, method)
        bold = frozenset(3 + number for number, key in enumerate(metrics) if key in standing_out)
        rows.append(Row(name(method), (*terms, *(f"{scores[key]:.4f}" for key in metrics)), bold))
    return Table(("", "prediction", "spectral", "semantic", *(titles[key] for key in metrics)), tuple(rows))


def better_metrics(results: Results, model: str, method: str) -> set[str]:
    """The metrics by which a method is better than its student's baseline beyond chance."""
    return {
        "mse"
        for each in results.comparisons
        if (each.student, each.method, each.against, each.domain) == (model, method, "baseline", "")
        and each.verdict == "better"
    }


def metric_titles(results: Results) -> dict[str, str]:
    """The scores that are one number for all variables, by key."""
    some = _entries(results)[0].scores
    return {key: entry["title"] for key, entry in results.setup["metrics"].items() if key in some}


def domain_table(results: Results) -> Table | None:
    """Scores in seen and in unseen environments; None where the test split does not have both."""
    domains: dict[str, int] = results.setup["domains"]
    if not domains:
        return None
    titles = metric_titles(results)
    columns = [(key, titles[key], domain) for key in PAPER_METRICS if key in titles for domain in domains]
    head = ("", *(f"{title}, {domain}" for _, title, domain in columns), "MSE, unseen / seen")
    rows = []
    for entry in _entries(results):
        scores = entry.scores
        cells = [f"{scores[f'{key}_{domain}']:.4f}" for key, _, domain in columns]
        ratio = scores["mse_unseen"] / scores["mse_seen"] if scores["mse_seen"] else float("nan")
        rows.append(Row(entry.name, (*cells, f"{ratio:.2f}")))
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


def seed_table(results: Results) -> Table:
    """MSE of every seed of each student and method: how far luck with the seed reaches."""
    seeds, values = results.seeds, seed_scores(results)
    rows = [
        Row(
            name(student, method),
            tuple(
                f"{values[student, method, seed]:.5f}" if (student, method, seed) in values else ABSENT
                for seed in seeds
            ),
        )
        for student, methods in results.students.items()
        for method in methods
    ]
    return Table(("", *(f"seed {seed}" for seed in seeds)), tuple(rows))


def seed_scores(results: Results) -> dict[tuple[str, str, int], float]:
    """MSE by student, method and seed, over windows, lead times and variables."""
    scores = results.scores[(results.scores["metric"] == "mse") & results.scores["method"].notna()]
    means = scores.groupby(["model", "method", "seed"], observed=True, as_index=False)["value"].mean()
    keys = zip(means["model"].astype(str), means["method"].astype(str), means["seed"].astype(int), strict=True)
    return dict(zip(keys, means["value"].astype(float), strict=True))


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
    rows = [(row.name, *(f"**{c}**" if n in row.bold else c for n, c in enumerate(row.cells))) for row in table.rows]
    lines = [table.head, ("---", *["---:"] * (len(table.head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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


def _entries(results: Results) -> list[Entry]:
    """Every row of a table of scores, in order."""
    taught = [
        entry
        for student, methods in results.students.items()
        for method in methods
        for entry in (
            Entry(student, method, results.metrics[student][method], results.costs.get(student)),
            *_precisions(results, student, method),
        )
    ]
    above, below = (
        [Entry(model, "", results.metrics[model], results.costs.get(model)) for model in models]
        for models in (teachers(results), references(results))
    )
    return [*above, *taught, *below]


def _precisions(results: Results, student: str, method: str) -> list[Entry]:
    """The exported student in float32 and in 8 bits, if it is of this method and 8 bits were asked for."""
    found = results.precisions
    if found is None or (found.run.model, found.run.method) != (student, method):
        return []
    return [
        Entry(student, method, scores, alone=f"{precision}, seed {found.run.seed}")
        for precision, scores in found.scores.items()
    ]


def _row(results: Results, metrics: list[str], entry: Entry) -> Row:
    scores, cost, standing_out = entry.scores, entry.cost, _standing_out(results, entry)
    return Row(
        entry.name,
        (
            *(_with_deviation(scores[metric], scores.get(f"{metric}_sd"), "{:.4f}") for metric in metrics),
            f"{cost.parameters:,}" if cost else ABSENT,
            f"{cost.multiply_accumulates / 1e6:.4g} M" if cost else ABSENT,
            _latency(cost) if cost else ABSENT,
            _share(results, entry),
        ),
        frozenset(number for number, key in enumerate(metrics) if key in standing_out),
    )


def _standing_out(results: Results, entry: Entry) -> set[str]:
    """The metrics to print in bold; a single model has not been tested against the baseline."""
    return set() if entry.alone else better_metrics(results, entry.model, entry.method)


def _latency(cost: Cost) -> str:
    """Median and, where it was measured, 95th percentile."""
    return f"{cost.latency_ms:.1f}" + ("" if math.isnan(cost.latency_p95_ms) else f" / {cost.latency_p95_ms:.1f}")


def _share(results: Results, entry: Entry) -> str:
    if "share_of_lead" in entry.scores:
        deviation = entry.scores.get("share_of_lead_sd")
        return _with_deviation(100 * entry.scores["share_of_lead"], deviation and 100 * deviation, "{:.0f}") + " %"
    if entry.method in ("", "baseline") or entry.alone or "baseline" not in results.students[entry.model]:
        return ABSENT
    return "no lead"


def _with_deviation(value: float, deviation: float | None, layout: str) -> str:
    number = layout.format(value).replace("-", "\N{MINUS SIGN}")
    return number + ("" if deviation is None else f" ± {layout.format(deviation)}")
