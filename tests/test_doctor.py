"""`s2kd doctor` in really broken situations: servers that do not answer, packages and files that are missing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, doctor
from pipeline.doctor import Finding
from pipeline.params import load
from tests.helpers import tiny_params

ROOT = Path(__file__).parents[1]
KEY = "not-to-be-printed-anywhere"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the checks read, a commit, and the commands of this environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    for place in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
        monkeypatch.setenv(f"DVC_{place}_DIR", str(tmp_path / "dvc" / place))
    for name in ("params.yaml", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, name)
    shutil.copytree(ROOT / "pipeline/prompts", "pipeline/prompts")
    Path(".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", ".dvc/config")
    for words in (("init", "-q"), ("add", "params.yaml"), ("commit", "-qm", "first")):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    return tmp_path


@pytest.fixture
def closed() -> int:
    """A port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that wants a key."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def states(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.state, finding.subject) for finding in findings]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    assert finding.state == "ok" or finding.cure, "what is not well has a cure"
    return finding


def test_the_default_settings_can_run_here(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    assert "missing " not in printed.replace("0 missing", "")
    assert "none is configured" in printed  # a warning is no obstacle


def test_a_wrong_value_ends_with_a_code_and_still_shows_the_machine(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("beta: 0.5", "beta: -1", 1))
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert "params.yaml: beta = -1 is not allowed" in printed
    assert "ok       python" in printed


def test_an_unknown_name_is_told(root: Path) -> None:
    text = Path("params.yaml").read_text().replace("teacher: simvp", "teacher: simple", 1)
    Path("params.yaml").write_text(text)
    finding = only(doctor.valid(load()))
    assert finding.state == "missing"
    assert "teacher = 'simple' is not a known teacher" in finding.says


def test_a_package_that_is_not_installed_and_one_of_another_version_are_named(root: Path) -> None:
    project = Path("pyproject.toml")
    project.write_text(project.read_text().replace('    "dvclive",\n', '    "no-such-package-here",\n'))
    lock = Path("requirements.lock")
    version = metadata.version("numpy")
    lock.write_text(lock.read_text().replace(f"numpy=={version}", "numpy==1.0.0"))
    missing, other = doctor.packages()
    assert (missing.state, missing.says) == ("missing", "not installed: no-such-package-here")
    assert (other.state, other.says) == ("warning", f"not as in requirements.lock: numpy {version} instead of 1.0.0")


def test_a_builds_suffix_is_no_other_version() -> None:
    version = metadata.version("torch").split("+")[0]
    assert not doctor._differs("torch", {"torch": version})
    assert not doctor._differs("torch", {"torch": f"{version}+cu999"})
    assert doctor._differs("torch", {"torch": "1.0"})


def test_the_extra_of_a_data_set_is_asked_for(root: Path) -> None:
    project = Path("pyproject.toml")
    project.write_text(project.read_text().replace("twin = [", 'twin = ["no-such-simulator>=3", '))
    finding = only(doctor.data(tiny_params(dataset="weather_twin")))
    assert finding.state == "missing"
    assert "no-such-simulator" in finding.says
    assert finding.cure == "pip install -c requirements.lock -e '.[twin]'"


def test_the_extra_of_a_files_kind_or_place_is_asked_for(root: Path) -> None:
    Path("winds.grib").touch()
    grib = list(doctor.data(tiny_params(dataset="xarray", fetch={"source": "winds.grib"})))
    assert states(iter(grib)) == [("ok", "extra"), ("ok", "data")]
    assert "[gcs]" in only(doctor.data(tiny_params(dataset="weatherbench2", fetch={"source": "gs://a/b.zarr"}))).says


def test_missing_files_are_told_and_present_ones_found(root: Path) -> None:
    assert "fetch.source is empty" in only(doctor.data(tiny_params(fetch={"source": None}))).says
    assert only(doctor.data(tiny_params(fetch={"source": "raw/nothing"}))).state == "missing"
    assert only(doctor.data(tiny_params(fetch={"source": str(root / "raw/*.nc")}))).state == "missing"
    Path("raw").mkdir()
    Path("raw/a.nc").touch()
    for source in ("raw", "raw/*.nc", str(root / "raw/*.nc")):
        assert only(doctor.data(tiny_params(fetch={"source": source}))).state == "ok"


def test_a_server_that_is_down_and_a_key_that_is_not_set_are_missing(
    root: Path, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    there = tiny_params(captioner="openai", caption={"openai": {"server": f"http://127.0.0.1:{closed}/v1"}})
    key, server = doctor.captioner(there)
    assert (key.state, server.state) == ("ok", "missing")  # a server of this machine wants no key
    assert "does not answer" in server.says
    far = tiny_params(captioner="openai", caption={"openai": {"server": "http://nowhere.invalid/v1"}})
    assert states(doctor.captioner(far)) == [("missing", "captioner")] * 2


def test_a_server_that_refuses_answers_and_the_key_is_never_printed(
    root: Path, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    findings = list(doctor.captioner(tiny_params(captioner="openai", caption={"openai": {"server": refusing}})))
    assert states(iter(findings)) == [("ok", "captioner")] * 2
    assert KEY not in str(findings)


def test_a_key_in_the_place_of_an_address_is_not_repeated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("params.yaml").read_text().replace("captioner: narrator", "captioner: openai", 1)
    Path("params.yaml").write_text(text.replace("http://127.0.0.1:8000/v1", f"http://me:{KEY}@127.0.0.1:1/v1"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 1
    assert KEY not in capsys.readouterr().out


def test_a_shuffled_captioner_is_checked_as_the_one_it_shuffles(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    finding = only(doctor.captioner(tiny_params(captioner="shuffled", caption={"shuffle": "vllm"})))
    assert finding.state == "missing"
    assert "vLLM, which is not installed" in finding.says
    assert only(doctor.captioner(tiny_params(captioner="shuffled"))).state == "ok"


@pytest.mark.slow
def test_a_remote_that_is_there_answers_and_one_whose_disk_is_not_mounted_does_not(root: Path) -> None:
    assert "none is configured" in only(doctor.remote()).says
    _add_remote(str(root / "team"))
    assert only(doctor.remote()).says == "'shared' answers"
    _add_remote(str(root / "not mounted" / "team"))
    finding = only(doctor.remote())
    assert finding.state == "warning"
    assert "not mounted is no folder that can be written to" in finding.says


@pytest.mark.slow
def test_a_remote_whose_server_is_down_is_told(root: Path, closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    _add_remote("s3://bucket/s2kd")
    with Path(".dvc/config").open("a") as stream:
        stream.write(f"    endpointurl = http://127.0.0.1:{closed}\n")
    finding = only(doctor.remote())
    assert finding.state == "warning"
    assert "connect" in finding.says.lower()


def test_a_scheduler_that_is_down_is_missing(closed: int) -> None:
    finding = only(doctor.cluster(tiny_params(runtime={"dask_scheduler": f"tcp://127.0.0.1:{closed}"})))
    assert (finding.state, finding.subject) == ("missing", "cluster")
    assert list(doctor.cluster(tiny_params())) == []


def test_a_gpu_that_is_asked_for_and_not_there_is_missing() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert only(doctor.accelerator(tiny_params(runtime={"accelerator": "gpu"}))).state == "missing"
    assert list(doctor.accelerator(tiny_params())) == []


def test_little_memory_and_little_disk_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEMORY", 1e15)
    monkeypatch.setattr(doctor, "DISK", 1e16)
    assert only(doctor.memory()).state == "warning"
    assert only(doctor.disk()).state == "missing"


def test_without_a_commit_or_a_repository_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert "no commit here" in only(doctor.versioned()).says
    assert only(doctor.remote()).says == ".dvc/ is not here"
    assert "pyproject.toml is not here" in only(doctor.packages()).says
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(doctor.versioned()).says == "not found: git, dvc"


def _add_remote(url: str) -> None:
    text = (ROOT / ".dvc/config").read_text().replace("[core]", "[core]\n    remote = shared")
    Path(".dvc/config").write_text(f"{text}['remote \"shared\"']\n    url = {url}\n")
