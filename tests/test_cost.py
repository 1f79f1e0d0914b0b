from __future__ import annotations

import torch
from torch import nn

from pipeline.batch import Batch
from pipeline.cost import WARM_UP_RUNS, measure


def test_parameters_and_multiply_accumulates_of_a_convolution_are_exact() -> None:
    model = nn.Conv2d(3, 5, 3, padding=1, bias=True)
    calls = []

    def forecast(batch: Batch) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        output: torch.Tensor = model(batch.inputs[:, 0])
        return output

    fields = torch.zeros(1, 1, 3, 8, 16)
    cost = measure(model, forecast, Batch(torch.zeros(1), fields, fields), runs=4, device=torch.device("cpu"))
    assert cost.parameters == 3 * 5 * 9 + 5
    assert cost.multiply_accumulates == 3 * 5 * 9 * 8 * 16
    assert 0 < cost.latency_ms <= cost.latency_p95_ms
    assert cost.device == f"cpu, threads: {torch.get_num_threads()}"
    assert calls == [False] * (1 + WARM_UP_RUNS + 4)
