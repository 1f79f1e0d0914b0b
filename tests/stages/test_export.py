from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from huggingface_hub import ModelCard

from pipeline import model_card, paths
from pipeline.datasets import DATASETS
from pipeline.errors import UserError
from pipeline.evaluation import Run
from pipeline.params import Params
from pipeline.results import Results
from pipeline.serving import spec as specs
from pipeline.store import Store
from pipeline.windows import WindowDataset
from stages import evaluate, export
from tests.trained import trained_params


@pytest.fixture(scope="module")
def delivered(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the stage made with its 8-bit model, which `evaluate` has scored before."""
    root = Path(shutil.copytree(evaluated, tmp_path_factory.mktemp("delivered") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        evaluate.main(params(int8=True))
        export.main(params(int8=True, licence="cc-by-4.0"))
    return root / paths.EXPORT


def params(**settings: object) -> Params:
    return trained_params(export=settings)


@pytest.mark.slow
def test_the_folder_holds_a_model_in_each_format_and_what_describes_it(delivered: Path) -> None:
    names = {"README.md", "config.json", "metrics.json", "model.onnx", "model.pt2", "model_int8.onnx"}
    assert {path.name for path in delivered.iterdir()} == names
    metrics = json.loads((delivered / "metrics.json").read_text())
    assert max(metrics["difference"].values()) < 1e-5
    assert metrics["validation"]["int8"] == pytest.approx(metrics["validation"]["float32"], rel=0.2)
    assert metrics["int8"]["loss"] == metrics["validation"]["int8"] / metrics["validation"]["float32"] - 1
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(delivered / "model_int8.onnx").graph.node}


@pytest.mark.slow
def test_the_card_is_read_by_the_hub_and_says_data_splits_skill_limits_and_licence(delivered: Path) -> None:
    card = ModelCard.load(delivered / "README.md")
    assert card.data.to_dict()["license"] == "cc-by-4.0"
    assert "s2kd" in card.data.to_dict()["tags"]
    scores = json.loads((delivered.parent / "evaluate" / "metrics.json").read_text())
    spec = specs.read(delivered)
    row = next(line for line in card.text.splitlines() if line.startswith("| **this student"))
    assert f"{scores['unet'][spec.method]['mse']:.4g}" in row
    for words in ("## Data", "## Skill", "## Limits", "Licence of the data", "| validation |", "s2kd predict"):
        assert words in card.text
    assert "{{" not in card.text


@pytest.mark.slow
def test_the_folder_repeats_byte_for_byte(delivered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(delivered.parents[1], tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    shutil.rmtree(paths.EXPORT)
    export.main(params(int8=True, licence="cc-by-4.0"))
    for path in paths.EXPORT.iterdir():
        assert path.read_bytes() == (delivered / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_the_8_bit_models_test_scores_are_those_of_the_file_that_is_exported(delivered: Path) -> None:
    import onnxruntime

    results = Results(delivered.parent / "evaluate")
    found, spec = results.precisions, specs.read(delivered)
    assert found is not None
    assert found.run == Run(spec.student, spec.method, spec.seed)
    test = WindowDataset(Store(delivered.parents[1] / paths.STORE), "test")
    batch = test.__getitems__(list(range(len(test))))
    session = onnxruntime.InferenceSession(delivered / "model_int8.onnx", providers=["CPUExecutionProvider"])
    (forecast,) = session.run(None, {"inputs": batch.inputs.numpy()})
    std = np.array([each.std for each in spec.variables])[:, None, None]
    errors = np.square((forecast - batch.targets.numpy().astype(np.float64)) / std).mean((1, 2, 3, 4))
    assert found.scores["int8"]["mse"] == pytest.approx(errors.mean(), rel=1e-5)

    rows = results.scores[(results.scores["method"] == spec.method) & (results.scores["seed"] == spec.seed)]
    trained = rows[rows["metric"] == "mse"].groupby("window")["value"].mean().to_numpy()
    assert found.scores["float32"]["mse"] == pytest.approx(trained.mean())
    assert found.comparison.difference == pytest.approx((errors - trained).mean(), rel=1e-3)
    assert found.comparison.low is not None
    assert found.comparison.low <= found.comparison.difference <= (found.comparison.high or 0.0)
    assert f"in 8 bits {errors.mean():.5g} (difference" in (delivered / "README.md").read_text()


@pytest.mark.slow
def test_8_bits_change_nothing_else_in_the_evaluation(delivered: Path, evaluated: Path) -> None:
    folder = delivered.parent / "evaluate"
    names = {path.name for path in (evaluated / paths.EVALUATE).iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"int8.json"}
    for name in names - {"cost.json"}:
        assert (folder / name).read_bytes() == (evaluated / paths.EVALUATE / name).read_bytes(), name


@pytest.mark.slow
def test_a_card_takes_no_8_bit_scores_of_another_student(delivered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, metrics = specs.read(delivered), json.loads((delivered / "metrics.json").read_text())
    monkeypatch.chdir(delivered.parents[1])
    with pytest.raises(UserError, match=r"int8.json is of unet by \w+, seed 4\d, and unet by \w+, seed 7 is exported"):
        model_card.card(spec.model_copy(update={"seed": 7}), params(int8=True), metrics)


def test_without_an_evaluation_nothing_is_exported(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated / "data", "data")
    (paths.EVALUATE / "setup.json").unlink()
    with pytest.raises(UserError, match=r"setup.json is missing; `dvc repro evaluate` makes it"):
        export.main(params())
    assert not paths.EXPORT.exists()


def test_the_licences_are_of_data_sets_that_there_are() -> None:
    assert set(model_card.DATA_LICENCES) <= set(DATASETS)
