"""Store -> torch data set of windows. Splits come from the store; nothing here decides what is test.

Fields and features are read through memory-mapped copies (`pipeline/mapped.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pipeline.batch import Batch, Text
from pipeline.embeddings import Embeddings
from pipeline.errors import UserError
from pipeline.features import Features, Forecasts
from pipeline.mapped import mapped
from pipeline.store import Split, Store, rows_per_shard


class WindowDataset(Dataset[Batch]):
    """The windows of one split; an item is a window's position within it, a fetch is a whole Batch.

    text: adds captions' token embeddings. features: adds the teacher's Z_fused. forecasts: adds the teacher's
    forecasts. limit: that many windows, evenly spaced over the split, instead of all. targets: that many of them,
    evenly spaced, may be learnt from by their targets, see `shown`.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        text: Embeddings | None = None,
        features: Features | None = None,
        limit: int | None = None,
        forecasts: Forecasts | None = None,
        targets: int | None = None,
    ) -> None:
        """Raises UserError if there are fewer windows than `targets`."""
        self.store = store
        self.numbers = _evenly_spaced(store.windows.of(split), limit)
        self.labelled: NDArray[np.bool_] | None = None
        if targets is not None:
            taught = features is not None or forecasts is not None
            self.numbers, self.labelled = shown(self.numbers, targets, taught)
        self.text = text
        self.features = features
        self.forecasts = forecasts
        self.fields = map_fields(store)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        numbers = self.numbers[indices]
        windows = self.store.windows
        starts, frames = windows.start[numbers], self._frames_by_start
        text = features = forecasts = None
        if self.text is not None:
            tokens, mask = self.text.tokens(numbers), self.text.mask(numbers)
            text = Text(torch.from_numpy(tokens).float(), torch.from_numpy(mask))
        if self.features is not None:
            features = torch.from_numpy(self.features.of(numbers)).float()
        if self.forecasts is not None:
            forecasts = torch.from_numpy(self.forecasts.of(numbers)).float()
        return Batch(
            windows=torch.from_numpy(numbers),
            inputs=torch.from_numpy(frames[:, : windows.t_in][starts]),
            targets=torch.from_numpy(frames[:, windows.t_in :][starts]),
            text=text,
            features=features,
            forecasts=forecasts,
            labelled=None if self.labelled is None else torch.from_numpy(self.labelled[indices]),
        )

    @property
    def _frames_by_start(self) -> NDArray[np.float32]:
        """(start, T_in + T_out, C, H, W): the frames of a window at each frame that one can start at.

        A view of the record in which windows overlap, so that a window is read in one piece. Made anew for each
        batch: it costs a microsecond, and pickled it would be the record as often as a window has frames.
        """
        windows, (time, *frame) = self.store.windows, self.fields.shape
        length = windows.t_in + windows.t_out
        starts = max(0, time - windows.step * (length - 1))
        strides = (self.fields.strides[0], windows.step * self.fields.strides[0], *self.fields.strides[1:])
        return np.ndarray((starts, length, *frame), self.fields.dtype, self.fields, 0, strides)


class WindowLoader(DataLoader[Batch]):
    """torch's loader; without workers it leaves out the profiler's mark on each batch, up to a fifth of the reading."""

    def __iter__(self) -> Any:
        if self.num_workers:
            return super().__iter__()
        dataset: Any = self.dataset
        batches: Any = self.batch_sampler
        return (dataset.__getitems__(indices) for indices in batches)


def loader(dataset: WindowDataset, batch_size: int, workers: int = 0) -> WindowLoader:
    """Batches of all windows, in their order; `workers` processes read them ahead."""
    return WindowLoader(dataset, batch_size=batch_size, collate_fn=_as_it_is, num_workers=workers)


def shuffled_loader(
    dataset: WindowDataset, batch_size: int, seed: int, rank: int, ranks: int, workers: int = 0
) -> WindowLoader:
    """Batches in an order that `loader.sampler.set_epoch` draws from the seed and the epoch's number alone.

    A resumed run therefore sees the order that an undisturbed one would have seen. Each of `ranks` processes
    gets its share, which `workers` processes of its own read ahead.
    """
    sampler: DistributedSampler[Batch] = DistributedSampler(dataset, num_replicas=ranks, rank=rank, seed=seed)
    return WindowLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is, num_workers=workers)


def map_fields(store: Store) -> NDArray[np.float32]:
    """(time, C, H, W) float32, physical units, memory-mapped."""
    names = [variable.name for variable in store.description.variables]
    shape = (len(store.times), len(names), *store.description.grid.shape)

    def parts() -> Iterator[tuple[int, NDArray[np.float32]]]:
        rows = rows_per_shard(store.array(names[0]))
        for start in range(0, shape[0], rows):
            yield start, store.frames(start, min(start + rows, shape[0]))

    return mapped("fields", store.path, shape, "float32", parts)


def shown(numbers: NDArray[np.int64], targets: int, taught: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What an epoch shows a student that has the targets of some windows alone, and which of that is labelled.

    With a teacher: every one of `numbers` once, labelled or not, and as many labelled ones, over and over. Without,
    labelled ones alone, as many in all: what is compared takes the same number of steps, of the same size. Raises
    UserError if there are fewer windows than `targets`.
    """
    if targets > len(numbers):
        raise UserError(f"distill.target_windows = {targets}, but there are {len(numbers)} training windows")
    own = _evenly_spaced(numbers, targets)
    if not taught:
        return np.resize(own, 2 * len(numbers)), np.ones(2 * len(numbers), bool)
    again = np.resize(own, len(numbers))
    return np.concatenate([numbers, again]), np.concatenate([np.isin(numbers, own), np.ones(len(again), bool)])


def _evenly_spaced(numbers: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    if limit is None or limit >= len(numbers):
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, limit).round().astype(int)]


def _as_it_is(batch: Any) -> Any:
    """`__getitems__` has made the batch already."""
    return batch
