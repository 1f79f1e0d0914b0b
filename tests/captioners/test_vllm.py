"""The captioner `vllm` with the real engine on the CPU and a trained model of a million parameters."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ruamel.yaml import YAML

from pipeline import captions, guard, paths, pictures
from pipeline.answers import Answers
from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.vllm import JSON, READY, VLLM
from pipeline.captioning import Captioning
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.params import parse
from pipeline.store import Store
from tests.captioners.maps_reader.scenes import PICTURE, PROMPT, SCENES, T_IN, request, scene
from tests.captioners.tiny_vlm import save_tiny_vlm
from tests.embedders.tiny import save_tiny_bert
from tests.helpers import TINY, record, write_store

ROOT = Path(__file__).parents[2]
READER = Path(__file__).parent / "maps_reader"
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 1 << 28,
    **JSON,
}
WINDOWS = 240

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: pip install '.[vllm]'"
)


def settings(prompt: Path, **overrides: Any) -> CaptionParams:
    """Of the trained model on the pictures it knows; `vllm` replaces only the keys that it names."""
    chosen = {"model": str(READER), "engine": ENGINE, **overrides.pop("vllm", {})}
    tree = {"template": str(prompt), "picture": PICTURE, "sampling": {"max_tokens": 60}, "vllm": chosen}
    return CaptionParams(**{**tree, **overrides})


def requests(windows: Iterable[int], attempt: int = 0) -> Iterator[CaptionRequest]:
    for window in windows:
        yield request(window, example(window).inputs, attempt)


def example(window: int) -> Any:
    """A scene that the model was not trained on."""
    return scene(window * 7, np.random.default_rng([window, 1]))


def by_window(answers: Iterable[Caption]) -> dict[int, Caption]:
    """Raises if a window comes twice."""
    found: dict[int, Caption] = {}
    for answer in answers:
        assert answer.window not in found
        found[answer.window] = answer
    return found


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompt") / "prompt.txt"
    path.write_text(PROMPT)
    return path


# ---- what needs no engine


def test_a_folder_is_known_by_its_contents_and_not_by_its_place(prompt: Path, tmp_path: Path) -> None:
    first = VLLM(settings(prompt, vllm={"model": str(save_tiny_vlm(tmp_path / "a" / "model"))}), 1).model
    again = VLLM(settings(prompt, vllm={"model": str(save_tiny_vlm(tmp_path / "b" / "model"))}), 1).model
    other = VLLM(settings(prompt, vllm={"model": str(save_tiny_vlm(tmp_path / "c" / "model", seed=1))}), 1).model
    assert first == again
    assert first != other
    assert first.startswith("model@sha256:")

    (tmp_path / "a" / "model" / "README.md").write_text("What vLLM does not read changes no caption.")
    assert VLLM(settings(prompt, vllm={"model": str(tmp_path / "a" / "model")}), 1).model == first


def test_a_hub_name_is_known_with_its_revision(prompt: Path) -> None:
    assert VLLM(settings(prompt, vllm={"model": "org/name"}), 1).model == "org/name@main"
    assert VLLM(settings(prompt, vllm={"model": "org/name", "revision": "abc"}), 1).model == "org/name@abc"
    assert VLLM(settings(prompt, vllm={"model": "smolvlm"}), 1).model == f"{READY['smolvlm'].model}@main"


def test_what_changes_a_caption_is_in_the_identity_and_nothing_else(prompt: Path) -> None:
    def identity(engine: dict[str, Any], **overrides: Any) -> dict[str, Any]:
        return VLLM(settings(prompt, vllm={"engine": engine, **overrides}), 1).identity

    plain = identity({})
    spread = {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5, "max_num_seqs": 8, "hf_token": "secret"}
    assert identity(spread, in_flight=3) == plain
    assert identity({"dtype": "float16"}) != plain
    assert identity({"mm_processor_kwargs": {"size": {"longest_edge": 64}}}) != plain
    assert VLLM(settings(prompt, output="json"), 1).identity != VLLM(settings(prompt), 1).identity
    json.dumps(plain)


@pytest.mark.parametrize("model", ["smolvml", "no/such/folder", "./nowhere"])
def test_what_is_no_model_is_named(prompt: Path, model: str) -> None:
    with pytest.raises(UserError, match=rf"caption\.vllm\.model = '{model}' is neither a folder nor a name"):
        VLLM(settings(prompt, vllm={"model": model}), 1)


def test_a_folder_has_no_revision(prompt: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        VLLM(settings(prompt, vllm={"revision": "main"}), 1)


def test_without_vllm_the_error_says_how_to_install_it(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        list(VLLM(settings(prompt), 1).captions(requests([0])))


def test_without_requests_no_engine_starts(prompt: Path) -> None:
    captioner = VLLM(settings(prompt, vllm={"model": "org/name"}), 1)
    assert list(captioner.captions([])) == []
    assert captioner.close() == ""


# ---- what vLLM says before it starts


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"max_model_length": 512}, r"caption\.vllm\.engine\.max_model_length is no engine .* near: max_model_len"),
        ({"model": "x/y"}, r"caption\.vllm\.engine\.model is not allowed"),
        ({"data_parallel_size": 2}, r"data_parallel_size = 2 is not allowed: .* captioner 'openai'"),
        ({"dtype": "float13"}, r"vLLM cannot run caption\.vllm\.model = '.*': .*dtype"),
    ],
)
def test_engine_arguments_that_vllm_does_not_take_are_named(prompt: Path, engine: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(VLLM(settings(prompt, vllm={"engine": engine}), 1).captions(requests([0])))


@needs_vllm
@pytest.mark.slow
def test_models_that_cannot_be_loaded_are_named(prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for model in ("org/name", str(tmp_path / "empty")):
        with pytest.raises(UserError, match=rf"vLLM cannot run caption\.vllm\.model = '{model}': \w"):
            list(VLLM(settings(prompt, vllm={"model": model}), 1).captions(requests([0])))
    text_only = str(save_tiny_bert(tmp_path / "bert"))
    with pytest.raises(UserError, match="no vision-language model"):
        list(VLLM(settings(prompt, vllm={"model": text_only, "engine": {}}), 1).captions(requests([0])))


@needs_vllm
def test_ready_settings_are_arguments_that_vllm_knows() -> None:
    from vllm import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for ready in READY.values():
        assert ready.engine.keys() <= known


# ---- the engine


@pytest.fixture(scope="module")
def reader(prompt: Path) -> Iterator[VLLM]:
    """The captioner with the trained model; its engine starts once for all tests."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: pip install '.[vllm]'")
    captioner = VLLM(settings(prompt, vllm={"in_flight": 32}), seed=1)
    list(captioner.captions(requests([0])))
    yield captioner
    said = captioner.close()
    assert said.startswith("vLLM wrote ")
    assert "tokens read" in said
    assert not [child for child in psutil.Process().children(recursive=True) if "VLLM" in child.name()]


