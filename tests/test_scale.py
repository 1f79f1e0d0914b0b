"""benchmarks/scale.py: what it counts without values is what real tensors do, and its windows are ingest's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn

from benchmarks import scale
from benchmarks.distill_step import settings_with
from benchmarks.scale import Case, Model, Step, Work
from pipeline.layers import GridConv2d
from pipeline.models import Problem
from pipeline.students import base as students
from tests.core import write_features

ROOT = Path(__file__).parents[1]


def counted(model: nn.Module, inputs: Tensor, precision: str = "32-true") -> Step:
    """On real tensors."""
    return scale.measured(model, lambda: model(inputs).square().mean(), precision)


def test_a_grouped_convolutions_gradients_cost_what_the_convolution_does() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), GridConv2d(8, 8, 5, periodic=False, groups=8))
    pointwise, depthwise = 2 * 4 * 9 * 3 * 8, 2 * 4 * 9 * 25 * 8  # grid 4 x 9
    step = counted(model, torch.randn(1, 3, 4, 9))
    assert step.forward.operations == pointwise + depthwise
    assert step.training.operations == 2 * pointwise + 3 * depthwise  # none for the gradient of the fields


def test_a_complex_product_is_four_real_ones_and_a_transform_n_log_n() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 6, 6, dtype=torch.complex64))

        def forward(self, images: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(images, dim=(1, 2)).flatten(1, 2)  # (1, 8 * 9, 6)
            return torch.bmm(spectrum, self.weight).real

    step = counted(Filter(), torch.randn(1, 8, 16, 6))
    assert step.forward.operations == int(2.5 * 8 * 16 * 6 * 7) + 8 * 72 * 36


def test_without_values_the_counts_are_those_of_real_tensors() -> None:
    problem = Problem(t_in=2, t_out=2, variables=1, height=16, width=16, periodic=True)
    with torch.device("meta"):
        hollow = students.build("unet", problem, {"width": 2})
    inputs = torch.randn(3, 2, 1, 16, 16)
    real = students.build("unet", problem, {"width": 2})
    expected = scale.measured(real, lambda: real(inputs).forecast.square().mean(), "32-true")
    with scale.valueless():
        scale.without_values(hollow)
        empty = torch.empty(3, 2, 1, 16, 16)
        found = scale.measured(hollow, lambda: hollow(empty).forecast.square().mean(), "32-true")
    assert found.kept == expected.kept > 0
    assert found.training.operations == expected.training.operations > 0
    assert found.training.bytes == pytest.approx(expected.training.bytes, rel=0.05)


def test_a_relu_keeps_what_its_gradient_needs_and_the_weights_are_not_counted_as_kept() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU())
    inputs = torch.randn(4, 10)
    assert counted(model, inputs).kept == 4 * (4 * 10 + 4 * 20)  # the inputs, and the output that relu and square share


def test_a_batchs_work_lies_on_the_line_through_one_window_and_two() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
    one, two, five = (counted(model, torch.randn(count, 3, 8, 8)) for count in (1, 2, 5))
    assert one.training.of_windows(two.training, 5) == five.training
    built = Model("any", 10, 5, (0, 0), {"32-true": (one, two)})
    assert built.memory("32-true", 5) == 160 + five.kept
    assert built.training("32-true").bytes == five.training.bytes + 280


def test_the_longest_of_arithmetic_memory_and_launches_is_the_time() -> None:
    device = scale.Device("slow", {"32-true": 100.0}, {"32-true": 0.5}, 10.0, 0.5, 2.0, 90, 4.0)
    assert Work(500, 5, 1).seconds("32-true", device) == 10
    assert Work(50, 40, 1).seconds("32-true", device) == 8
    assert Work(50, 5, 3).seconds("32-true", device) == 6


def test_an_epoch_is_its_steps_with_the_exchange_and_the_validation() -> None:
    device = scale.Device("slow", {"32-true": 1.0}, {"32-true": 1.0}, 1e12, 1.0, 0.0, 90, 4.0)
    forward, training = Work(1, 0, 0), Work(3, 0, 0)
    model = Model("any", 2, 1, (0, 0), {"32-true": (Step(forward, training, 0), Step(forward, training, 0))})
    assert model.exchanged(4) == 2 * 3 / 4 * 8
    windows = {"train": 10, "validation": 5}
    assert model.epoch("32-true", windows, 1, device) == pytest.approx(10 * 3 + 5)
    assert model.epoch("32-true", windows, 4, device) == pytest.approx(3 * (3 + 12 / 4) + 2)


def test_windows_of_the_weather_are_those_of_its_years(cases: dict[str, Case]) -> None:
    days = 37 * 365 + 9  # 1979 to 2015
    assert cases["weatherbench2"].windows["train"] == 4 * days - 24 - 23  # before 2016, a window's span is left out
    assert cases["weatherbench2"].windows["validation"] == 4 * 366 - 24 - 23
    assert cases["weatherbench2"].windows["test"] == 4 * 730 - 23


def test_fires_are_shared_out_by_simulation(cases: dict[str, Case]) -> None:
    each = 150 - 19
    assert {split: count / each for split, count in cases["fire_twin"].windows.items()} == {
        "train": 22,
        "validation": 7,
        "test": 7 + 12,
    }


def test_features_take_what_a_dump_takes(tmp_path: Path) -> None:
    write_features(tmp_path / "features.zarr", np.arange(5), grid=(2, 4), width=6)
    stored: Any = zarr.open_group(tmp_path / "features.zarr", mode="r")["features"]
    assert stored.nbytes == 5 * scale.feature_bytes((8, 6))


def test_the_page_shows_the_disk_that_features_need(cases: dict[str, Case]) -> None:
    assert scale.disk_table(cases["weatherbench2"]) in (ROOT / "docs/scale.md").read_text()


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        settings_with(None)
        return {case.name: case for case in scale.cases()}
