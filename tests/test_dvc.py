"""The pipeline as DVC users use it: in a clone with tiny settings, by the commands that they type."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pipeline_copy import Clone, make_clone, write_raw

pytestmark = pytest.mark.slow

STAGES = ["check", "fetch", "ingest", "caption", "embed", "train_teacher@multimodal", "dump_features@multimodal"]
STAGES += ["distill@unet-baseline", "distill@unet-s2kd", "evaluate", "export", "report"]
AFTER_BETA = ["check", "distill@unet-baseline", "distill@unet-s2kd", "evaluate", "export", "report"]
# What stages import and need not depend on, because it decides no byte of their outputs:
PLUMBING = {"batch", "check", "errors", "mapped", "params", "paths", "progress", "registry", "stage", "work"}
PLUMBING |= {"answers", "cluster", "failures"}
# how outputs of earlier stages are opened: another layout changes those outputs, which are dependencies;
READERS = {"captions", "embeddings", "features", "models", "store"}
# the rooms' tables of names: what is chosen is a parameter, and where it lies is a dependency;
TABLES = {"captioners", "datasets", "embedders", "losses", "metrics", "students", "teachers"}
# contracts without behaviour;
CONTRACTS = {"captioners.base", "losses.base"}
# and what comes along with another name.
UNUSED = {
    "caption": {"preview"},
    "fetch": {"datasets.base", "datasets.files.netcdf3"},  # files are opened by `ingest`
    "ingest": {"checksums", "transfer"},  # files are copied by `fetch`
    "train_teacher": {"students.base"},
    "dump_features": {"checkpoint", "devices", "training"},  # for the device
    # a model that forecasts otherwise has another validation loss, which train_teacher and distill write
    "evaluate": {"layers", "serving", "students.base", "students.unet", "teachers.base", "teachers.simvp"},
    "export": {"layers", "serving", "students.base", "students.unet"},
    "report": {"cost", "evaluation", "metrics.base", "windows"},  # types
}


def test_a_fresh_clone_runs_every_stage_once_and_then_none(built: Clone, tmp_path: Path) -> None:
    printed = (built.root.parent / "repro.txt").read_text()
    assert re.findall(r"^Running stage '([^']+)'", printed, re.MULTILINE) == STAGES

    again = built.copied(tmp_path / "clone")
    result = again.dvc("repro")
    assert result.stages == []
    assert "Data and pipelines are up to date." in result.output
    assert again.run("git", "status", "--short").output == ""


def test_two_clones_with_the_same_seed_end_in_the_same_bytes(built: Clone, tmp_path: Path) -> None:
    other = make_clone(tmp_path, built.root.parent / "raw")
    other.dvc("repro")
    mine, theirs = built.outputs(), other.outputs()
    assert {path for path in mine if mine[path] != theirs[path]} <= {"data/evaluate", "data/report"}

    files, again = built.files("data/evaluate"), other.files("data/evaluate")
    assert files.keys() == again.keys()
    # latency is measured; nothing else may differ
    assert {name for name in files if files[name] != again[name]} <= {"data/evaluate/cost.json"}


def test_another_beta_reruns_what_it_decides_and_the_old_one_comes_from_the_cache(built: Clone, tmp_path: Path) -> None:
    clone = built.copied(tmp_path / "clone")
    changed = clone.dvc("exp", "run", "-S", "beta=0.7")
    assert changed.stages == AFTER_BETA
    assert _printed_by(changed.output, "distill@unet-baseline").startswith("distill: seed-42: resuming after epoch 5")
    assert "resuming" not in _printed_by(changed.output, "distill@unet-s2kd")
    outputs, before = clone.outputs(), built.outputs()
    different = {path for path in outputs if outputs[path] != before[path]}
    different -= {"data/export"}  # another student only if another one is best
    assert different == {"data/distill/unet-s2kd", "data/evaluate", "data/report"}

    back = clone.dvc("exp", "run", "-S", "beta=0.5")
    assert (back.stages, back.cached) == ([], AFTER_BETA)
    assert clone.outputs() == before


def test_queued_values_end_in_a_table_that_names_beta_and_scores(built: Clone, tmp_path: Path) -> None:
    clone = built.copied(tmp_path / "clone")
    clone.dvc("exp", "run", "-S", "beta=0.1,0.5", "--queue")
    ran = clone.dvc("exp", "run", "--run-all")
    assert ran.stages == AFTER_BETA, "0.5 comes from the cache"

    table = clone.dvc(
        "exp", "show", "--only-changed", "--md", "--drop", "data/.*|.*openstl.*|Created|State|Executor"
    ).output
    header, _, *rows = (line.strip("|").split("|") for line in table.strip().splitlines())
    columns = [column.strip() for column in header]
    assert columns[0] == "Experiment"
    assert columns[-1] == "beta"
    assert "unet.s2kd.mse" in columns
    assert len(columns) <= 6, table
    assert {row[-1].strip() for row in rows} == {"0.1", "0.5"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("betta=1", "Key 'betta' is not in"),
        ("beta=-1", "params.yaml: beta = -1 is not allowed: Input should be greater than or equal to 0"),
        ("students=[foo]", "params.yaml: students = 'foo' is not a known student; known: unet"),
        ("captioner=foo", "params.yaml: captioner = 'foo' is not a known captioner; known: narrator"),
    ],
)
def test_a_wrong_key_or_value_stops_before_any_work(built: Clone, tmp_path: Path, setting: str, message: str) -> None:
    clone = built.copied(tmp_path / "clone")
    result = clone.dvc("exp", "run", "-S", setting, code=255)
    assert message in result.output
    assert set(result.stages) <= {"check"}
    assert _without_check(clone) == _without_check(built)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("beta: 0.5", "betta: 0.5", "params.yaml: unknown key 'betta'; allowed beside it: seed, seeds, dataset,"),
        ("students: [unet]", "students: [foo]", "params.yaml: students = 'foo' is not a known student; known: unet"),
    ],
)
def test_a_mistake_typed_into_params_yaml_is_named_before_dvc_misses_a_file(
    built: Clone, tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    clone = built.copied(tmp_path / "clone")
    params = clone.root / "params.yaml"
    assert right in params.read_text()
    params.write_text(params.read_text().replace(right, wrong))
    result = clone.dvc("repro", code=255)
    assert message in result.output
    assert result.stages == ["check"]
    assert _without_check(clone) == _without_check(built)


@pytest.mark.parametrize("room", ["captioners", "losses", "students", "teachers"])
def test_a_new_entry_of_a_room_makes_no_stage_out_of_date(built: Clone, tmp_path: Path, room: str) -> None:
    clone = built.copied(tmp_path / "clone")
    folder = clone.root / "pipeline" / room
    (folder / "mine.py").write_text('"""A new entry."""\n')
    table = folder / "__init__.py"
    table.write_text(table.read_text() + "\n# and its line in the table\n")
    assert clone.dvc("status").output.strip() == "Data and pipelines are up to date."


def test_stages_depend_on_the_code_that_decides_their_bytes(built: Clone) -> None:
    imported = built.imported()
    assert imported.keys() == {stage.partition("@")[0] for stage in STAGES}
    assert {stage: sorted(_uncovered(stage, names, _params(built))) for stage, names in imported.items()} == {
        stage: [] for stage in imported
    }


def test_stages_depend_on_the_code_of_another_data_set_too(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw") / "geopotential_500" / "*.nc"
    clone = make_clone(tmp_path, raw, {"dataset": "xarray", "ingest": {"variables": ["z"]}})
    clone.dvc("repro", "ingest")
    imported = clone.imported()
    assert "pipeline.datasets.xarray" in imported["fetch"] & imported["ingest"]
    assert {stage: sorted(_uncovered(stage, names, _params(clone))) for stage, names in imported.items()} == {
        "check": [],
        "fetch": [],
        "ingest": [],
    }


def test_what_was_trained_is_taken_up_again_but_not_after_its_code_has_changed(built: Clone, tmp_path: Path) -> None:
    clone, stage = built.copied(tmp_path / "clone"), "distill@unet-baseline"
    before = clone.outputs()
    assert "resuming" in clone.dvc("repro", "--single-item", "--force", stage).output
    windows = clone.root / "pipeline" / "windows.py"
    windows.write_text(windows.read_text() + "\n# reads the same\n")
    again = clone.dvc("repro", "--single-item", stage)
    assert again.stages == [stage]
    assert "resuming" not in again.output
    assert clone.outputs() == before


@pytest.mark.parametrize(
    ("stage", "foreign"),
    [
        ("check", {"jax", "lightning_fabric", "transformers", "xarray"}),
        ("fetch", {"jax", "torch", "transformers", "zarr"}),
        ("ingest", {"jax", "torch", "transformers"}),
        ("caption", {"jax", "torch", "transformers", "xarray"}),
    ],
)
def test_a_stage_does_not_load_libraries_that_it_does_not_use(stage: str, foreign: set[str]) -> None:
    program = f"import sys, stages.{stage}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert foreign.isdisjoint(loaded)


def _printed_by(output: str, stage: str) -> str:
    """What a stage printed, without the line that names its command."""
    return output.partition(f"Running stage '{stage}':\n")[2].partition("\n")[2].partition("Updating lock file")[0]


def _without_check(clone: Clone) -> dict[str, bytes]:
    """Files under data/; data/check is the mark that params.yaml is valid, and goes when it is not."""
    return {name: content for name, content in clone.files().items() if not name.startswith("data/check/")}


def _params(clone: Clone) -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load((clone.root / "params.yaml").read_text())
    return tree


def _uncovered(stage: str, modules: set[str], params: dict[str, Any]) -> set[str]:
    """Imported modules that neither the stage's dependencies cover nor the lists above let pass."""
    if stage == "check":
        return set()  # it writes a constant, whatever it looks at
    free = {f"pipeline.{name}" for name in PLUMBING | READERS | TABLES | CONTRACTS | UNUSED.get(stage, set())}
    covered = _dependencies(stage, params)
    return {name for name in modules - free if not _is_below(name.replace(".", "/"), covered)}


def _is_below(path: str, dependencies: set[str]) -> bool:
    """A module or package, by its path without an ending."""
    return any(path in (each, each.removesuffix(".py")) or path.startswith(f"{each}/") for each in dependencies)


def _dependencies(stage: str, params: dict[str, Any]) -> set[str]:
    """The stage's dependencies in dvc.yaml with the chosen names put in; a matrix stage's for all its items."""
    pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text())
    values = {name: [params[name]] for name in ("dataset", "captioner", "teacher")}
    values |= {"caption.template": [params["caption"]["template"]]}
    values |= {"caption.shuffle": [params["caption"]["shuffle"]]}
    values |= {"item.student": params["students"], "item.method": params["methods"]}
    values |= {"item.modality": params["modalities"]}
    found = set()
    for dependency in pipeline["stages"][stage].get("deps", []):
        names = re.findall(r"\$\{([^}]+)\}", dependency)
        for value in values[names[0]] if names else [""]:
            found.add(re.sub(r"\$\{[^}]+\}", value, dependency))
    return found
