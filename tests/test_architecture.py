"""The house's rules, held by reading the source: who may import whom, what stays light, what every file has."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.captioners import CAPTIONERS
from pipeline.captioners.base import Captioner
from pipeline.datasets import DATASETS
from pipeline.datasets.base import DataSource
from pipeline.distillation import distillation_loss
from pipeline.embedders import EMBEDDERS
from pipeline.embedders.base import Embedder
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.losses.base import DistillationLoss
from pipeline.metrics import METRICS
from pipeline.metrics.base import Metric
from pipeline.models import Problem
from pipeline.params import Embed
from pipeline.registry import Registry
from pipeline.students import STUDENTS
from pipeline.students import base as students
from pipeline.teachers import TEACHERS
from pipeline.teachers import base as teachers
from tests.embedders.tiny import save_tiny_bert
from tests.fields import describe
from tests.helpers import tiny_params

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "captioners", "embedders", "teachers", "students", "losses", "metrics")
TABLES = (DATASETS, CAPTIONERS, EMBEDDERS, TEACHERS, STUDENTS, LOSSES, METRICS)
PROBLEM = Problem(t_in=2, t_out=2, variables=2, height=8, width=16, periodic=True)

# Imports go from a higher floor to a lower one or stay on their own; modules not named here stand on TOP.
FOUNDATION, RECORD, WINDOWS, TOP = range(4)
FLOORS = {
    **dict.fromkeys(("errors", "paths", "params", "registry", "progress", "work"), FOUNDATION),
    **dict.fromkeys(("store", "batch"), RECORD),
    **dict.fromkeys(
        ("transfer", "checksums", "mapped", "features", "embeddings", "captions", "windows", "render"), WINDOWS
    ),
    **dict.fromkeys(("prompting", "pictures", "guard", "coarse", "splits", "planning", "context"), WINDOWS),
    **dict.fromkeys(("layers", "models"), WINDOWS),
}


def sources() -> dict[str, Path]:
    """Every module of the library and the stages by its dotted name."""
    files = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return dict(sorted(names.items()))


MODULES = sources()


def imports(name: str, top_level: bool = False) -> set[str]:
    """The modules that module `name` imports, ours by the name of their file; `top_level`: when it is imported."""
    tree = ast.parse(MODULES[name].read_text())
    nodes: Any = tree.body if top_level else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {child if child in MODULES else node.module for child in inner}
    return found


def ours(name: str, top_level: bool = False) -> set[str]:
    return imports(name, top_level) & set(MODULES)


def room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def floor(name: str) -> int:
    if name == "pipeline.captioners.base":
        return WINDOWS  # requests and captions, which prompts, pictures and the guard are made for
    parts = name.split(".")
    return FLOORS.get(parts[1], TOP) if parts[0] == "pipeline" and len(parts) > 1 else TOP


def test_the_floors_name_modules_that_exist() -> None:
    assert {f"pipeline.{name}" for name in FLOORS} <= set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pipeline.")])
def test_a_module_imports_only_from_its_floor_and_below(name: str) -> None:
    assert not {other for other in ours(name) if floor(other) > floor(name)}
    assert not {other for other in ours(name) if other.startswith("stages")}


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = {name: ours(name, top_level=True) - {name, "pipeline", "stages"} for name in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_a_room_imports_no_other_room_and_nothing_from_its_own_floor(name: str) -> None:
    others = {other for other in ours(name) if room(other) != room(name)}
    assert not {other for other in others if room(other)}
    assert not {other for other in others - {"pipeline"} if floor(other) == TOP}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "losses"])
def test_losses_see_tensors_only(name: str) -> None:
    allowed = {"__future__", "abc", "typing", "torch", "torch.nn", "pipeline.registry"}
    assert {other for other in imports(name) if room(other) != "losses"} <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "metrics"])
def test_metrics_see_tensors_and_the_records_description_only(name: str) -> None:
    assert {other for other in ours(name) if room(other) != "metrics"} <= {"pipeline.registry", "pipeline.store"}
    text = MODULES[name].read_text()
    assert "Store(" not in text
    assert "import Store" not in text


def test_vllm_appears_in_at_most_one_file() -> None:
    users = [name for name in MODULES if any(other.split(".")[0] == "vllm" for other in imports(name))]
    assert len(users) <= 1


def test_only_params_reads_yaml_besides_what_edits_and_prints_it_and_dvcs_own() -> None:
    users = {name for name in MODULES if any(other.startswith(("ruamel", "yaml")) for other in imports(name))}
    assert users == {"pipeline.params", "pipeline.overlay", "pipeline.provenance", "pipeline.stage"}


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("stages.check", "transformers matplotlib jax dinosaur lightning_fabric xarray dask pandas dvclive"),
        ("stages.fetch", "torch transformers matplotlib jax dinosaur lightning_fabric xarray dask pandas"),
        ("stages.ingest", "torch transformers matplotlib jax dinosaur lightning_fabric"),
        ("stages.caption", "torch transformers matplotlib jax dinosaur lightning_fabric"),
        ("stages.embed", "torch transformers matplotlib jax dinosaur lightning_fabric"),
        ("stages.evaluate", "transformers matplotlib jax dinosaur lightning_fabric xarray onnx onnxruntime"),
        ("stages.report", "transformers matplotlib jax dinosaur lightning_fabric"),
    ],
)
def test_importing_a_stage_loads_no_library_that_it_may_not_need(module: str, banned: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {banned.split()!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("name", list(MODULES))
def test_every_module_says_what_it_is_for(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    assert not tree.body or ast.get_docstring(tree)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node


def test_functions_stay_short() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 12


def test_nothing_is_unpickled() -> None:
    for name, file in MODULES.items():
        loaders = ("import pickle", "torch.load(", "allow_pickle=True", "joblib", "read_pickle", "weights_only")
        assert not [word for word in loaders if word in file.read_text()], name


def test_catch_all_clauses_are_nowhere() -> None:
    for name, file in MODULES.items():
        handlers = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ExceptHandler)]
        caught = [ast.unparse(node.type) if node.type else "" for node in handlers]
        assert not set(caught) & {"", "Exception", "BaseException"}, name


STAGES = [name for name in MODULES if name.startswith("stages.")]


def test_stages_scripts_and_folders_carry_one_word() -> None:
    declared = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert set(declared) == {name.removeprefix("stages.") for name in STAGES}
    for stage, entry in declared.items():
        assert entry["cmd"].startswith(f"python -m stages.{stage}")
        outputs = entry.get("outs", []) + entry.get("metrics", [])
        assert all(str(out).startswith(f"data/{stage}") for out in outputs)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_a_thin_script_whose_docstring_begins_with_its_command(name: str) -> None:
    text = MODULES[name].read_text()
    tree = ast.parse(text)
    assert f"python -m {name}" in "\n".join((ast.get_docstring(tree) or "").splitlines()[:3])
    assert text.endswith('\n\n\nif __name__ == "__main__":\n    run(main)\n')
    statements = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]
    assert (statements[-1].end_lineno or 0) - statements[0].lineno <= 50
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert main.args.args[0].arg == "params"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_an_entry_has_a_file_of_its_name_and_a_test_beside_it(table: Registry) -> None:
    for name in table:
        module = table[name].partition(":")[0]
        assert module in MODULES
        assert module.rpartition(".")[2] == name
        assert (ROOT / "tests" / module.split(".")[1] / f"test_{name}.py").is_file()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_an_unknown_name_lists_the_known_ones(table: Registry) -> None:
    with pytest.raises(UserError) as error:
        table.load("nonesuch")
    assert "'nonesuch'" in str(error.value)
    assert table.kind in str(error.value)
    assert all(name in str(error.value) for name in table)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_built(name: str) -> None:
    params = tiny_params(fetch={"source": "somewhere"})
    assert isinstance(DATASETS.load(name)(params.fetch, params.ingest, params.seed), DataSource)


@pytest.mark.parametrize("name", CAPTIONERS)
def test_every_captioner_can_be_built(name: str) -> None:
    assert isinstance(CAPTIONERS.load(name)(tiny_params().caption, 42, "weather_twin"), Captioner)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_embedder_can_be_built(name: str, tmp_path: Path) -> None:
    model = None if name == "minilm" else str(save_tiny_bert(tmp_path / "bert"))
    embedder = EMBEDDERS.load(name)(Embed(model=model, max_tokens=16))
    assert isinstance(embedder, Embedder)
    assert embedder.dimension > 0


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_can_be_built(name: str) -> None:
    teacher = teachers.build(name, PROBLEM, {}, text_width=6, layers=1, heads=2)
    assert isinstance(teacher, teachers.Teacher)
    assert teacher.latent_width % 2 == 0


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_can_be_built(name: str) -> None:
    assert isinstance(students.build(name, PROBLEM, {}), students.Student)


@pytest.mark.parametrize("name", LOSSES)
def test_every_method_can_be_built(name: str) -> None:
    assert isinstance(distillation_loss(name, 0.5, 1.0), DistillationLoss)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_built(name: str) -> None:
    assert isinstance(METRICS.load(name)(describe()), Metric)
