from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from pipeline import paths, provenance
from pipeline.provenance import Origin, Output
from pipeline.results import Results

LOCK = """
schema: '2.0'
stages:
  ingest:
    cmd: python -m stages.ingest
    outs:
    - {path: data/ingest/store.zarr, md5: 0a1b.dir, size: 12, nfiles: 3}
  report:
    cmd: python -m stages.report
    outs:
    - {path: data/report, md5: ffff.dir, size: 99}
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_origin_is_the_commit_what_differs_from_it_and_the_locked_outputs(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "pipeline").mkdir()
    for name in ("pipeline/a.py", "params.yaml", "notes.txt"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    (tmp_path / "dvc.lock").write_text(LOCK)
    found = provenance.origin(tmp_path)
    assert found.commit == git(tmp_path, "rev-parse", "HEAD").strip()
    assert found.changed == ()
    assert found.outputs == (Output("ingest", "data/ingest/store.zarr", "0a1b.dir", 12),)
    for name in ("params.yaml", "notes.txt"):
        (tmp_path / name).write_text("2")
    assert provenance.origin(tmp_path).changed == ("params.yaml",)  # notes decide no result


def test_without_git_and_dvc_there_is_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.origin(tmp_path) == Origin(None, (), ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.origin(tmp_path) == Origin(None, (), ())


def test_every_part_names_its_files_with_their_sums(evaluated: Path) -> None:
    results = Results(evaluated / paths.EVALUATE)
    sources = provenance.sources(results)
    listed = {name: md5 for source in sources for name, md5 in source.files}
    assert {"metrics.json", "examples.npz", "spectra.csv", "rollout.csv"} <= set(listed)
    for name, md5 in listed.items():
        assert hashlib.md5((results.folder / name).read_bytes()).hexdigest().startswith(md5)
    (maps,) = [source for source in sources if source.figure.startswith("Maps")]
    assert maps.command == "dvc repro evaluate"
    assert "evaluate.example_windows" in maps.parameters
