"""The repository as a user has it: a clone with tiny settings, in which `git` and `dvc` run as commands."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import overlay
from tests.helpers import write_weatherbench

ROOT = Path(__file__).parents[1]
VERSIONED = (
    *(".dvc/config", ".dvc/.gitignore", ".dvc/plots", ".dvcignore", ".gitignore", "data/.gitignore"),
    *("dvc.yaml", "experiments", "params.yaml", "pipeline", "stages"),
)
EPOCHS = 5
TINY: dict[str, Any] = {
    "dataset": "weatherbench",
    "methods": ["baseline", "s2kd"],
    "modalities": ["multimodal"],
    "seeds": [42],
    "ingest": {"t_in": 2, "t_out": 2, "step": 1, "stride": 2},
    "caption": {"max_words": 20},
    "embed": {"max_tokens": 24},
    "train_teacher": {
        "epochs": EPOCHS,
        "batch_size": 8,
        "fusion_heads": 2,
        "sizes": {"simvp": {"spatial_width": 4, "translator_width": 8, "translator_blocks": 2, "mlp_ratio": 1}},
    },
    "dump_features": {"batch_size": 2, "shard_megabytes": 0.004},
    "distill": {"epochs": EPOCHS, "batch_size": 4, "sizes": {"unet": {"width": 4}}},
    "evaluate": {"latency_runs": 2, "bootstrap_samples": 100, "block_windows": 3},
}
# Python reads this module in every process that starts: each stage leaves a list of what it imported.
RECORDER = """
import atexit, os, sys

def record():
    names = [name for name in sys.modules if name.startswith("pipeline.")]
    words = [word for word in sys.orig_argv[2:] if not word.startswith("--")]
    if words and words[0].startswith("stages.") and os.path.isdir("../modules"):
        with open(os.path.join("../modules", "-".join(words)), "w") as stream:
            stream.write("\\n".join(sorted(names)))

atexit.register(record)
"""


@dataclass
class Result:
    """What a command printed and how it ended."""

    code: int
    output: str

    @property
    def stages(self) -> list[str]:
        """The stages that ran, in order; those served from the run cache are not among them."""
        return re.findall(r"^Running stage '([^']+)'", self.output, re.MULTILINE)

    @property
    def cached(self) -> list[str]:
        return re.findall(r"^Stage '([^']+)' is cached", self.output, re.MULTILINE)


@dataclass
class Clone:
    """A clone at `root`; commands run in it, with its own code and without the user's configuration."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *command: str, code: int | None = 0) -> Result:
        """Runs a command to its end; `code`: the exit status that is expected, or None for any."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environ(), text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=600
        )
        assert code is None or done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
        return Result(done.returncode, done.stdout)

    def dvc(self, *arguments: str, code: int | None = 0) -> Result:
        return self.run("dvc", *arguments, code=code)

    def start(self, *command: str, log: Path) -> subprocess.Popen[str]:
        """Starts a command in a process group of its own, so that a test can kill it with all its children."""
        with log.open("w") as stream:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environ(),
                text=True,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def copied(self, folder: Path) -> Clone:
        """The clone with cache, parts and outputs, in another place."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Clone(folder, self.environment)

    def outputs(self) -> dict[str, str]:
        """Every output's md5, from dvc.lock."""
        lock = YAML(typ="safe", pure=True).load((self.root / "dvc.lock").read_text())
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}

    def files(self, folder: str = "data") -> dict[str, bytes]:
        found = (path for path in sorted((self.root / folder).rglob("*")) if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}

    def imported(self) -> dict[str, set[str]]:
        """Stage -> first-party modules that its processes imported, if the clone was made to record them."""
        modules: dict[str, set[str]] = {}
        for path in (self.root.parent / "modules").iterdir():
            stage = path.name.split("-")[0].removeprefix("stages.")
            modules.setdefault(stage, set()).update(path.read_text().split())
        return modules

    def environ(self) -> dict[str, str]:
        """The variables that its commands run with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_", "GIT_"))}
        commands = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        who = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        own = {
            "PATH": commands,
            "PYTHONPATH": os.pathsep.join([str(self.root), str(self.root.parent / "recorder")]),
            "PYTHONDONTWRITEBYTECODE": "",
            "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_GLOBAL_CONFIG_DIR": str(self.root.parent / "dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.root.parent / "dvc-system"),
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-site"),
        }
        return {**kept, **who, **own, **self.environment}


def write_raw(folder: Path) -> Path:
    """Raw files for the tiny settings, on the smallest grid that the default teacher takes."""
    write_weatherbench(folder, days=30, shape=(16, 32))
    return folder


def make_clone(folder: Path, raw: Path, settings: Mapping[str, Any] | None = None) -> Clone:
    """The working tree's versioned files with tiny settings (and `settings` over them), committed."""
    root = folder / "clone"
    for name in VERSIONED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    _write_recorder(folder)
    apply(root, TINY | {"fetch": {"source": str(raw)}})
    apply(root, settings or {})
    clone = Clone(root)
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.commit("The pipeline with tiny settings")
    return clone


def apply(root: Path, settings: Mapping[str, Any]) -> None:
    """Merges settings into the clone's params.yaml, as `s2kd apply` does."""
    path = root.parent / "overlay.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    overlay.apply(path, root / "params.yaml")


def _write_recorder(folder: Path) -> None:
    (folder / "modules").mkdir()
    (folder / "recorder").mkdir()
    (folder / "recorder" / "sitecustomize.py").write_text(RECORDER)


def built_clone(folder: Path) -> Clone:
    """A clone in which `dvc repro` has run, made once for all test processes that name the same folder.

    What `dvc repro` printed is kept in `repro.txt`, and the modules that each stage imported in `modules/`.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "repro.txt").exists():
            return Clone(folder / "clone")
        assert not (folder / "clone").exists(), "`dvc repro` has failed already, see the first error"
        clone = make_clone(folder, write_raw(folder / "raw"))
        printed = clone.dvc("repro").output
        clone.commit("Results")
        (folder / "repro.txt").write_text(printed)
        return clone
