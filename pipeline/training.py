"""fit(): one loop for teacher and student.

Adam, early stopping, the best checkpoint by validation, exact resume. The learning rate falls when validation
stalls, as in S2-KD, "Implementation Details", or follows one cycle over a fixed number of epochs (Smith and
Topin 2019, "Super-Convergence"), which gets more out of a short run.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.batch import Batch
from pipeline.checkpoint import Checkpoints, Progress, Row, best_weights, finite, seed_generators
from pipeline.devices import mean_over_ranks, on_devices, share_of_batch, share_of_windows
from pipeline.errors import UserError
from pipeline.failures import all_finite, memory_told, not_finite, smaller_steps
from pipeline.layers import recompute_blocks
from pipeline.params import Runtime, Training, TrainTeacher
from pipeline.progress import progress
from pipeline.windows import WindowDataset, WindowLoader, shuffled_loader
from pipeline.work import Work, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """The parts of an objective: unweighted scalars and their weights; "prediction" must be among them."""

    values: dict[str, Tensor]
    weights: dict[str, float]

    @property
    def total(self) -> Tensor:
        return self.shared(dict.fromkeys(self.values, 1.0))

    def shared(self, shares: Mapping[str, float]) -> Tensor:
        """The total of a part of a step: each term by the share that the part has in it."""
        return torch.stack([self.weights[name] * shares[name] * value for name, value in self.values.items()]).sum()


Objective = Callable[[Any, Batch], Terms]


class Counted(NamedTuple):
    """The windows of a batch or a step, and of them those with targets, over which alone `prediction` is a mean."""

    windows: float
    labelled: float

    def over(self, term: str) -> float:
        return self.labelled if term == "prediction" else self.windows

    def shares(self, whole: Counted, terms: Iterable[str]) -> dict[str, float]:
        """What of each term's mean over the windows of `whole` comes from these."""
        return {term: self.over(term) / whole.over(term) if whole.over(term) else 0.0 for term in terms}


class Task(NamedTuple):
    """What `fit` is asked for."""

    objective: Objective
    train: WindowDataset
    validation: WindowDataset
    settings: Training
    seed: int
    runtime: Runtime
    work: Work
    name: str


@dataclass
class Run:
    """What one run trains, and with what."""

    name: str
    fabric: Fabric
    model: Any  # as Fabric has set it up
    optimizer: Any
    objective: Objective
    settings: Training
    seed: int
    checkpoints: Checkpoints
    state: Progress
    before: list[int] = field(default_factory=list)  # windows of the last step

    @property
    def epoch(self) -> str:
        """For messages."""
        return f"{self.name}, epoch {self.state.epoch + 1}"

    def terms(self, batch: Batch, place: str) -> Terms:
        """The objective's terms; raises UserError if one is not finite."""
        terms = self.objective(self.model, batch)
        if not all_finite(terms.values):
            spoilt_by = None if finite(self.model) else self.before
            kept = self.checkpoints.newest
            raise not_finite(f"{self.epoch}, {place}", terms.values, batch.windows, self.settings, kept, spoilt_by)
        return terms


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

    `objective(model, batch)` gives the terms; validation chooses by the mean "prediction" term. Checkpoints are
    parts of `work`, after each epoch and now and then within one: a killed run goes on from the last and ends in
    the same bytes. Raises UserError if a loss is not finite, naming epoch, step, windows and terms, and if memory
    runs out, naming the settings to lower; checkpoints stay. On a node that is not the first the model is left as it
    was: nothing is made of it there.
    """
    task = Task(objective, train, validation, settings, seed, runtime, work, name)
    share_of_batch(settings, runtime)  # refused here, before any process has started
    if isinstance(settings, TrainTeacher) and settings.checkpoint_activations:
        _save_memory(model, settings)
    history: list[Row] = on_devices(runtime, settings.precision, work.folder, _fit, model, task)
    if runtime.node == 0:  # which may be done with its work before other nodes could read there
        model.load_state_dict(best_weights(work, name))
    model.eval()
    return history


def _save_memory(model: nn.Module, settings: TrainTeacher) -> None:
    asked = "train_teacher.checkpoint_activations = True"
    if settings.compile:  # which takes no word on what the second computation leaves alone
        raise UserError(f"{asked} and train_teacher.compile = True do not go together; one of them must be false")
    if recompute_blocks(model) == 0:
        raise UserError(f"{asked} and {type(model).__name__} has no Recomputable blocks; it must be false")


def _fit(fabric: Fabric, model: nn.Module, task: Task) -> list[Row]:
    """One process's part of `fit`: all of it, or its share of every batch."""
    settings, workers = task.settings, task.runtime.loader_workers
    advice = smaller_steps(settings)
    with memory_told(task.name, advice):
        run = _start(fabric, model, task)
    state, checkpoints, rank, ranks = run.state, run.checkpoints, fabric.global_rank, fabric.world_size
    size = share_of_batch(settings, task.runtime)
    # not set up by Fabric, which would count epochs from the start of this process and not of the run
    train_loader: Any = shuffled_loader(task.train, size, task.seed, rank, ranks, workers)
    validation = share_of_windows(task.validation, settings.batch_size, rank, ranks, workers)
    validation_loader: Any = fabric.setup_dataloaders(validation, use_distributed_sampler=False)

    epochs = _epochs(state, settings)
    for _ in progress(epochs, task.name, settings.epochs, "epoch", done=state.epoch) if rank == 0 else epochs:
        train_loader.sampler.set_epoch(state.epoch)
        rates = _learning_rates(state, settings, math.ceil(len(train_loader) / settings.accumulate))
        row = {"epoch": float(state.epoch + 1), "learning_rate": rates[0]}
        with memory_told(run.epoch, advice):
            row |= _train_epoch(run, train_loader, rates)
            row |= _validate(run, validation_loader)
        state.history.append(row)
        if _advance(state, row["validation_prediction"], settings):
            checkpoints.keep_best()
        checkpoints.save(state)

    words = "%s: best of %d epochs is %d, validation MSE %.5f"
    log.info(words, task.name, state.epoch, state.best_epoch, state.best_loss)
    return state.history