def like(reader: VLLM, prompt: Path, **overrides: Any) -> VLLM:
    """Another captioner with the same engine."""
    captioner = VLLM(settings(prompt, **overrides), seed=1)
    captioner._llm = reader._llm
    return captioner


@pytest.mark.slow
def test_the_right_picture_reaches_the_right_row(reader: VLLM) -> None:
    order = np.random.default_rng(0).permutation(WINDOWS).tolist()
    answers = by_window(reader.captions(requests(order)))
    assert sorted(answers) == list(range(WINDOWS))
    assert {answer.status for answer in answers.values()} == {"ok"}
    exact = np.mean([answers[window].text == example(window).caption for window in range(WINDOWS)])
    assert exact >= 0.95
    neighbours = np.mean([answers[window].text == example(window - 1).caption for window in range(1, WINDOWS)])
    assert neighbours < 0.05, "captions differ from window to window, so a swap would show"


@pytest.mark.slow
def test_requests_are_read_no_further_ahead_than_the_engine_needs(reader: VLLM) -> None:
    asked = finished = furthest = 0

    def counted() -> Iterator[CaptionRequest]:
        nonlocal asked, furthest
        for one in requests(range(100)):
            asked += 1
            furthest = max(furthest, asked - finished)
            yield one

    for _ in reader.captions(counted()):
        finished += 1
    assert finished == 100
    assert 32 < furthest <= 32 + pictures.AHEAD + 2


