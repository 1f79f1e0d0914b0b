"""fit(): one loop for teacher and student.

Adam, early stopping, the best checkpoint by validation, exact resume. The learning rate falls when validation
stalls, as in S2-KD, "Implementation Details", or follows one cycle over a fixed number of epochs (Smith and
Topin 2019, "Super-Convergence"), which gets more out of a short run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.errors import UserError
from pipeline.params import Runtime, Training
from pipeline.progress import progress
from pipeline.windows import WindowDataset, loader, shuffled_loader
from pipeline.work import Work, write_json

log = logging.getLogger(__name__)

Row = dict[str, float]  # one epoch of the history


@dataclass(frozen=True)
class Terms:
    """The parts of an objective: unweighted scalars and their weights; "prediction" must be among them."""

    values: dict[str, Tensor]
    weights: dict[str, float]

    @property
    def total(self) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in self.values.items()]).sum()


Objective = Callable[[Any, Batch], Terms]


@dataclass
class Progress:
    """Where a run stands; all of it is saved, so a resumed run is the same run."""

    epoch: int = 0  # epochs done
    best_loss: float = math.inf
    best_epoch: int = 0
    stale: int = 0  # epochs since the best one
    stale_at_rate: int = 0  # epochs since the best one or since the rate last fell
    learning_rate: float = 0.0
    history: list[Row] = field(default_factory=list)


def fit(
    model: nn.Module,
    objective: Objective,
    train: WindowDataset,
    validation: WindowDataset,
    settings: Training,
    *,
    seed: int,
    runtime: Runtime,
    work: Work,
    name: str,
) -> list[Row]:
    """Trains `model` in place, leaves it with its best weights in eval mode, and returns the history.

    `objective(model, batch)` gives the terms; validation chooses by the mean "prediction" term. Checkpoints
    are parts `name-<epoch>` of `work`: a killed run loses at most one epoch and ends in the same bytes.
    Raises UserError if the loss is not finite, naming step, windows and terms, or if the validation loss is not,
    naming the epoch; checkpoints stay.
    """
    fabric = start_fabric(runtime, settings.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    # not set up by Fabric, which would count epochs from the start of this process and not of the run
    size, workers = settings.batch_size, runtime.loader_workers
    train_loader: Any = shuffled_loader(train, size, seed, fabric.global_rank, fabric.world_size, workers)
    validation_loader: Any = fabric.setup_dataloaders(loader(validation, size, workers))
    best = _copy(model)
    state = _resume(work, name, model, best, optimizer) or Progress(learning_rate=settings.learning_rate)

    for _ in progress(_epochs(state, settings), name, settings.epochs, "epoch", done=state.epoch):
        torch.manual_seed(seed * 100_003 + state.epoch)  # dropout; a resumed epoch draws the same
        train_loader.sampler.set_epoch(state.epoch)
        rates = _learning_rates(state, settings, len(train_loader))
        row = {"epoch": float(state.epoch + 1), "learning_rate": rates[0]}
        row |= _train_epoch(fabric, wrapped, wrapped_optimizer, objective, train_loader, rates)
        row |= _validate(fabric, wrapped, objective, validation_loader)
        if not math.isfinite(row["validation_prediction"]):
            raise UserError(f"{name}: the validation loss of epoch {state.epoch + 1} is {row['validation_prediction']}")
        state.history.append(row)
        if _advance(state, row["validation_prediction"], settings):
            best = _copy(model)
        _checkpoint(work, name, model, best, optimizer, state)

    model.load_state_dict(best)
    model.eval()
    log.info("%s: best of %d epochs is %d, validation MSE %.5f", name, state.epoch, state.best_epoch, state.best_loss)
    return state.history


def write_history(history: list[Row], folder: Path) -> None:
    """Writes the rows as `history.json`, and as DVCLive's metrics and plots under `live/`."""
    from dvclive import Live

    write_json(folder / "history.json", history)
    with Live(str(folder / "live"), save_dvc_exp=False, dvcyaml=None, report=None) as live:
        for row in history:
            for name, value in row.items():
                live.log_metric(name, value)
            live.next_step()


