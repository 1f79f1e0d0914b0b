"""docs/sharing.md by its own commands, against a real S3 server on this machine."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline_copy import ROOT, Clone

pytestmark = pytest.mark.slow

KEY, SECRET = "reader-of-fields", "wrong-in-no-git-history"
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An S3 server's address and the folder of its bucket `s2kd`."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "s2kd").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", str(folder)]
    command += ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(server, port)
        yield f"http://127.0.0.1:{port}", folder / "s2kd"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def pushed(built: Clone, address: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the built clone that shares its artifacts as docs/sharing.md tells."""
    clone = replace(built.copied(tmp_path_factory.mktemp("pushed") / "clone"), environment=KEYS)
    for command in _commands("Set up a remote"):
        words = command.replace("https://s3.example.org", address[0]).replace("bucket/s2kd", "s2kd/shared").split()
        clone.run(*words[: words.index("#")] if "#" in words else words)
    clone.commit("Where artifacts are shared")
    assert "pushed" in clone.dvc("push").output
    return clone


def test_a_clone_elsewhere_pulls_and_has_nothing_to_run(pushed: Clone, tmp_path: Path) -> None:
    clone = _cloned(pushed, tmp_path)
    clone.dvc("pull")
    result = clone.dvc("repro")
    assert result.stages == []
    assert "Data and pipelines are up to date." in result.output
    assert clone.files() == pushed.files()


def test_an_object_with_other_bytes_of_the_same_size_is_refused(
    pushed: Clone, address: tuple[str, Path], tmp_path: Path
) -> None:
    md5 = pushed.run("md5sum", "data/train_teacher/multimodal/model.safetensors").output[:32]
    (stored,) = address[1].rglob(f"{md5[:2]}/{md5[2:]}")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        clone = _cloned(pushed, tmp_path)
        refused = clone.dvc("pull", code=None)
        assert refused.code != 0
        assert "failed to pull data from the cloud" in refused.output
        assert not (clone.root / "data/train_teacher/multimodal/model.safetensors").exists()

        stored.write_bytes(whole)
        clone.dvc("pull")
        assert clone.files() == pushed.files()
    finally:
        stored.write_bytes(whole)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**KEYS, "AWS_SECRET_ACCESS_KEY": "another"}, "Forbidden"),
        ({"HOME": "/home/of/nobody", "AWS_EC2_METADATA_DISABLED": "true"}, "Unable to locate credentials"),
    ],
)
def test_a_wrong_or_missing_key_is_named(pushed: Clone, tmp_path: Path, keys: dict[str, str], message: str) -> None:
    clone = replace(_cloned(pushed, tmp_path), environment=keys)
    result = clone.dvc("pull", code=None)
    assert result.code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_no_key_lands_in_git_or_in_the_configuration(pushed: Clone) -> None:
    versioned = pushed.run("git", "ls-files").output.split()
    configuration = [path.read_text() for path in (pushed.root / ".dvc").glob("config*")]
    texts = [(pushed.root / name).read_text(errors="replace") for name in versioned] + configuration
    assert not [text for text in texts if KEY in text or SECRET in text]


def _cloned(origin: Clone, folder: Path) -> Clone:
    origin.run("git", "clone", "--quiet", str(origin.root), str(folder / "clone"))
    return Clone(folder / "clone", KEYS)


def _commands(heading: str) -> list[str]:
    """The commands that docs/sharing.md shows below a heading."""
    page = (ROOT / "docs" / "sharing.md").read_text()
    found = re.search(rf"## {heading}\n.*?```sh\n(.*?)```", page, re.DOTALL)
    assert found, f"docs/sharing.md shows no commands below '{heading}'"
    return [line for line in found.group(1).splitlines() if line.startswith("dvc ")]


def _wait_until_open(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(200):
        assert server.poll() is None, "the server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")
