"""Where a report's numbers come from: the commit, the parameters, and what DVC has recorded of the data."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.params import Params
from pipeline.results import Results

WATCHED = ("pipeline", "stages", "params.yaml", "dvc.yaml")  # what decides results besides the data
FIGURES = (  # what the reader sees, the files it is drawn from, the stage that writes them, the parameters that count
    ("Main table, verdicts", "metrics.json differences.json cost.json", "evaluate", "seeds students methods evaluate"),
    ("The exported student in 8 bits", "int8.json", "evaluate", "seeds students methods evaluate export"),
    ("Skill by lead time", "rmse_by_lead.csv", "evaluate", "seeds students methods"),
    ("Field metrics", "field.csv", "evaluate", "evaluate"),
    ("Sharpness", "spectra.csv sharpness.csv", "evaluate", "seeds students methods"),
    ("Extremes", "extremes.csv", "evaluate", "evaluate"),
    ("Roll-out", "rollout.csv", "evaluate", "evaluate.rollout"),
    ("Training", "training.csv", "distill", "train_teacher distill beta lambda"),
    ("Maps, window browser", "examples.npz examples.json", "evaluate", "evaluate.example_windows"),
    ("Captions", "captions.json", "caption", "captioner caption"),
)


@dataclass(frozen=True)
class Output:
    """What a stage left behind, as dvc.lock has it."""

    stage: str
    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class Origin:
    """commit: None outside of a git repository. changed: watched files that differ from it."""

    commit: str | None
    changed: tuple[str, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Source:
    """Of one part of the page. files: name and first digits of the MD5 sum of each, which DVC knows them by."""

    figure: str
    files: tuple[tuple[str, str], ...]
    command: str
    parameters: tuple[str, ...]


def origin(root: Path = Path()) -> Origin:
    """What git and dvc.lock know in `root`; little where neither is in use."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *WATCHED) if commit else None
    paths = tuple(line[3:] for line in (changed or "").splitlines())
    return Origin(commit.strip() if commit else None, paths, _outputs(root / "dvc.lock"))


def sources(results: Results) -> list[Source]:
    """The files behind each part of the page that is there."""
    found = []
    for figure, names, stage, parameters in FIGURES:
        files = tuple(
            (name, _md5(results.folder / name)) for name in names.split() if (results.folder / name).is_file()
        )
        if files:
            found.append(Source(figure, files, f"dvc repro {stage}", tuple(parameters.split())))
    return found


def parameters_text(params: Params) -> str:
    """Every parameter that can change a result, as YAML."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(params.model_dump(mode="json", by_alias=True, exclude={"runtime"}), stream)
    return stream.getvalue()


def flat_parameters(text: str) -> dict[str, Any]:
    """params.yaml of any time, as it stands: key with dots -> value."""
    from ruamel.yaml import YAML

    return dict(_leaves(YAML(typ="safe", pure=True).load(text) or {}))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _outputs(lock: Path) -> tuple[Output, ...]:
    """Of every stage but the report itself, whose entry is that of the run before."""
    from ruamel.yaml import YAML

    if not lock.is_file():
        return ()
    stages = YAML(typ="safe", pure=True).load(lock.read_text()).get("stages", {})
    return tuple(
        Output(stage, out["path"], out["md5"], out["size"])
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
        if stage != "report"
    )


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git or no commit."""
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout if run.returncode == 0 else None


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()[:12]
