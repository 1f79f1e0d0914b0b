"""What training at the paper's sizes takes: operations, memory, time of an epoch on one GPU and on 64, and disk.

    python -m benchmarks.scale

Nothing is trained. The models of experiments/paper/ are built without memory, and one training step of each (forward,
loss, backward) runs on tensors that have shapes and no values. What is counted there is measured: operations, bytes
that the kernels read and write, kernels, and the bytes kept for the backward pass. Windows are those that `ingest`
would plan. What a GPU makes of them is assumed, see `GPU`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.distill_step import TEXT_WIDTH, TOKENS, settings_with
from pipeline import planning
from pipeline.batch import Text
from pipeline.distillation import distillation_loss
from pipeline.layers import DilatedDepthwiseConv2d, GridConv2d, recompute_blocks
from pipeline.models import Problem, parameter_count
from pipeline.params import Params
from pipeline.planning import Marks
from pipeline.store import SPLITS
from pipeline.students import base as students
from pipeline.teachers import base as teachers

PAPER = Path("experiments/paper")
PRECISIONS = ("32-true", "bf16-mixed")
RECOMPUTED = "bf16-mixed, checkpoint_activations"
STATE_BYTES = 16  # of a parameter: itself, its gradient and Adam's two moments, in float32
UPDATE_BYTES = 28  # of a parameter, which Adam reads and writes in a step: those four, and three of them again
GPUS = 64
HOURS = np.timedelta64(1, "h")


@dataclass(frozen=True)
class Device:
    """Assumptions about one GPU. Rates per second; shares are what a kernel is taken to reach of the data sheet's."""

    name: str
    operations: dict[str, float]  # by precision
    share: dict[str, float]
    bandwidth: float
    bandwidth_share: float
    launch: float  # seconds from one kernel to the next, at least
    memory: float
    link: float  # bytes between GPUs, each way


GPU = Device(
    name="H100 SXM, 80 GB",
    operations={"32-true": 67e12, "bf16-mixed": 989e12},  # CUDA cores; tensor cores, dense
    share={"32-true": 0.6, "bf16-mixed": 0.3},
    bandwidth=3.35e12,
    bandwidth_share=0.7,
    launch=8e-6,
    memory=80e9,
    link=40e9,  # four fifths of 400 Gbit/s
)


# ---- the settings


@dataclass(frozen=True)
class Case:
    """One data set at the paper's sizes. windows: by split; counted: what they are counted from."""

    name: str
    params: Params
    grid: tuple[int, int]
    periodic: bool
    windows: dict[str, int]
    counted: str

    @property
    def problem(self) -> Problem:
        ingest = self.params.ingest
        shape: dict[str, Any] = {"height": self.grid[0], "width": self.grid[1], "periodic": self.periodic}
        return Problem(t_in=ingest.t_in, t_out=ingest.t_out, variables=len(ingest.variables), **shape)


def cases() -> list[Case]:
    found = []
    for name, grid, counted, times, marks in (
        ("weatherbench2", (32, 64), "its calendar", calendar("1979", "2019", 6), Marks()),
        ("taxibj", (32, 32), "22,459 half hours, taken as one piece", nominal(22_459), Marks()),
        ("traffic_twin", (32, 32), "its calendar", nominal(365 * 48), Marks()),
        ("fire_twin", (16, 128), "its settings", *fires()),
    ):
        params = settings_with(PAPER / f"{name}.yaml")
        windows = planning.planned(times, marks, params.ingest).windows
        counts: dict[str, int] = {split: int((windows.split == number).sum()) for number, split in enumerate(SPLITS)}
        found.append(Case(name, params, grid, name.startswith("weather"), counts, counted))
    counts = {"train": 3555, "validation": 444, "test": 445}
    plus = Case("taxibj_plus", settings_with(PAPER / "taxibj_plus.yaml"), (128, 128), False, counts, "its files")
    return [*found, plus]


def calendar(first: str, end: str, hours: int) -> NDArray[np.datetime64]:
    return np.arange(np.datetime64(first, "h"), np.datetime64(end, "h"), hours * HOURS)


def nominal(frames: int) -> NDArray[np.datetime64]:
    return np.datetime64("2001-01-01", "h") + np.arange(frames) * HOURS


def fires() -> tuple[NDArray[np.datetime64], Marks]:
    """The frames of the fire twin, one a second, and the environments that its overlay calls unseen."""
    from pipeline.datasets.fire_twin import planned

    runs = planned(settings_with(PAPER / "fire_twin.yaml").fetch.fire, 0)
    number = np.repeat(np.arange(len(runs)), [run.seconds for run in runs])
    names = np.array([run.environment for run in runs])[number]
    parameters = {run.environment: {"heat_release_rate_MW": run.fire.heat_release_rate_MW} for run in runs}
    return nominal(len(number)), Marks(segment=number, environment=names, environments=parameters)


