"""The report's tables in LaTeX, in the paper's layout: Tables 1 to 3 (one for each data set) and Table 4."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pipeline import tables, verdicts
from pipeline.results import Results

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "²": r"\textsuperscript{2}",
}
PREAMBLE = "% Needs \\usepackage{booktabs}; \\input this file.\n"


def document(runs: Sequence[tuple[str, Results]], teacher: str) -> str:
    """Tables of every (data set, results), to be read by LaTeX's \\input."""
    parts = [PREAMBLE]
    for dataset, results in runs:
        told = [tables.scope(results), tables.BOLD_NOTE, verdicts.precision_sentence(results)]
        caption = f"Performance on {dataset}, teacher {tables.name(teacher)}. {' '.join(filter(None, told))}"
        parts.append(table(tables.paper_table(results), caption, f"tab:{dataset}", left=2))
        for student in results.students:
            if ablation := tables.ablation_table(results, student):
                caption = f"Ablation on {dataset} with a {tables.name(student)} student. {tables.BOLD_NOTE}"
                parts.append(table(ablation, caption, f"tab:ablation-{dataset}-{student}", left=1))
    return "\n".join(parts)


def table(found: tables.Table, caption: str, label: str, left: int) -> str:
    """One floating table; the first `left` columns hold words, and a rule parts one model from the next."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}", rf"\label{{{label}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(found.head) - left)}}}", r"\toprule"]
    lines += [_line(escaped(cell) for cell in found.head), r"\midrule"]
    previous = None
    for row in found.rows:
        if left > 1 and previous not in (None, row.name):
            lines.append(r"\midrule")
        cells = [rf"\textbf{{{escaped(c)}}}" if n in row.bold else escaped(c) for n, c in enumerate(row.cells)]
        lines.append(_line([escaped(row.name) if row.name != previous else "", *cells]))
        previous = row.name
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands.

    >>> escaped("5_6 & 7 %")
    '5\\\\_6 \\\\& 7 \\\\%'
    """
    return re.sub(".", lambda match: SPECIAL.get(match[0], match[0]), text, flags=re.DOTALL)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
