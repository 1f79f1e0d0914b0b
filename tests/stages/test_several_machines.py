"""Stages that several machines run together: docs/training.md's commands, both machines being this one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import paths
from pipeline.features import Features
from pipeline.store import Store
from stages import distill, dump_features, train_teacher
from tests.core import content, make_text_and_store, training_params
from tests.machines import two_machines


def validation(folder: Path) -> list[float]:
    """Validation errors by epoch."""
    return [row["validation_prediction"] for row in json.loads((folder / "history.json").read_text())]


@pytest.mark.slow
def test_two_machines_leave_what_one_does_within_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    make_text_and_store()
    params = training_params()
    train_teacher.main(params)
    dump_features.main(params)
    distill.main(params, "unet", "s2kd")
    names = set(content(Path("data")))
    teacher, student = paths.teacher("multimodal"), paths.distilled("unet", "s2kd") / "seed-42"
    taught, learnt = validation(teacher), validation(student)

    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    make_text_and_store()
    together = training_params(runtime={"nodes": 2})
    YAML().dump(together.model_dump(mode="json", by_alias=True), Path("params.yaml"))
    for stage in (
        ["stages.train_teacher", "--modality", "multimodal"],
        ["stages.dump_features", "--modality", "multimodal"],
        ["stages.distill", "--student", "unet", "--method", "s2kd"],
    ):
        machines = two_machines("-m", *stage)
        assert [machine.returncode for machine in machines] == [0, 0], machines
        assert "node 1 of 2: at work; the first one reports and writes" in machines[1].stderr
        assert machines[1].stdout == ""
    assert set(content(Path("data"))) == names
    # not closer, since batch norm sees a machine's share; tests/test_devices.py compares models without it
    assert validation(teacher) == pytest.approx(taught, rel=0.01)
    assert validation(student) == pytest.approx(learnt, rel=0.01)
    windows = Store(paths.STORE).windows.of("train")
    shared = Features(paths.features("multimodal")).of(windows)
    dump_features.main(params)  # of the same teacher
    np.testing.assert_allclose(shared, Features(paths.features("multimodal")).of(windows), atol=0.004)  # in float16
