"""Puts tables, curves and maps on one self-contained HTML page.

    python -m stages.report

Reads data/evaluate/, writes data/report/{index.html,tables.md,tables.tex,maps/}.
"""

from __future__ import annotations

from pipeline import paths, report
from pipeline.params import Params
from pipeline.results import Results
from pipeline.stage import run
from pipeline.work import replacing


def main(params: Params) -> None:
    """Puts tables, curves and maps on one self-contained HTML page."""
    results = Results()
    with replacing(paths.REPORT) as folder:
        report.write(results, params, folder)


if __name__ == "__main__":
    run(main)