def start_fabric(runtime: Runtime, precision: Any) -> Fabric:
    """Lightning Fabric on the device that `runtime` names, with deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    fabric = Fabric(accelerator=runtime.accelerator, devices=1, precision=precision)
    fabric.launch()
    return fabric


def _epochs(state: Progress, settings: Training) -> Iterator[int]:
    while state.epoch < settings.epochs and state.stale < settings.stop_epochs:
        yield state.epoch


def _learning_rates(state: Progress, settings: Training, steps: int) -> list[float]:
    """The rate of each step of the coming epoch."""
    if settings.schedule == "plateau":
        return [state.learning_rate] * steps
    return [settings.learning_rate * one_cycle((state.epoch + step / steps) / settings.epochs) for step in range(steps)]


def one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Share of the peak rate after the share `done` of training: up linearly, down to zero along a cosine."""
    if done < warm_up:
        return (done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _train_epoch(
    fabric: Fabric, model: Any, optimizer: Any, objective: Objective, batches: Iterable[Batch], rates: list[float]
) -> Row:
    """One pass over the training windows: means of the terms, and each term's gradient norm at its start."""
    model.train()
    sums: dict[str, float] = {}
    gradients: Row = {}
    windows = 0
    for step, batch in enumerate(batches):
        terms = objective(model, fabric.to_device(batch))
        total = terms.total
        if not torch.isfinite(total):
            values = {name: value.item() for name, value in terms.values.items()}
            raise UserError(f"the loss is not finite at step {step}, windows {batch.windows.tolist()}: {values}")
        if step == 0:
            gradients = _gradient_norms(fabric, terms, optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.zero_grad()
        fabric.backward(total)
        optimizer.step()
        windows += len(batch.windows)
        for name, value in terms.values.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(batch.windows)
    return {f"train_{name}": total / windows for name, total in sums.items()} | gradients


def _gradient_norms(fabric: Fabric, terms: Terms, optimizer: Any) -> Row:
    """The norm of each weighted term's gradient: what share of a step each term can claim."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # 16-mixed multiplies the loss
    scale = scaler.get_scale() if scaler else 1.0
    norms: Row = {}
    for name, value in terms.values.items():
        optimizer.zero_grad()
        fabric.backward(terms.weights[name] * value, retain_graph=True)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        squares = [parameter.grad.float().pow(2).sum() for parameter in parameters if parameter.grad is not None]
        norms[f"gradient_{name}"] = torch.stack(squares).sum().sqrt().item() / scale
    return norms


@torch.no_grad()
def _validate(fabric: Fabric, model: Any, objective: Objective, batches: Iterable[Batch]) -> Row:
    """Means of the terms over the validation windows, in eval mode, over all processes."""
    model.eval()
    sums: dict[str, Tensor] = {}
    windows = torch.zeros((), device=fabric.device)
    for batch in batches:
        windows += len(batch.windows)
        for name, value in objective(model, batch).values.items():
            sums[name] = sums.get(name, torch.zeros((), device=fabric.device)) + value.double() * len(batch.windows)
    count: Any = fabric.all_reduce(windows, reduce_op="sum")
    totals: Any = {name: fabric.all_reduce(total, reduce_op="sum") for name, total in sums.items()}
    return {f"validation_{name}": (total / count).item() for name, total in totals.items()}


def _advance(state: Progress, loss: float, settings: Training) -> bool:
    """Counts the epoch, lowers the rate on a plateau; returns whether this epoch is the best so far."""
    state.epoch += 1
    if loss < state.best_loss:
        state.best_loss, state.best_epoch, state.stale, state.stale_at_rate = loss, state.epoch, 0, 0
        return True
    state.stale += 1
    state.stale_at_rate += 1
    if state.stale_at_rate >= settings.plateau_epochs:
        state.learning_rate *= settings.plateau_factor
        state.stale_at_rate = 0
    return False


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _checkpoint(
    work: Work, name: str, model: nn.Module, best: dict[str, Tensor], optimizer: Any, state: Progress
) -> None:
    """Saves the state after an epoch as one part; only then are earlier ones removed."""
    with work.part(f"{name}-{state.epoch:05d}") as folder:
        folder.mkdir()
        save_file(_copy(model), folder / "model.safetensors")
        save_file(best, folder / "best.safetensors")
        save_file(_flat(optimizer.state_dict()["state"]), folder / "optimizer.safetensors")
        write_json(folder / "progress.json", vars(state))
    for earlier in sorted(work.folder.glob(f"{name}-*"))[:-1]:
        work.remove(earlier.name)


def _resume(work: Work, name: str, model: nn.Module, best: dict[str, Tensor], optimizer: Any) -> Progress | None:
    """Takes up the newest checkpoint of `name`, if there is one."""
    checkpoints = sorted(work.folder.glob(f"{name}-*"))
    if not checkpoints:
        return None
    folder = checkpoints[-1]
    state = Progress(**json.loads((folder / "progress.json").read_text()))
    log.info("%s: resuming after epoch %d", name, state.epoch)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    best.update(load_file(folder / "best.safetensors"))
    moments = load_file(folder / "optimizer.safetensors")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _nested(moments)})
    return state


def _flat(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{index}.{key}": tensor.cpu() for index, moments in state.items() for key, tensor in moments.items()}


def _nested(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        nested.setdefault(int(index), {})[key] = tensor
    return nested
