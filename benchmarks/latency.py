"""One forecast (a batch of one window) by the teacher and by each student: torch eager, compiled, and ONNX Runtime.

    python -m benchmarks.latency
    python -m benchmarks.latency --overlay experiments/paper/weather_twin.yaml --frames 12 --repeats 7
    python -m benchmarks.latency --int8 --openstl FOLDER      # a checkout of OpenSTL: its SimVP beside ours

Models have the sizes of params.yaml, or of params.yaml with an overlay, and random weights: a forecast costs the same.
All take part in one run, one after the other, again and again; medians are printed, of wall time and of the process's
CPU time, which other work on the machine disturbs less. The teacher is given a caption of 40 tokens; what writes and
embeds captions is left out. The last lines are the ratios, of CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.distill_step import settings_with
from pipeline import export
from pipeline.batch import Text
from pipeline.models import Problem, parameter_count
from pipeline.params import Params
from pipeline.quantisation import quantise
from pipeline.students import base as students
from pipeline.students.base import Student
from pipeline.teachers import base as teachers

ROWS, COLUMNS, VARIABLES = 32, 64, 2
TOKENS, TEXT_WIDTH = 40, 384
WARM_UP = 2
TOLERANCE = 1e-4

Run = Callable[[], object]


def session_of(path: Path, inputs: torch.Tensor) -> Run:
    """A forecast by ONNX Runtime on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"inputs": inputs.numpy()}
    return lambda: session.run(None, feed)[0]


def student_runs(
    name: str, student: Student, inputs: torch.Tensor, folder: Path, int8: bool, compiled: bool
) -> dict[str, Run]:
    """The same student in each of its forms; ONNX Runtime's forecast is compared with torch's."""
    path = folder / f"{name}.onnx"
    export.write_onnx(export.trace(student, torch.cat([inputs, inputs])), path)
    runs: dict[str, Run] = {f"{name}, eager": lambda: student(inputs).forecast}
    if compiled:
        fast = torch.compile(student)
        runs[f"{name}, compiled"] = lambda: fast(inputs).forecast
    runs[f"{name}, ONNX Runtime"] = session_of(path, inputs)
    difference = np.abs(np.asarray(runs[f"{name}, ONNX Runtime"]()) - student(inputs).forecast.numpy()).max()
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: ONNX Runtime forecasts {difference} away from torch")
    if int8:
        quantise(path, folder / f"{name}_int8.onnx", [inputs.numpy()])
        runs[f"{name}, ONNX Runtime int8"] = session_of(folder / f"{name}_int8.onnx", inputs)
    return runs


def teacher_run(settings: Params, problem: Problem, inputs: torch.Tensor) -> tuple[nn.Module, Run]:
    section = settings.train_teacher
    sizes = section.sizes.get(settings.teacher, {})
    teacher = teachers.build(settings.teacher, problem, sizes, TEXT_WIDTH, section.fusion_layers, section.fusion_heads)
    teacher.eval()
    text = Text(torch.randn(1, TOKENS, TEXT_WIDTH), torch.ones(1, TOKENS, dtype=torch.bool))
    return teacher, lambda: teacher(inputs, text).forecast


def openstl_run(folder: Path) -> Run:
    """OpenSTL's own SimVP (gSTA) at the sizes of its configuration for t2m: 12 -> 12 frames of one variable."""
    from benchmarks.openstl_simvp import PROBLEM, openstl_model

    model = openstl_model(folder).eval()
    frames = torch.randn(1, PROBLEM.t_in, PROBLEM.variables, PROBLEM.height, PROBLEM.width)
    return lambda: model(frames)


def interleaved(runs: dict[str, Run], repeats: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each: wall and CPU."""
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    middle = {name: np.median(values, axis=0) * 1000 for name, values in times.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in middle.items()}


@torch.no_grad()
def measure(options: argparse.Namespace, folder: Path) -> None:
    settings = settings_with(options.overlay)
    shape = {"t_in": options.frames, "t_out": options.frames, "variables": VARIABLES, "height": ROWS, "width": COLUMNS}
    problem = Problem(**shape, periodic=True, residual=settings.distill.residual)
    inputs = torch.randn(1, options.frames, VARIABLES, ROWS, COLUMNS)
    teacher, run = teacher_run(settings, problem, inputs)
    runs, parameters = {"teacher": run}, {f"teacher ({settings.teacher})": parameter_count(teacher)}
    for name in options.students:
        student = students.build(name, problem, settings.distill.sizes.get(name, {})).eval()
        parameters[name] = parameter_count(student)
        runs |= student_runs(name, student, inputs, folder, options.int8, not options.no_compile)
    if options.openstl:
        runs["OpenSTL's SimVP"] = openstl_run(options.openstl)
    medians = interleaved(runs, options.repeats)
    print(", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parameters.items()))
    frames, threads = f"{options.frames} -> {options.frames} frames", torch.get_num_threads()
    print(f"batch 1, {frames}, {threads} threads, medians of {options.repeats}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:30} {wall:9.1f} ms wall   {cpu:9.1f} ms CPU")
    for name in options.students:
        teacher_cpu, eager, onnx = (medians[key][1] for key in ("teacher", f"{name}, eager", f"{name}, ONNX Runtime"))
        print(f"ratio {name}: teacher / eager {teacher_cpu / eager:.1f}, eager / ONNX Runtime {eager / onnx:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, help="an overlay of experiments/; default: params.yaml as it is")
    parser.add_argument("--students", nargs="+", default=["unet", "resnet", "mlp_mixer"])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--int8", action="store_true", help="the 8-bit models too")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes to start")
    parser.add_argument("--openstl", type=Path, metavar="FOLDER", help="a checkout of OpenSTL; needs timm")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
