"""Comparisons in words: a sentence and a verdict for each, and what the run comes to."""

from __future__ import annotations

from pipeline.comparison import TEACHERS, Comparison, teacher_leads
from pipeline.results import Results
from pipeline.tables import ABSENT, Row, Table, name

CONTROLS = {  # what a comparison shows: S2-KD, or the teacher, against the same with a part taken away
    ("s2kd", "s2kd_vision"): "what the text adds to the loss",
    ("s2kd", "semantic"): "what the spectral term adds",
    ("teacher", "vision teacher"): "what the text adds to the teacher",
}
RIVALS = ("baseline", "fitnet")  # whom the claim names
VERDICTS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


def sentences(results: Results, domains: bool = False) -> list[str]:
    """One line per comparison, with its interval and verdict: over all test windows, or (`domains`) within each."""
    return [_sentence(comparison) for comparison in results.comparisons if bool(comparison.domain) is domains]


def claims(results: Results) -> list[str]:
    """What the run comes to, a sentence for each student: S2-KD (or what there is) against baseline and FitNet."""
    return [_claim(results, student) for student in results.students]


def verdict_table(results: Results, domains: bool = False) -> tuple[Table, list[Comparison]]:
    """The comparisons as a table, and themselves in the order of its rows."""
    chosen = [comparison for comparison in results.comparisons if bool(comparison.domain) is domains]
    rows = []
    for comparison in chosen:
        pair = f"{_whose(comparison)}{name(comparison.method)} against {name(comparison.against)}"
        domain = f" ({comparison.domain})" if comparison.domain else ""
        plain = span(comparison.low, comparison.high)
        corrected = span(comparison.corrected_low, comparison.corrected_high)
        cells = (comparison.verdict, signed(comparison.difference), plain, corrected)
        rows.append(Row(f"{pair}{domain}", cells))
    head = ("", "verdict", "MSE difference", "95 % interval", "corrected interval")
    return Table(head, tuple(rows)), chosen


def of_methods(comparison: Comparison) -> bool:
    """Whether methods are compared, not a teacher, whose lead is of another size."""
    return comparison.method not in TEACHERS


def precision_sentence(results: Results) -> str:
    """What 8 bits cost the exported student; empty where they were not asked for."""
    found = results.precisions
    if found is None:
        return ""
    change = _minus(f"{100 * (found.scores['int8']['mse'] / found.scores['float32']['mse'] - 1):+.2f}")
    model = f"{name(found.run.model, found.run.method)}, seed {found.run.seed}"
    return f"{model}, {_told(found.comparison)}; {change} % of float32's MSE."


def control_sentences(results: Results) -> list[str]:
    """What each comparison with a control shows."""
    return [
        f"{_sentence(each)[:-1]}: {CONTROLS[each.method, each.against]}."
        for each in results.comparisons
        if (each.method, each.against) in CONTROLS and not each.domain
    ]


def _claim(results: Results, student: str) -> str:
    methods = [method for method in results.students[student] if method != "baseline"]
    method = "s2kd" if "s2kd" in methods else methods[-1] if methods else ""
    found = [
        each
        for each in results.comparisons
        if (each.student, each.method, each.domain) == (student, method, "") and each.against in RIVALS
    ]
    if not found:
        return f"{name(student)}: nothing to compare; the baseline stands alone."
    rivals: dict[str, list[str]] = {}
    for each in found:
        rivals.setdefault(each.verdict, []).append(_rival(each.against))
    verdicts = ", ".join(f"{VERDICTS[verdict]} {' and '.join(against)}" for verdict, against in rivals.items())
    text = f"{name(student)}, {name(method)}: {verdicts}"
    scores = results.metrics[student]
    if "baseline" in scores:
        change = 100 * (scores[method]["mse"] / scores["baseline"]["mse"] - 1)
        text += f": MSE {_minus(f'{change:+.1f}')}\N{NO-BREAK SPACE}% against the baseline"
    share = scores[method].get("share_of_lead")
    if share is not None:
        text += f", {_minus(f'{100 * share:.0f}')}\N{NO-BREAK SPACE}% of the teacher's lead"
    return f"{text}."


def _rival(method: str) -> str:
    return f"the {method}" if method in ("baseline", *TEACHERS) else name(method)


def _sentence(comparison: Comparison) -> str:
    domain = f"{comparison.domain.capitalize()} environments: " if comparison.domain else ""
    line = f"{domain}{_whose(comparison)}{_told(comparison)}"
    if (comparison.method, comparison.against) == ("teacher", "baseline") and not teacher_leads(comparison):
        line += "; the teacher does not lead, so there is no share of its lead to give"
    return line[0].upper() + line[1:] + "."


def _whose(comparison: Comparison) -> str:
    """The student before what is said of it; nothing where teachers are compared."""
    return f"{name(comparison.student)}, " if comparison.student else ""


def _told(comparison: Comparison) -> str:
    """Both sides, verdict, difference and intervals."""
    method = f"the {comparison.method}" if comparison.method in TEACHERS else name(comparison.method)
    if comparison.low is None:
        units = f"blocks of {comparison.block_windows} windows" if comparison.simulations is None else "simulations"
        interval = f"no interval, under two {units}"
    else:
        interval = f"95 % interval {span(comparison.low, comparison.high)}"
        if comparison.comparisons > 1:
            interval += (
                f"; corrected for {comparison.comparisons} comparisons "
                f"{span(comparison.corrected_low, comparison.corrected_high)}"
            )
    difference = f"MSE difference {signed(comparison.difference)} ({interval})"
    return f"{method} against {_rival(comparison.against)}: {comparison.verdict}, {difference}"


def span(low: float | None, high: float | None) -> str:
    """An interval as people read it."""
    return ABSENT if low is None or high is None else f"{signed(low)} to {signed(high)}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return _minus(f"{value:+.5f}")


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")
