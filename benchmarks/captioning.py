"""Windows captioned a second by the stage, against bare `LLM.chat` on the same pictures.

    OMP_NUM_THREADS=1 python -m benchmarks.captioning --windows 2000

The stage is `Captioning.write` with captioner `vllm`: reading a store, drawing in a process of its own, prompts,
vLLM's engine, the log of answers and the table. Bare vLLM gets pictures that were drawn and decoded beforehand, in
one call, with the same sampling. Both use one engine, whose start counts for neither, and a trained model of a
million parameters, which is quicker than any in use: what the stage costs beside the engine weighs most here. Runs
alternate, each with a log of its own, and the share of equal captions is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import captions
from pipeline.answers import Answers
from pipeline.caption_requests import caption_requests
from pipeline.captioners.vllm import VLLM
from pipeline.captioning import Captioning
from pipeline.params import Caption as CaptionParams
from pipeline.params import parse
from pipeline.store import Store
from tests.captioners.maps_reader.scenes import PICTURE, PROMPT, T_IN, scene

MODEL = Path(__file__).parents[1] / "tests" / "captioners" / "maps_reader"
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 1 << 28}
LEAST_EQUAL = 0.99  # of the captions: another batch may round another way


class Running(VLLM):
    """Its engine goes on after a run."""

    def close(self) -> str:
        return ""

    def stop(self) -> None:
        super().close()


def store_of_scenes(path: Path, windows: int) -> Store:
    """Windows whose input frames are scenes that the model can describe."""
    from tests.helpers import TINY, record, write_store  # here: the processes that draw import this module again

    frames = [scene(window, np.random.default_rng([window, 2])).inputs for window in range(windows)]
    fields = np.concatenate([np.concatenate([inputs, inputs[-1:]]) for inputs in frames])[:, 0]  # and a target
    raw = record({"t850": fields}, names=("time", "latitude", "longitude"))
    raw["t850"].attrs.update(long_name="temperature at 850 hPa", standard_name="air_temperature")
    layout = {"t_in": T_IN, "t_out": 1, "step": 1, "stride": T_IN + 1, "shard_megabytes": 50}
    return write_store(path, raw, parse({**TINY, "ingest": {"variables": ["t850"], **layout}}))


def settings(options: argparse.Namespace) -> CaptionParams:
    Path("prompt.txt").write_text(PROMPT)
    vllm = {"model": str(MODEL), "engine": {**ENGINE, "max_num_seqs": options.batch}}
    return CaptionParams(
        template="prompt.txt",
        picture=PICTURE,
        sampling={"max_tokens": 60},  # type: ignore[arg-type]
        attempts=1,  # the bare engine asks nothing twice
        workers=options.workers,
        vllm=vllm,  # type: ignore[arg-type]
    )


def prepared(captioner: VLLM, store: Store) -> tuple[list[Any], list[Any]]:
    """The conversation and the sampling parameters of every window."""
    from PIL import Image

    conversations, sampling = [], []
    for request in caption_requests(store, np.arange(len(store.windows))):
        shown = captioner.shown(request)
        images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in shown.pictures]
        parts = [{"type": "image_pil", "image_pil": image} for image in images]
        content = [*parts, {"type": "text", "text": shown.prompt}]
        conversations.append([{"role": "user", "content": content}])
        sampling.append(captioner._sampling(request))
    return conversations, sampling


def through_stage(captioner: VLLM, store: Store, run: int) -> list[str]:
    path = Path(f"captions-{run}.parquet")
    with Answers(Path(f"answers-{run}.sqlite")) as answers:
        Captioning(captioner, "vllm", answers).write(path, store)
    texts: list[str] = captions.read(path)["caption"].to_pylist()
    return texts


def through_chat(captioner: VLLM, conversations: list[Any], sampling: list[Any]) -> list[str]:
    assert captioner._llm is not None
    outputs = captioner._llm.chat(conversations, sampling, use_tqdm=False)
    return [output.outputs[0].text for output in outputs]


def check_equal(texts: list[str], others: list[str]) -> None:
    equal = sum(text.strip() == other.strip() for text, other in zip(texts, others, strict=True))
    if equal < LEAST_EQUAL * len(texts):
        raise SystemExit(f"only {equal} of {len(texts)} captions are the same in both")


def compare(ways: dict[str, Callable[[int], list[str]]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, by way. The ways take turns in being first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(repeats):
        texts = {}
        for name in list(ways) if run % 2 == 0 else list(reversed(ways)):
            start = time.perf_counter()
            texts[name] = ways[name](run)
            seconds[name].append(time.perf_counter() - start)
        check_equal(*texts.values())
    return seconds


def warm_up(captioner: VLLM, store: Store) -> None:
    """Starts the engine and puts a few batches through it."""
    few = np.arange(min(len(store.windows), 4 * captioner.settings.vllm.engine["max_num_seqs"]))
    for _ in captioner.captions(caption_requests(store, few)):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="requests that the engine runs at once")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        store = store_of_scenes(Path("store.zarr"), options.windows)
        captioner = Running(settings(options), seed=1)
        warm_up(captioner, store)
        try:
            drawn = prepared(captioner, store)
            seconds = compare(
                {
                    "stage": lambda run: through_stage(captioner, store, run),
                    "LLM.chat": lambda run: through_chat(captioner, *drawn),
                },
                options.repeats,
            )
        finally:
            captioner.stop()
    rates = {name: len(store.windows) / statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        each = ", ".join(f"{len(store.windows) / time:.1f}" for time in times)
        print(f"{name:9} {rates[name]:6.1f} windows/s  ({each})")
    print(f"ratio stage / LLM.chat: {rates['stage'] / rates['LLM.chat']:.3f}")


if __name__ == "__main__":
    main()
