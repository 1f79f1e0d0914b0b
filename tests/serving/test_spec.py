from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.serving import spec as specs
from pipeline.serving.model import Model
from tests.exported import Exported


def test_a_description_says_what_the_record_says(exported: Exported) -> None:
    spec, description = exported.spec, exported.store.description
    assert tuple(each.variable for each in spec.variables) == description.variables
    np.testing.assert_array_equal(spec.grid.grid.y, description.grid.y)
    np.testing.assert_array_equal([each.std for each in spec.variables], description.statistics.std)
    assert spec.lead_times.tolist() == [np.timedelta64(12, "h"), np.timedelta64(24, "h")]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[]", r"\(all of it\)"), ('{"format": "s2kd-model/2"}', "format: ")],
)
def test_a_damaged_description_is_refused_in_a_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        specs.read(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no exported model \(config.json is missing\)"):
        Model(tmp_path)


def test_a_model_that_is_cut_short_or_of_other_shapes_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "model"))
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut short, damaged or no ONNX model"):
        Model(folder)
    (folder / "model.onnx").write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"t_in": 4}))
    with pytest.raises(UserError, match=r"takes \(3, 2, 8, 16\), and config.json beside it says \(4, 2, 8, 16\)"):
        Model(folder)
    with pytest.raises(UserError, match=r"model_int8.onnx is missing; export.int8 = true"):
        Model(folder, "int8")


@pytest.mark.parametrize(("seconds", "words"), [(0.5, "0.5 seconds"), (1800, "30 minutes"), (43200, "12 hours")])
def test_a_duration_has_the_unit_that_people_use(seconds: float, words: str) -> None:
    assert specs.in_words(seconds) == words