def _start(fabric: Fabric, model: nn.Module, task: Task) -> Run:
    """Model and optimizer on their device, in the state that a checkpoint left if there is one."""
    settings = task.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    forward = _compiled(model) if settings.compile else model
    wrapped, wrapped_optimizer = fabric.setup(forward, optimizer)
    writes = fabric.global_rank == 0
    checkpoints = Checkpoints(task.work, task.name, model, optimizer, fabric.strategy.precision, writes)
    state = checkpoints.resume() or Progress(learning_rate=settings.learning_rate)
    return Run(task.name, fabric, wrapped, wrapped_optimizer, task.objective, settings, task.seed, checkpoints, state)


def _compiled(model: nn.Module) -> Any:
    """The model compiled beside itself: its own weights keep their names."""
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # the gradient of each term runs through one graph
    return torch.compile(model)


def write_history(history: list[Row], folder: Path) -> None:
    """Writes the rows as `history.json`, and as DVCLive's metrics and plots under `live/`."""
    from dvclive import Live

    write_json(folder / "history.json", history)
    with Live(str(folder / "live"), save_dvc_exp=False, dvcyaml=None, report=None) as live:
        for row in history:
            for name, value in row.items():
                live.log_metric(name, value)
            live.next_step()


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


def _train_epoch(run: Run, train_loader: WindowLoader, rates: list[float]) -> Row:
    """One pass over the training windows: means of the terms, and each term's gradient norm at its start."""
    run.model.train()
    state, accumulate = run.state, run.settings.accumulate
    batches = iter(_remaining(train_loader, state.batches))
    for rate in rates[math.ceil(state.batches / accumulate) :]:
        _step(run, list(itertools.islice(batches, accumulate)), rate)
        if state.batches < len(train_loader):
            run.checkpoints.save_if_due(state)
    return state.close_epoch()


def _remaining(train_loader: WindowLoader, done: int) -> WindowLoader:
    """The epoch's batches behind the first `done`, which are not read."""
    if done == 0:
        return train_loader
    order: Any = train_loader.batch_sampler
    return WindowLoader(
        train_loader.dataset,
        batch_sampler=list(order)[done:],
        collate_fn=train_loader.collate_fn,
        num_workers=train_loader.num_workers,
    )


def _step(run: Run, batches: list[Batch], rate: float) -> None:
    """One step of the optimizer, by the mean gradient over the windows of all `batches`."""
    _accumulate_gradients(run, batches)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    if run.settings.clip_norm is not None:
        clip, norm = run.fabric.clip_gradients, run.settings.clip_norm
        clip(run.model, run.optimizer, max_norm=norm, error_if_nonfinite=False)  # the next loss tells
    run.optimizer.step()
    run.before = [window for batch in batches for window in batch.windows.tolist()]


