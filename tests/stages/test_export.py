from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from huggingface_hub import ModelCard

from pipeline import model_card, paths
from pipeline.datasets import DATASETS
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.serving import spec as specs
from stages import export
from tests.trained import trained_params


@pytest.fixture(scope="module")
def delivered(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the stage made with its 8-bit model."""
    root = Path(shutil.copytree(evaluated, tmp_path_factory.mktemp("delivered") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
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