@pytest.mark.slow
def test_a_request_that_cannot_be_processed_costs_one_row(
    reader: VLLM, prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = like(reader, prompt)
    monkeypatch.setattr(captioner, "prompt_for", lambda one: PROMPT * (400 if one.window == 3 else 1))
    some = list(requests(range(8)))
    some[5].inputs[1, 0, 2, 2] = np.nan
    answers = by_window(captioner.captions(some))
    assert [answers[window].status for window in range(8)] == ["ok"] * 3 + ["failed", "ok", "failed", "ok", "ok"]
    assert "1024" in answers[3].reason
    assert "NaN" in answers[5].reason


@pytest.mark.slow
def test_an_answer_that_is_cut_off_says_so(reader: VLLM, prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = by_window(like(reader, prompt, sampling={"max_tokens": 4}).captions(requests([0, 1])))
    assert {(answer.status, answer.reason) for answer in answers.values()} == {("truncated", "cut off after 4 tokens")}

    full = like(reader, prompt, sampling={"max_tokens": 900}, output="json")
    monkeypatch.setattr(full, "prompt_for", lambda one: PROMPT * 100)
    (answer,) = full.captions(requests([0]))
    assert (answer.status, answer.text) == ("failed", "")
    assert "max_model_len" in answer.reason


@pytest.mark.slow
def test_json_is_what_the_schema_says(reader: VLLM, prompt: Path) -> None:
    answers = by_window(like(reader, prompt, output="json", sampling={"max_tokens": 900}).captions(requests(range(3))))
    assert {answer.status for answer in answers.values()} == {"ok"}
    for answer in answers.values():
        assert list(json.loads(answer.text)) == list(guard.SCHEMA["properties"])


@pytest.mark.slow
def test_another_attempt_samples_with_its_own_seed(reader: VLLM, prompt: Path) -> None:
    hot = like(reader, prompt, sampling={"max_tokens": 60, "retry_temperature": 2.0})

    def texts(attempt: int, windows: list[int], seed: int) -> list[str]:
        asked = [dataclasses.replace(one, seed=one.seed + seed) for one in requests(windows, attempt)]
        answers = by_window(hot.captions(asked))
        return [answers[window].text for window in sorted(windows)]

    assert texts(1, [0, 1, 2], 0) == texts(1, [2, 0, 1], 0)
    assert texts(1, [0, 1, 2], 0) != texts(1, [0, 1, 2], 100)
    assert texts(0, [0, 1, 2], 0) == texts(0, [0, 1, 2], 100)


@pytest.mark.slow
def test_captions_that_nobody_waits_for_are_given_up(reader: VLLM) -> None:
    stream = reader.captions(requests(range(60)))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    answers = by_window(reader.captions(requests([100, 101])))
    assert {window: answer.text for window, answer in answers.items()} == {
        window: example(window).caption for window in (100, 101)
    }


@pytest.mark.slow
def test_pictures_a_model_does_not_take_are_refused(reader: VLLM, prompt: Path) -> None:
    film = like(reader, prompt, picture={**PICTURE.model_dump(), "layout": "video"})
    assert reader._llm is not None
    with pytest.raises(UserError, match=r"takes at most 0 videos in a prompt; caption\.picture\.layout = 'video'"):
        film._check_takes(reader._llm, "video", 1)


# ---- the stage


def make_maps(path: Path, windows: int) -> Store:
    """A store whose windows' inputs are scenes; every scene is followed by itself as its target."""
    fields = np.concatenate([np.concatenate([example(window).inputs] * 2) for window in range(windows)])[:, 0]
    raw = record({"t850": fields}, names=("time", "latitude", "longitude"))
    raw["t850"].attrs.update(long_name="temperature at 850 hPa", standard_name="air_temperature")
    return write_store(path, raw, parse({**TINY, "ingest": {**INGEST, "variables": ["t850"]}}))


INGEST = {"variables": ["t850"], "t_in": T_IN, "t_out": T_IN, "step": 1, "stride": 2 * T_IN, "shard_megabytes": 0.01}


@needs_vllm
@pytest.mark.slow
def test_an_engine_and_a_process_that_are_shot_lose_no_finished_caption(
    reader: VLLM, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths.INGEST.mkdir(parents=True)
    windows = len(make_maps(paths.STORE, len(SCENES)).windows)
    caption = settings(prompt, vllm={"in_flight": 32}).model_dump(mode="json")
    tree = {**TINY, "captioner": "vllm", "ingest": INGEST, "caption": caption}
    YAML().dump(tree, Path("params.yaml"))

    with stage(tmp_path / "first.txt") as process:
        kept = held_after_answers(process, 20)
        engine_of(process).kill()
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=120) == 1
    assert "caption: error: vLLM's engine died" in (tmp_path / "first.txt").read_text()
    assert "Traceback" not in sentences(tmp_path / "first.txt")

    with stage(tmp_path / "second.txt") as process:
        kept = held_after_answers(process, kept + 20)
        left = psutil.Process(process.pid).children(recursive=True)
        assert engine_of(process) in left
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(left, timeout=120)
        assert not alive, "no engine, worker or drawing process outlives the stage"
    kept = answers()

    captioner = like(reader, prompt)  # as the stage would make it, but for an engine that runs already
    captioner.seed = 42
    monkeypatch.setattr(captioner, "close", lambda: "")
    asked: list[int] = []
    captions_of = captioner.captions
    monkeypatch.setattr(captioner, "captions", lambda some: captions_of(counted(some, asked)))
    with Answers(paths.ANSWERS) as log:
        Captioning(captioner, "vllm", log).write(paths.CAPTIONS, Store(paths.STORE))
    assert len(asked) == windows - kept
    assert answers() == windows
    with Answers(tmp_path / "other.sqlite") as log:
        Captioning(captioner, "vllm", log).write(tmp_path / "undisturbed.parquet", Store(paths.STORE))
    assert len(asked) == 2 * windows - kept
    assert paths.CAPTIONS.read_bytes() == (tmp_path / "undisturbed.parquet").read_bytes()
    assert set(captions.read(paths.CAPTIONS)["status"].to_pylist()) == {"ok"}


def counted(some: Iterable[CaptionRequest], asked: list[int]) -> Iterator[CaptionRequest]:
    for one in some:
        asked.append(one.window)
        yield one


@contextmanager
def stage(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m stages.caption` at work; whatever is left of it is killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "stages.caption"]
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield process
    finally:
        with_children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for left in with_children:
            left.kill()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def engine_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # such as a helper that has just ended
            found += [child] if child.cmdline()[:1] == ["VLLM::EngineCore"] else []
    (engine,) = found
    return engine


def answers() -> int:
    if not paths.ANSWERS.exists():
        return 0
    with sqlite3.connect(paths.ANSWERS) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return int(database.execute("SELECT count(*) FROM answer").fetchone()[0]) if tables else 0


def held_after_answers(process: subprocess.Popen[bytes], count: int, seconds: float = 480) -> int:
    """Waits for so many answers and stops the stage where it is, so that it cannot finish before it is shot."""
    end = time.monotonic() + seconds
    while (found := answers()) < count:
        assert process.poll() is None, "the stage ended too soon"
        assert time.monotonic() < end, f"{found} answers after {seconds:.0f} s"
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    return answers()


def sentences(log: Path) -> str:
    """What the stage itself printed, without the engine's words."""
    return "\n".join(line for line in log.read_text().splitlines() if line.startswith("caption: "))
