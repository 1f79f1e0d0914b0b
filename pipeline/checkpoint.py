"""The state of a training run on disk: weights, moments and the place in the data's order.

The order of the windows is drawn from the seed and the epoch alone (`windows.shuffled_loader`), so the epoch and
the number of batches done are its state. Generators are seeded anew for each batch, from its place in the run
(`seed_generators`), and have no state to save. A run that is killed anywhere therefore ends in the bytes of one that
was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.work import Work, write_json

log = logging.getLogger(__name__)

SECONDS_BETWEEN = 300.0  # of two checkpoints within an epoch

Row = dict[str, float]  # one epoch of the history


@dataclass
class Progress:
    """Where a run stands; all of it is saved, so a resumed run is the same run."""

    epoch: int = 0  # epochs done
    best_loss: float | None = None  # none before the first epoch's end
    best_epoch: int = 0
    stale: int = 0  # epochs since the best one
    stale_at_rate: int = 0  # epochs since the best one or since the rate last fell
    learning_rate: float = 0.0
    history: list[Row] = field(default_factory=list)
    # of the epoch under way
    batches: int = 0
    windows: Row = field(default_factory=dict)  # of each term: windows that it is over
    sums: Row = field(default_factory=dict)  # of each term over these windows
    gradients: Row = field(default_factory=dict)  # norms at the epoch's start

    def count(self, values: Mapping[str, Tensor], windows: Mapping[str, float]) -> None:
        """Takes in the terms of a batch, each a mean over so many windows."""
        self.batches += 1
        for name, value in values.items():
            self.windows[name] = self.windows.get(name, 0) + windows[name]
            self.sums[name] = self.sums.get(name, 0.0) + value.item() * windows[name]

    def close_epoch(self) -> Row:
        """The means over the epoch and its gradient norms; the next epoch starts from nothing."""
        means = {f"train_{name}": total / self.windows[name] for name, total in self.sums.items()}
        row = means | self.gradients
        self.batches, self.windows, self.sums, self.gradients = 0, {}, {}, {}
        return row


class Checkpoints:
    """Saves and takes up one run, as parts `name-<epoch>` or, within an epoch, `name-<epoch>-<batches>` of `work`.

    The newest alone is kept. `precision`: Fabric's plugin, which has a state where losses are scaled. `best`: the
    best weights so far. `writes`: of several processes one saves, and all take up what it has saved.
    """

    def __init__(
        self, work: Work, name: str, model: nn.Module, optimizer: Any, precision: Any, writes: bool = True
    ) -> None:
        self.writes = writes
        self.work = work
        self.name = name
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.best = weights(model)
        self._saved = time.monotonic()

    @property
    def newest(self) -> Path | None:
        return newest(self.work, self.name)

    def keep_best(self) -> None:
        """The present weights are the best so far."""
        self.best = weights(self.model)

    def save(self, state: Progress) -> None:
        """Saves the state as one part; only then are earlier ones removed."""
        if not self.writes:
            return
        within = f"-{state.batches:07d}" if state.batches else ""
        with self.work.part(f"{self.name}-{state.epoch:05d}{within}") as folder:
            folder.mkdir()
            save_file(weights(self.model), folder / "model.safetensors")
            save_file(self.best, folder / "best.safetensors")
            save_file(_flat(self.optimizer.state_dict()["state"]), folder / "optimizer.safetensors")
            write_json(folder / "precision.json", self.precision.state_dict())
            write_json(folder / "progress.json", vars(state))
        for earlier in sorted(self.work.folder.glob(f"{self.name}-*"))[:-1]:
            self.work.remove(earlier.name)
        self._saved = time.monotonic()

    def save_if_due(self, state: Progress) -> None:
        """Saves within an epoch, now and then; never weights that are lost, which would replace good ones."""
        if time.monotonic() - self._saved >= SECONDS_BETWEEN and finite(self.model):
            self.save(state)

    def resume(self) -> Progress | None:
        """Takes up the newest checkpoint, if there is one."""
        folder = self.newest
        if folder is None:
            return None
        state = Progress(**json.loads((folder / "progress.json").read_text()))
        step = f", batch {state.batches}" if state.batches else ""
        log.info("%s: resuming after epoch %d%s", self.name, state.epoch, step)
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.best = load_file(folder / "best.safetensors")
        moments = _nested(load_file(folder / "optimizer.safetensors"))
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.precision.load_state_dict(json.loads((folder / "precision.json").read_text()))
        return state


def newest(work: Work, name: str) -> Path | None:
    """The newest checkpoint of the run `name`."""
    return max(work.folder.glob(f"{name}-*"), default=None)


def best_weights(work: Work, name: str) -> dict[str, Tensor]:
    """The best weights of the finished run `name`."""
    folder = newest(work, name)
    assert folder is not None
    return load_file(folder / "best.safetensors")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state in main memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def seed_generators(*place: int) -> None:
    """Seeds every generator that a model may draw from by a place in a run: seed, epoch, batch, process.

    Places that differ in any number draw independently: processes drop other paths, as samples of one batch do.
    """
    digest = hashlib.sha256(repr(place).encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    torch.manual_seed(seed)  # of all devices
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _flat(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{index}.{key}": tensor.cpu() for index, moments in state.items() for key, tensor in moments.items()}


def _nested(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        nested.setdefault(int(index), {})[key] = tensor
    return nested