# ---- one step, counted


@dataclass(frozen=True)
class Work:
    """What one pass over a batch asks of a device."""

    operations: int  # multiplications and additions of convolutions, matrix products, attention and transforms
    bytes: int  # that kernels read and write, each as if nothing stayed in a cache
    kernels: int

    def of_windows(self, two: Work, count: int) -> Work:
        """What `count` windows ask for, if this is one window's work and `two` that of two."""

        def line(first: int, second: int) -> int:
            return first + (count - 1) * (second - first)

        return Work(line(self.operations, two.operations), line(self.bytes, two.bytes), self.kernels)

    def seconds(self, precision: str, device: Device = GPU) -> float:
        """The longest of the three."""
        return max(
            self.operations / (device.operations[precision] * device.share[precision]),
            self.bytes / (device.bandwidth * device.bandwidth_share),
            self.kernels * device.launch,
        )


@dataclass(frozen=True)
class Step:
    """A forward pass alone, and a whole training step; kept: bytes saved for the backward pass."""

    forward: Work
    training: Work
    kept: int


def raw(formula: Callable[..., int]) -> Callable[..., int]:
    """A formula that is given tensors and not their shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


@raw
def convolution_backward(gradient: Tensor, images: Tensor, weight: Tensor, *others: Any, out_val: Any = None) -> int:
    """As many operations as forward for each gradient that is asked for (the library's own count forgets groups)."""
    transposed, asked_for = others[4], others[7]
    forward = flop_counter.conv_flop_count([*images.shape], [*weight.shape], [*gradient.shape], transposed)
    return int(forward) * sum(asked_for[:2])


@raw
def product(left: Tensor, right: Tensor, out_val: Any = None) -> int:
    """A batch of matrix products; a complex multiplication is four real ones."""
    return 2 * left.numel() * right.shape[-1] * (4 if left.is_complex() else 1)


@raw
def transform(values: Tensor, dims: list[int], *_: Any, out_val: Any = None) -> int:
    """A real fast Fourier transform forth or back: 2.5 N log2 N."""
    fields = out_val if values.is_complex() else values
    return int(2.5 * fields.numel() * math.log2(math.prod(fields.shape[dim] for dim in dims)))


@raw
def complex_transform(values: Tensor, dims: list[int], *_: Any, out_val: Any = None) -> int:
    return 2 * transform(values, dims, out_val=values)


@raw
def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query.shape, key.shape, value.shape))


