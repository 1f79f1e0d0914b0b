"""The whole pipeline on a city and on fires, from their ready settings, by the commands that users type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import captions, overlay
from pipeline.store import Store
from tests.pipeline_copy import ROOT, TINY, Clone, apply, make_clone
from tests.test_dvc import _params, _uncovered

pytestmark = pytest.mark.slow

READERS = ("context", "datasets.taxibj", "datasets.prometheus")
SMALL: dict[str, Any] = {name: TINY[name] for name in ("caption", "embed", "train_teacher", "distill", "evaluate")}
SMALL["train_teacher"] = SMALL["train_teacher"] | {"epochs": 2}
SMALL["distill"] = SMALL["distill"] | {"epochs": 2, "train_windows": 24}
SMALL |= {"methods": ["baseline", "s2kd"], "dump_features": {"batch_size": 8}}


def ready(folder: Path, name: str, settings: dict[str, Any]) -> Clone:
    """A clone in which `dvc repro` has run with experiments/quick/`name`.yaml, cut down to seconds."""
    clone = make_clone(folder, folder / "raw")
    overlay.apply(ROOT / "experiments" / "quick" / f"{name}.yaml", clone.root / "params.yaml")
    apply(clone.root, SMALL | settings)
    clone.commit(f"The settings of {name}")
    clone.dvc("exp", "run")
    return clone


def uncovered(clone: Clone) -> dict[str, list[str]]:
    """What the stages that read raw files import and do not depend on.

    A twin comes with the reader of its files, which is of no use to `fetch`.
    """
    imported, readers = clone.imported(), {f"pipeline.{name}" for name in READERS}
    missing = {stage: _uncovered(stage, imported[stage], _params(clone)) for stage in ("fetch", "ingest")}
    return {"fetch": sorted(missing["fetch"] - readers), "ingest": sorted(missing["ingest"])}


def test_a_city_runs_to_the_report_and_its_events_reach_the_captions(tmp_path: Path) -> None:
    clone = ready(tmp_path, "traffic_twin", {"fetch": {"days": 30}, "ingest": {"stride": 12}})
    store = Store(clone.root / "data/ingest/store.zarr")
    assert store.context is not None
    assert store.description.grid.dims == ("y", "x")
    texts = captions.texts(clone.root / "data/caption/captions.parquet")
    told = [number for number, words in enumerate(store.context[store.windows.start]) if "event" in words]
    assert told
    assert any(word in texts[told[0]] for word in store.context[store.windows.start[told[0]]].split("; "))
    page = (clone.root / "data/report/index.html").read_text()
    assert "30 min apart" in page
    assert "Seen and unseen" not in page
    assert uncovered(clone) == {"fetch": [], "ingest": []}


def test_fires_run_to_a_report_by_seen_and_unseen_environments(tmp_path: Path) -> None:
    fires = {"seen": 3, "unseen": 1, "simulations": 2, "seconds": 40}
    clone = ready(tmp_path, "fire_twin", {"fetch": {"fire": fires}, "ingest": {"stride": 8}})
    metrics = json.loads((clone.root / "data/evaluate/metrics.json").read_text())
    leaf = metrics["unet"]["s2kd"]
    assert leaf["mse_seen"] > 0
    assert leaf["mse_unseen"] > 0
    differences = json.loads((clone.root / "data/evaluate/differences.json").read_text())
    assert {row["domain"] for row in differences} == {"", "seen", "unseen"}
    page = (clone.root / "data/report/index.html").read_text()
    assert "Seen and unseen environments" in page
    assert "MSE, unseen / seen" in page
    table = clone.run("s2kd", "table").output
    assert "Unseen environments: U-Net, S2-KD against the baseline" in table
    assert uncovered(clone) == {"fetch": [], "ingest": []}
    assert clone.dvc("repro").stages == []
