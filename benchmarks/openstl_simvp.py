"""A training step of our SimVP (gSTA) against OpenSTL's own, equal in parameters, data, loss and optimiser.

    git clone https://github.com/chengtan9907/OpenSTL FOLDER
    pip install timm        # which OpenSTL's blocks import
    python -m benchmarks.openstl_simvp --openstl FOLDER

Sizes are those of OpenSTL's configs/weather/t2m_5_625/SimVP_gSTA.py: 12 -> 12 frames of one variable on 32 x 64. Ours
goes without alignment, with zeros around the fields and with OpenSTL's initial weights, which fit one by one; without
stochastic depth, whose draws would differ, both compute the same function (their losses agree). Steps alternate;
medians of wall and CPU time, both loss curves, and the ratio are printed.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import Problem, parameter_count
from pipeline.teachers.simvp import SimVP

PROBLEM = Problem(t_in=12, t_out=12, variables=1, height=32, width=64, periodic=False)
WIDTHS = {"hid_S": 32, "hid_T": 256, "N_S": 2, "N_T": 8}


class Bare(nn.Module):
    """Our teacher's encoder and decoder with nothing between them, on normalised fields, as OpenSTL trains."""

    def __init__(self) -> None:
        super().__init__()
        sizes = SimVP.Sizes.model_validate({"drop_path": 0.0})  # the others' defaults are OpenSTL's
        self.teacher = SimVP(PROBLEM, sizes)

    def forward(self, scores: Tensor) -> Tensor:
        return self.teacher.decode(*self.teacher.encode(scores))


def openstl_model(folder: Path) -> nn.Module:
    """OpenSTL's SimVP alone: the packages around it import every other model and Lightning."""
    sys.path.insert(0, str(folder))
    for name in ("openstl", "openstl.models", "openstl.modules"):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
    blocks = importlib.import_module("openstl.modules.simvp_modules")
    vars(sys.modules["openstl.modules"]).update(vars(blocks))
    kind = importlib.import_module("openstl.models.simvp_model").SimVP_Model
    shape = (PROBLEM.t_in, PROBLEM.variables, PROBLEM.height, PROBLEM.width)
    model: nn.Module = kind(shape, **WIDTHS, model_type="gSTA", mlp_ratio=8.0, drop_path=0.0)
    for each in model.modules():
        if hasattr(each, "drop_prob"):  # a rate of 0 is the last block's: the first ones' begins at 0.01
            vars(each)["drop_prob"] = 0.0
    return model


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Both declare the same layers in the same order; only a scale's shape differs, (C,) from (C, 1, 1)."""
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    for theirs, ours in pairs:
        ours.data.copy_(theirs.data.reshape(ours.shape))


@dataclass
class Trained:
    """A model with its optimiser, what its steps took and its losses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.losses.append(float(loss.detach()))


def waves(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, 12, 1, 32, 64): a wave that travels around each sample's globe, under some noise."""
    frames = torch.arange(PROBLEM.t_in + PROBLEM.t_out)[:, None, None]
    rows = torch.linspace(0, torch.pi, PROBLEM.height)[:, None]
    columns = torch.arange(PROBLEM.width) * (2 * torch.pi / PROBLEM.width)
    speed, phase = torch.rand(2, batch, 1, 1, 1, generator=generator)
    fields = rows.sin() * torch.sin(2 * columns - 0.5 * speed * frames + 6 * phase)
    fields = (fields + 0.05 * torch.randn(fields.shape, generator=generator))[:, :, None]
    return fields[:, : PROBLEM.t_in].contiguous(), fields[:, PROBLEM.t_in :].contiguous()


def compared(folder: Path, batch: int, steps: int, rate: float) -> dict[str, Trained]:
    torch.manual_seed(0)
    theirs, ours = openstl_model(folder), Bare()
    copy_weights(theirs, ours)
    models = {"ours": ours, "OpenSTL's": theirs}
    trained = {name: Trained(each, torch.optim.Adam(each.parameters(), lr=rate)) for name, each in models.items()}
    generator = torch.Generator().manual_seed(0)
    for number in range(steps):
        inputs, targets = waves(batch, generator)
        for name in sorted(trained, reverse=number % 2 == 1):  # whoever is first finds colder caches
            trained[name].step(inputs, targets)
    return trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openstl", type=Path, required=True, help="a checkout of OpenSTL")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    trained = compared(options.openstl, options.batch, options.steps, options.rate)
    ours, theirs = trained.values()
    print(f"parameters {parameter_count(ours.model):,} and {parameter_count(theirs.model):,}")
    print("step  " + "  ".join(f"{name:>10}" for name in trained))
    for number, losses in enumerate(zip(ours.losses, theirs.losses, strict=True), start=1):
        print(f"{number:4}  " + "  ".join(f"{loss:10.6f}" for loss in losses))
    for name, each in trained.items():
        wall, cpu = statistics.median(each.wall[1:]), statistics.median(each.cpu[1:])
        print(f"{name:10} {wall:7.2f} s a step, {cpu:7.2f} s of CPU, {torch.get_num_threads()} threads")
    for clock in ("wall", "cpu"):
        ratio = statistics.median(getattr(theirs, clock)[1:]) / statistics.median(getattr(ours, clock)[1:])
        print(f"ratio OpenSTL's / ours, {clock} time: {ratio:.2f}")


if __name__ == "__main__":
    main()
