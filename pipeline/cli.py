"""The console command `s2kd`.

s2kd table                  prints the main table and where the report is
s2kd compare REV REV...     puts the results of commits or experiments on one page, without touching the workspace
s2kd apply OVERLAY.yaml     merges a ready setting from experiments/ into params.yaml, keeping its comments
s2kd doctor                 checks this machine and params.yaml, and says what is missing and how to get it
s2kd keep [CAPTIONS]        takes the captions of a table into the log, so that they are not asked for again
s2kd predict MODEL INPUT OUTPUT   forecasts from every initial time in a file, by an exported student
s2kd serve MODEL            the same over HTTP, with a page
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import overlay, paths
from pipeline.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a `UserError` is printed as one message and the process exits with 1."""
    parser = argparse.ArgumentParser(prog="s2kd", description="S2-KD as a DVC pipeline: its results and its settings.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    table = commands.add_parser("table", help="print the main table and where the report is")
    table.set_defaults(run=lambda _: print_table())
    compared = commands.add_parser("compare", help="put the results of several commits or experiments on one page")
    compared.add_argument("revisions", nargs="+", metavar="REV", help="commit, branch, tag, experiment, or: workspace")
    compared.add_argument("--output", type=Path, default=paths.WORK / "compare.html", help="the page")
    compared.add_argument("--latex", type=Path, metavar="FILE", help="write the paper's tables of each for LaTeX too")
    compared.set_defaults(run=lambda options: compare_revisions(options.revisions, options.output, options.latex))
    apply = commands.add_parser("apply", help="merge a ready setting into params.yaml, keeping its comments")
    apply.add_argument("overlay", type=Path, metavar="OVERLAY.yaml")
    apply.set_defaults(run=lambda options: apply_overlay(options.overlay))
    doctor = commands.add_parser("doctor", help="say what is missing on this machine and how to get it")
    doctor.set_defaults(run=lambda _: see_doctor())
    keep = commands.add_parser("keep", help="take the captions of a table into the log: they are not asked for again")
    keep.add_argument("captions", type=Path, metavar="CAPTIONS", nargs="?", default=paths.CAPTIONS)
    keep.set_defaults(run=lambda options: keep_captions(options.captions))
    _add_serving(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"s2kd: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _add_serving(commands: Any) -> None:
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", type=Path, metavar="MODEL", help="folder that the stage export wrote")
    model.add_argument("--int8", action="store_true", help="take its 8-bit model")
    model.add_argument("--raw", action="store_true", help="read a folder of raw files as the model's data set was read")
    predict = commands.add_parser("predict", parents=[model], help="forecast from every initial time in a file")
    predict.add_argument("input", metavar="INPUT", help="NetCDF, GRIB or Zarr: a file, folder, glob or Zarr address")
    predict.add_argument("output", type=Path, metavar="OUTPUT", help="a new .nc file or .zarr store")
    predict.add_argument("--batch-size", type=int, default=16, help="windows in memory at once (default: 16)")
    predict.set_defaults(run=predict_file)
    serve = commands.add_parser("serve", parents=[model], help="forecast over HTTP, with a page to look at")
    serve.add_argument("--data", metavar="INPUT", help="file whose windows the page offers")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    serve.add_argument("--max-megabytes", type=float, default=16, help="of a request and of its answer (default: 16)")
    serve.set_defaults(run=serve_model)


def predict_file(options: argparse.Namespace) -> None:
    from pipeline.serving.predict import predict

    logging.basicConfig(level=logging.INFO, format="s2kd: %(message)s", stream=sys.stderr)
    precision = "int8" if options.int8 else "float32"
    count = predict(options.model, options.input, options.output, options.batch_size, options.raw, precision)
    print(f"{count} forecasts are in {options.output}")


def serve_model(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise UserError("serving needs FastAPI and uvicorn, which are not installed: pip install 's2kd[serve]'")
    from pipeline.serving.server import serve

    precision = "int8" if options.int8 else "float32"
    serve(options.model, options.data, options.raw, precision, options.host, options.port, options.max_megabytes)


def print_table() -> None:
    from pipeline import tables, verdicts  # these load what `apply` can do without
    from pipeline.results import Results

    results = Results()
    print(tables.as_text(tables.main_table(results)))
    print(f"\n{tables.scope(results)}")
    print("\n".join(filter(None, [*verdicts.sentences(results), verdicts.precision_sentence(results)])))
    if by_domain := tables.domain_table(results):
        print(f"\n{tables.as_text(by_domain)}\n\n{tables.domain_scope(results)}")
        print("\n".join(verdicts.sentences(results, domains=True)))
    report = paths.REPORT / "index.html"
    print(f"\nReport: {report}" if report.is_file() else f"\n{report} is missing; `dvc repro report` makes it")


def compare_revisions(revisions: Sequence[str], output: Path, latex: Path | None) -> None:
    from pipeline.compare import compare

    print(compare(revisions, output, latex))
    print(f"\nPage: {output}")


def apply_overlay(path: Path) -> None:
    changed = overlay.apply(path)
    for key, value in changed.items():
        print(f"{key}: {value}")
    print(f"params.yaml: {len(changed)} changed by {path}")


def see_doctor() -> None:
    """Exits with 1 if the chosen parameters cannot run here."""
    from pipeline.doctor import examine

    findings = []
    for finding in examine():
        print(finding, flush=True)
        findings.append(finding.state)
    missing, warnings = findings.count("missing"), findings.count("warning")
    told = f"{missing} missing, {warnings} warning{'s' * (warnings != 1)}" if missing or warnings else "all is there"
    print(f"\n{told}")
    raise SystemExit(1 if missing else 0)


def keep_captions(path: Path) -> None:
    from pipeline import captioning, captions, params
    from pipeline.answers import Answers

    table = captions.read(path)
    with Answers(params.load().runtime.answers) as answers:
        count = captioning.keep(table, answers)
        print(f"{count} of {len(table)} captions of {path} are in {answers.path}")
