from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import paths
from pipeline.choice import choose
from pipeline.errors import UserError
from tests.helpers import tiny_params


def write_history(student_name: str, method: str, seed: int, losses: list[float]) -> None:
    rows = [{"epoch": number, "validation_prediction": loss} for number, loss in enumerate(losses)]
    folder = paths.distilled(student_name, method) / f"seed-{seed}"
    folder.mkdir(parents=True)
    (folder / "history.json").write_text(json.dumps(rows))


def test_the_best_by_validation_is_chosen_among_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for method, seed, losses in (
        ("baseline", 1, [0.5, 0.1, 0.9]),
        ("baseline", 2, [0.6, 0.4]),
        ("s2kd", 1, [0.3]),
        ("s2kd", 2, [0.2]),
        ("fitnet", 1, [0.001]),  # of an earlier run: params.yaml no longer names it
    ):
        write_history("unet", method, seed, losses)

    def chosen(**allowed: Any) -> tuple[str, int, float]:
        found = choose(tiny_params(seeds=[1, 2], export=allowed))
        return found.method, found.seed, found.validation

    assert chosen() == ("baseline", 1, 0.1)
    assert chosen(method="s2kd") == ("s2kd", 2, 0.2)
    assert chosen(method="s2kd", seed=1) == ("s2kd", 1, 0.3)
    with pytest.raises(UserError, match=r"export.method = 'fitnet' is not trained; methods: baseline, s2kd"):
        chosen(method="fitnet")
    with pytest.raises(UserError, match=r"export.seed = 7 is not trained; seeds: 1, 2"):
        chosen(seed=7)


def test_a_student_that_was_not_trained_yet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unet-baseline/seed-42/history.json is missing"):
        choose(tiny_params())
