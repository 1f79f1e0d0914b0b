"""What a model costs: parameters, multiply-accumulates, and the time of one forecast."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.batch import Batch
from pipeline.evaluation import Forecast
from pipeline.models import parameter_count

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Cost:
    """parameters: trainable ones. multiply_accumulates: of convolutions and matrix products, for one window.

    latency_ms, latency_p95_ms: median and 95th percentile of single-window forecasts, warm.
    device: where the latency was measured, with the processor's threads.
    """

    parameters: int
    multiply_accumulates: int
    latency_ms: float
    device: str
    latency_p95_ms: float = float("nan")  # where an older evaluation measured none


@torch.no_grad()
def measure(model: nn.Module, forecast: Forecast, batch: Batch, runs: int, device: torch.device) -> Cost:
    """`batch` holds one window; latencies are those of `runs` forecasts after a warm-up."""
    with FlopCounterMode(display=False) as counter:
        forecast(batch)
    for _ in range(WARM_UP_RUNS):
        forecast(batch)
    milliseconds = [_timed(forecast, batch) for _ in range(runs)]
    return Cost(
        parameters=parameter_count(model),
        multiply_accumulates=counter.get_total_flops() // 2,
        latency_ms=round(statistics.median(milliseconds), 3),
        device=f"{device.type}, threads: {torch.get_num_threads()}",
        latency_p95_ms=round(float(np.percentile(milliseconds, 95)), 3),
    )


def _timed(forecast: Forecast, batch: Batch) -> float:
    start = time.perf_counter()
    forecast(batch)  # brings the forecast back to the processor, so that a device has finished
    return (time.perf_counter() - start) * 1000
