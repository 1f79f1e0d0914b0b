"""Each student's forward pass and training step against their operations at the speed of this machine's matrix product.

    python -m benchmarks.students --batch 8 --repeats 5

Sizes are those of experiments/paper_scale.yaml, 12 -> 12 frames of two variables on 32 x 64. The peak is a product of
two matrices of 1024 x 1024, measured between the models' passes in the same run; operations are those of
`torch.utils.flop_counter` (products and convolutions, nothing else). Times are the process's CPU time, medians, so on
more than one thread what a thread idles counts for nothing. Then each kernel's share of a pass: what operations do
not count (norms, activations, copies) is what keeps a student below the peak, and convolutions' own efficiency.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.distill_step import settings_with
from pipeline.models import Problem, parameter_count
from pipeline.students.base import Student, build

PROBLEM = Problem(t_in=12, t_out=12, variables=2, height=32, width=64, periodic=True)
SIDE = 1024
SHOWN = 6  # kernels of a pass that are named


def passes(student: Student, inputs: Tensor) -> dict[str, Callable[[], object]]:
    optimizer = torch.optim.Adam(student.parameters())

    def forward() -> None:
        student.eval()
        with torch.no_grad():
            student(inputs)

    def step() -> None:
        student.train()
        optimizer.zero_grad()
        student(inputs).forecast.square().mean().backward()
        optimizer.step()

    return {"forward": forward, "training step": step}


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def shares(work: Callable[[], object]) -> list[tuple[str, float]]:
    """Kernels and their shares of the pass's time, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    own = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sorted(((name, value / sum(own.values())) for name, value in own.items()), key=lambda item: -item[1])


def compare(student: Student, inputs: Tensor, repeats: int) -> None:
    work = passes(student, inputs)
    left, right = torch.randn(2, SIDE, SIDE)
    every: dict[str, Callable[[], object]] = {"peak": lambda: left @ right, **work}
    for each in every.values():
        each()  # a warm-up
    seconds = {name: statistics.median(times) for name, times in _alternating(every, repeats).items()}
    peak = 2 * SIDE**3 / seconds["peak"]
    print(f"matrix product {peak / 1e9:.0f} GFLOP/s")
    for name, each in work.items():
        count = operations(each)
        print(f"{name:14} {count / 1e9:7.1f} GFLOP {seconds[name]:7.2f} s: {count / seconds[name] / peak:.0%} of it")
        print("  " + ", ".join(f"{kernel} {share:.0%}" for kernel, share in shares(each)[:SHOWN]))


def _alternating(every: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(repeats):
        for name, each in every.items():
            seconds[name].append(cpu_seconds(each))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", type=Path, default=Path("experiments/paper_scale.yaml"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true", help="images and kernels in that memory format")
    options = parser.parse_args()
    settings = settings_with(options.overlay)
    torch.manual_seed(0)
    inputs = torch.randn(options.batch, PROBLEM.t_in, PROBLEM.variables, PROBLEM.height, PROBLEM.width)
    for name in settings.students:
        student = build(name, PROBLEM, settings.distill.sizes[name])
        if options.channels_last:
            student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        print(
            f"{name}, {parameter_count(student) / 1e6:.1f} M, batch {options.batch}, {torch.get_num_threads()} threads"
        )
        compare(student, inputs, options.repeats)


if __name__ == "__main__":
    main()