@raw
def attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any = None, **__: Any
) -> int:
    return int(flop_counter.sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


ATEN = torch.ops.aten
FORMULAS = {
    ATEN.convolution_backward: convolution_backward,
    ATEN.bmm: product,
    ATEN._fft_r2c: transform,
    ATEN._fft_c2r: transform,
    ATEN._fft_c2c: complex_transform,
    ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


class Counter(TorchDispatchMode):
    """Kernels, and the bytes of their arguments and results. Views are neither."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = flop_counter.FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self.bytes = self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view and "empty" not in func.name():
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.kernels += 1
        return result

    @property
    def work(self) -> Work:
        return Work(self.flops.get_total_flops(), self.bytes, self.kernels)


@contextmanager
def valueless() -> Iterator[None]:
    """Tensors have shapes and no memory; convolutions are those of a GPU."""
    with FakeTensorMode(), mock.patch.object(DilatedDepthwiseConv2d, "forward", GridConv2d.forward):
        yield


def without_values(model: nn.Module) -> nn.Module:
    """A model from the device meta, its tensors now such as `valueless` knows."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def measured(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> Step:
    """Counts `loss`, a forward pass of `model`, and its backward pass; what the model owns does not count as kept."""
    model.zero_grad()
    owned = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # by storage; held, so that no storage is taken twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    counter = Counter()
    with counter, counter.flops:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            value = loss()
        forward = counter.work
        value.backward()
    bytes_kept = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in owned)
    return Step(forward, counter.work, bytes_kept)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


# ---- the models' steps


@dataclass(frozen=True)
class Model:
    """What a model's training costs, by what one and two windows ask for."""

    name: str
    parameters: int  # with the projection P, for a student
    batch_size: int
    latent: tuple[int, int]  # L and D of a teacher
    steps: dict[str, tuple[Step, Step]]  # by precision

    def training(self, precision: str) -> Work:
        """Of a batch, with the optimizer's reading and writing."""
        one, two = self.steps[precision]
        work = one.training.of_windows(two.training, self.batch_size)
        return replace(work, bytes=work.bytes + UPDATE_BYTES * self.parameters)

    def forward(self, precision: str) -> Work:
        one, two = self.steps[precision]
        return one.forward.of_windows(two.forward, self.batch_size)

    def memory(self, precision: str, batch: int) -> int:
        """Bytes of a step: parameters' state, and what is kept for the backward pass."""
        one, two = self.steps[precision]
        return STATE_BYTES * self.parameters + one.kept + (batch - 1) * (two.kept - one.kept)

    def largest_batch(self, precision: str, device: Device = GPU) -> int:
        """The largest that a tenth less than the device's memory holds."""
        each = self.memory(precision, 1) - self.memory(precision, 0)
        return int((0.9 * device.memory - self.memory(precision, 0)) // each)

    def epoch(self, precision: str, windows: dict[str, int], devices: int = 1, device: Device = GPU) -> float:
        """Seconds; each device takes `batch_size` windows a step, and gradients are exchanged after it."""
        steps, passes = (math.ceil(windows[split] / (self.batch_size * devices)) for split in ("train", "validation"))
        step = self.training(precision).seconds(precision, device) + self.exchanged(devices) / device.link
        return steps * step + passes * self.forward(precision).seconds(precision, device)

    def exchanged(self, devices: int) -> float:
        """Bytes that each device sends in a step, in a ring."""
        return 2 * (devices - 1) / devices * 4 * self.parameters


def teacher_model(case: Case) -> Model:
    params, teaching = case.params, case.params.train_teacher
    sizes = teaching.sizes.get(params.teacher, {})
    arguments = (params.teacher, case.problem, sizes, TEXT_WIDTH, teaching.fusion_layers, teaching.fusion_heads)
    teacher = _unfilled(lambda: teachers.build(*arguments))

    def step(batch: int) -> Callable[[], Tensor]:
        text = Text(torch.empty(batch, TOKENS, TEXT_WIDTH), torch.ones(batch, TOKENS, dtype=torch.bool))
        inputs, targets = fields(case, batch)
        return lambda: nn.functional.mse_loss(teacher(inputs, text).forecast.float(), targets)

    latent = (math.prod(teacher.latent_grid), teacher.latent_width)
    return _model(params.teacher, teacher, step, teaching.batch_size, latent)


def student_model(case: Case, name: str) -> Model:
    """A student with its projection P, by S2-KD from cached features."""
    params, settings = case.params, case.params.distill
    teaching = params.train_teacher
    sizes = teaching.sizes.get(params.teacher, {})
    teacher = _unfilled(lambda: teachers.build(params.teacher, case.problem, sizes, None, 1, teaching.fusion_heads))
    student = _unfilled(lambda: students.build(name, case.problem, settings.sizes.get(name, {})))
    latent = (student.latent_width, student.latent_grid, teacher.latent_width, teacher.latent_grid)
    projection = _unfilled(lambda: students.Projection(*latent, case.periodic))
    method = distillation_loss("s2kd", params.beta, params.lambda_, settings)

    def step(batch: int) -> Callable[[], Tensor]:
        inputs, targets = fields(case, batch)
        features = torch.empty(batch, math.prod(teacher.latent_grid), teacher.latent_width)

        def loss() -> Tensor:
            output = student(inputs)
            terms = method.terms(projection(output.latent), features, teacher.latent_grid)
            distilled = torch.stack([method.weights[key] * value for key, value in terms.items()]).sum()
            return nn.functional.mse_loss(output.forecast.float(), targets) + distilled

        return loss

    return _model(name, nn.ModuleList([student, projection]), step, settings.batch_size, (0, 0))


def fields(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    problem = case.problem
    shapes = [(batch, frames, problem.variables, *case.grid) for frames in (problem.t_in, problem.t_out)]
    return torch.empty(shapes[0]), torch.empty(shapes[1])


def _unfilled(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build()


def _model(
    name: str, model: nn.Module, step: Callable[[int], Callable[[], Tensor]], batch_size: int, latent: tuple[int, int]
) -> Model:
    with valueless():
        without_values(model)
        steps = {way: (measured(model, step(1), way), measured(model, step(2), way)) for way in PRECISIONS}
        if recompute_blocks(model):
            one, two = (measured(model, step(batch), "bf16-mixed") for batch in (1, 2))
            steps[RECOMPUTED] = (one, two)
    return Model(name, parameter_count(model), batch_size, latent, steps)


# ---- disk


def feature_bytes(latent: tuple[int, int]) -> int:
    """Of one window, float16."""
    return 2 * math.prod(latent)


def forecast_bytes(problem: Problem) -> int:
    return 2 * problem.t_out * problem.variables * problem.height * problem.width


def windows_of_weatherbench(params: Params, record_hours: int, stride_hours: int) -> int:
    """Training and validation windows of 1979 to 2016, frames 6 hours apart."""
    layout = {"step": 6 // record_hours, "stride": stride_hours // record_hours}
    settings = params.ingest.model_copy(update=layout)
    split = planning.planned(calendar("1979", "2019", record_hours), Marks(), settings).windows.split
    return int((split != SPLITS.index("test")).sum())


# ---- the tables


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def step_table(models: list[Model]) -> str:
    head = ["model", "parameters", "operations", *(f"moved, {way}" for way in PRECISIONS), "kernels"]
    head += [f"memory, {way}" for way in (*PRECISIONS, RECOMPUTED)] + [f"largest batch, {PRECISIONS[-1]}"]
    rows = []
    for model in models:
        work = {way: model.training(way) for way in PRECISIONS}
        row = [model.name, f"{model.parameters / 1e6:.1f} M", f"{work['32-true'].operations / 1e12:.2f} T"]
        row += [f"{each.bytes / 1e9:.1f} GB" for each in work.values()] + [f"{work['32-true'].kernels:,}"]
        row += [memory_cell(model, way) for way in (*PRECISIONS, RECOMPUTED)]
        rows.append([*row, f"{model.largest_batch('bf16-mixed'):,}"])
    return table(head, rows)


def memory_cell(model: Model, way: str) -> str:
    return f"{model.memory(way, model.batch_size) / 1e9:.1f} GB" if way in model.steps else "-"


def epoch_table(case: Case, models: list[Model]) -> str:
    head = ["model", "one GPU, 32-true", "bf16-mixed", f"{GPUS} GPUs, 32-true", "bf16-mixed"]
    head += ["sent by each GPU in a step", "features read, one GPU, bf16-mixed"]
    teacher, *_ = models
    read = feature_bytes(teacher.latent) * (case.windows["train"] + case.windows["validation"])
    rows = []
    for model in models:
        times = [model.epoch(precision, case.windows, count) for count in (1, GPUS) for precision in PRECISIONS]
        reading = "-" if model is teacher else f"{read / 1e9:.1f} GB, {read / times[1] / 1e9:.2f} GB/s"
        rows.append([model.name, *map(duration, times), f"{model.exchanged(GPUS) / 1e6:.0f} MB", reading])
    return table(head, rows)


def disk_table(case: Case) -> str:
    latents = {name: teacher_latent(case, name) for name in case.params.train_teacher.sizes}
    names = [f"{name}, {length} x {width}" for name, (length, width) in latents.items()]
    rows = []
    for record, stride in ((6, 6), (6, 12), (6, 24), (6, 72), (1, 1), (1, 3), (1, 6), (1, 12)):
        count = windows_of_weatherbench(case.params, record, stride)
        sizes = [f"{count * feature_bytes(latent) / 1e9:.1f} GB" for latent in latents.values()]
        forecasts = f"{count * forecast_bytes(case.problem) / 1e9:.1f} GB"
        rows.append([f"{record}-hourly", f"{stride // record}, {stride} h", f"{count:,}", *sizes, forecasts])
    return table(["record", "`ingest.stride`", "windows", *names, "forecasts"], rows)


def teacher_latent(case: Case, name: str) -> tuple[int, int]:
    """L and D of a teacher on the case's windows."""
    teaching = case.params.train_teacher
    arguments = (name, case.problem, teaching.sizes[name], None, 1, teaching.fusion_heads)
    teacher = _unfilled(lambda: teachers.build(*arguments))
    return math.prod(teacher.latent_grid), teacher.latent_width


def main() -> None:
    found = cases()
    for case in found:
        models = [teacher_model(case), *(student_model(case, name) for name in case.params.students)]
        problem, counts = case.problem, case.windows
        print(
            f"### {case.name}: {problem.t_in} -> {problem.t_out} frames of {problem.variables} x "
            f"{problem.height} x {problem.width}\n\n"
            f"{counts['train']:,} training and {counts['validation']:,} validation windows, counted from "
            f"{case.counted}. "
            f"A training step of {models[0].batch_size} windows, measured:\n\n{step_table(models)}\n\n"
            f"An epoch, derived:\n\n{epoch_table(case, models)}\n",
            flush=True,
        )
    print(f"### Features of WeatherBench, 1979 to 2016\n\n{disk_table(found[0])}")


if __name__ == "__main__":
    main()
