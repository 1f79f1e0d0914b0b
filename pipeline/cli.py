"""The console command `s2kd`.

s2kd table                  prints the main table and where the report is
s2kd apply OVERLAY.yaml     merges a ready setting from experiments/ into params.yaml, keeping its comments
s2kd keep [CAPTIONS]        takes the captions of a table into the log, so that they are not asked for again
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import overlay, paths
from pipeline.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a `UserError` is printed as one message and the process exits with 1."""
    parser = argparse.ArgumentParser(prog="s2kd", description="S2-KD as a DVC pipeline: its results and its settings.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="print the main table and where the report is")
    table.set_defaults(run=lambda _: print_table())
    apply = commands.add_parser("apply", help="merge a ready setting into params.yaml, keeping its comments")
    apply.add_argument("overlay", type=Path, metavar="OVERLAY.yaml")
    apply.set_defaults(run=lambda options: apply_overlay(options.overlay))
    keep = commands.add_parser("keep", help="take the captions of a table into the log: they are not asked for again")
    keep.add_argument("captions", type=Path, metavar="CAPTIONS", nargs="?", default=paths.CAPTIONS)
    keep.set_defaults(run=lambda options: keep_captions(options.captions))
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"s2kd: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def print_table() -> None:
    from pipeline import tables  # these load what `apply` can do without
    from pipeline.results import Results

    results = Results()
    print(tables.as_text(tables.main_table(results)))
    print(f"\n{tables.scope(results)}")
    print("\n".join(tables.sentences(results)))
    if by_domain := tables.domain_table(results):
        print(f"\n{tables.as_text(by_domain)}\n\n{tables.domain_scope(results)}")
        print("\n".join(tables.sentences(results, domains=True)))
    report = paths.REPORT / "index.html"
    print(f"\nReport: {report}" if report.is_file() else f"\n{report} is missing; `dvc repro report` makes it")


def apply_overlay(path: Path) -> None:
    changed = overlay.apply(path)
    for key, value in changed.items():
        print(f"{key}: {value}")
    print(f"params.yaml: {len(changed)} changed by {path}")


def keep_captions(path: Path) -> None:
    from pipeline import captioning, captions, params
    from pipeline.answers import Answers

    table = captions.read(path)
    with Answers(params.load().runtime.answers) as answers:
        count = captioning.keep(table, answers)
        print(f"{count} of {len(table)} captions of {path} are in {answers.path}")