def _accumulate_gradients(run: Run, batches: list[Batch]) -> None:
    """Leaves the mean gradient over the windows of all `batches` and processes, and counts the terms."""
    here = [Counted(len(batch.windows), batch.labels) for batch in batches]
    everywhere = _mean_counts(run.fabric, batches, here)
    step = Counted(sum(each.windows for each in everywhere), sum(each.labelled for each in everywhere))
    place = f"step {run.state.batches // run.settings.accumulate + 1}"
    # several gradients through one graph, as their norms need, can only be exchanged between processes afterwards
    exchanged_after = run.state.batches == 0 and run.fabric.world_size > 1
    for number, (batch, own, mean) in enumerate(zip(batches, here, everywhere, strict=True), start=1):
        seed_generators(run.seed, run.state.epoch, run.state.batches, run.fabric.global_rank)  # for dropout
        with run.fabric.no_backward_sync(run.model, enabled=exchanged_after or number < len(batches)):
            terms = run.terms(run.fabric.to_device(batch), place)
            shares = own.shares(mean, terms.values)
            if run.state.batches == 0:
                run.state.gradients = _gradient_norms(run, terms, shares)
            if number == 1:
                run.optimizer.zero_grad()
            run.fabric.backward(terms.shared(own.shares(step, terms.values)))
        values = {name: shares[name] * value for name, value in terms.values.items()}
        run.state.count(mean_over_ranks(run.fabric, values), {name: mean.over(name) for name in values})
    if exchanged_after:
        gradients = _gradients(run.optimizer)
        for name, value in mean_over_ranks(run.fabric, gradients).items():
            gradients[name].copy_(value)


def _mean_counts(fabric: Fabric, batches: list[Batch], own: list[Counted]) -> list[Counted]:
    """Of each batch what a process has of it in the mean: shares are of one size, their labelled windows are not."""
    if fabric.world_size == 1 or batches[0].labelled is None:
        return own
    labelled = torch.tensor([counted.labelled for counted in own], device=fabric.device)
    means = mean_over_ranks(fabric, {"labelled": labelled})["labelled"].tolist()
    return [counted._replace(labelled=mean) for counted, mean in zip(own, means, strict=True)]


def _gradient_norms(run: Run, terms: Terms, shares: Mapping[str, float]) -> Row:
    """The norm of each weighted term's gradient: what share of a step each term can claim.

    shares: this process's in the batch that all have together. A norm that is not finite is left out: in half
    precision it may come with losses that are, and then the step is not taken.
    """
    scaler = getattr(run.fabric.strategy.precision, "scaler", None)  # 16-mixed multiplies the loss
    scale = scaler.get_scale() if scaler else 1.0
    norms: Row = {}
    for name, value in terms.values.items():
        run.optimizer.zero_grad()
        run.fabric.backward(terms.weights[name] * shares[name] * value, retain_graph=True)
        gradients = mean_over_ranks(run.fabric, _gradients(run.optimizer))
        squares = [gradient.float().pow(2).sum() for gradient in gradients.values()]
        norm = torch.stack(squares).sum().sqrt().item() / scale
        norms |= {f"gradient_{name}": norm} if math.isfinite(norm) else {}
    return norms


def _gradients(optimizer: Any) -> dict[str, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {str(i): parameter.grad for i, parameter in enumerate(parameters) if parameter.grad is not None}


@torch.no_grad()
def _validate(run: Run, batches: Iterable[Batch]) -> Row:
    """Means of the terms over the validation windows, in eval mode, over all processes."""
    run.model.eval()
    sums: dict[str, Tensor] = {}
    windows = torch.zeros((), device=run.fabric.device)
    for batch in batches:
        windows += len(batch.windows)
        for name, value in run.terms(batch, "validation").values.items():
            total = sums.get(name, torch.zeros((), device=run.fabric.device))
            sums[name] = total + value.double() * len(batch.windows)
    count: Any = run.fabric.all_reduce(windows, reduce_op="sum")
    totals: Any = {name: run.fabric.all_reduce(total, reduce_op="sum") for name, total in sums.items()}
    return {f"validation_{name}": (total / count).item() for name, total in totals.items()}


def _advance(state: Progress, loss: float, settings: Training) -> bool:
    """Counts the epoch, lowers the rate on a plateau; returns whether this epoch is the best so far."""
    state.epoch += 1
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_epoch, state.stale, state.stale_at_rate = loss, state.epoch, 0, 0
        return True
    state.stale += 1
    state.stale_at_rate += 1
    if state.stale_at_rate >= settings.plateau_epochs:
        state.learning_rate *= settings.plateau_factor
        state.stale_at_rate = 0
    return False
