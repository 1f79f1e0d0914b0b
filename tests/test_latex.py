from __future__ import annotations

import re
from pathlib import Path

from pipeline import latex, paths
from pipeline.results import Results
from pipeline.tables import Row, Table


def test_a_table_has_rules_bold_cells_and_a_model_named_once() -> None:
    rows = (
        Row("teacher", ("\N{EN DASH}", "0.1")),
        Row("U-Net", ("baseline", "0.3")),
        Row("U-Net", ("S2-KD", "0.2 \N{PLUS-MINUS SIGN} 0.1"), frozenset({1})),
    )
    text = latex.table(Table(("Model", "Method", "MSE \N{DOWNWARDS ARROW}"), rows), "On 5 % of a_b", "tab:x", left=2)
    assert text.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{On 5 \% of a\_b}",
        r"\label{tab:x}",
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"Model & Method & MSE $\downarrow$ \\",
        r"\midrule",
        r"teacher & -- & 0.1 \\",
        r"\midrule",
        r"U-Net & baseline & 0.3 \\",
        r" & S2-KD & \textbf{0.2 $\pm$ 0.1} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_what_means_something_to_latex_is_printed_as_it_stands() -> None:
    assert latex.escaped("\\input{x} $a^b$ #1 ~ <&>") == (
        r"\textbackslash{}input\{x\} \$a\textasciicircum{}b\$ \#1 \textasciitilde{} \textless{}\&\textgreater{}"
    )


def test_the_document_has_the_papers_columns_and_every_row_as_many_cells(evaluated: Path) -> None:
    text = latex.document([("weather_twin", Results(evaluated / paths.EVALUATE))], "simvp")
    assert r"Model & Method & Params (M) & Latency (ms) & MSE $\downarrow$ & MAE $\downarrow$ & SSIM $\uparrow$" in text
    assert len({line.count(" & ") for line in text.splitlines() if line.endswith(r" \\")}) == 1
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert text.isascii() or not re.search("[^\x00-\x7f²]", text)
