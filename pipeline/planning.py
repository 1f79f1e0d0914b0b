"""The plan of a record: its segments, the split of every frame, and the windows, before a value is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline import splits, store
from pipeline.errors import UserError
from pipeline.params import Choice, Environments, Ingest


@dataclass(frozen=True)
class Marks:
    """What the source says of its frames, see `pipeline.datasets.base.mark`; each (time,)."""

    segment: NDArray[np.integer] | None = None
    split: NDArray[np.str_] | None = None
    environment: NDArray[np.str_] | None = None
    context: NDArray[np.str_] | None = None
    environments: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # their parameters

    @property
    def simulation(self) -> NDArray[np.int64]:
        """(time,) numbers of the runs of frames that belong together, from 0, whatever gaps they have."""
        marked = self.segment if self.segment is not None else self.environment
        assert marked is not None, "a record of simulations has marks"
        return np.concatenate([[0], np.cumsum(marked[1:] != marked[:-1])])


@dataclass(frozen=True)
class Plan:
    """Where the windows lie, and which frames the training windows read."""

    frames: store.Frames
    frame_seconds: float
    windows: store.Windows
    training: NDArray[np.bool_]  # (time,)


def planned(times: NDArray[np.datetime64], marks: Marks, settings: Ingest) -> Plan:
    """Segments, splits and windows; raises UserError if a split would have no window."""
    count = settings.t_in + settings.t_out
    span = splits.span_of(count, settings.step)
    segment, milliseconds = splits.segments(times.astype("datetime64[ms]").astype(np.int64), marks.segment)
    environments, environment = _environments(marks, settings.environments)
    split_of_frame = _split_of_frame(times, span, marks, environments, settings)
    start, split = splits.windows(segment, split_of_frame, span, settings.stride)
    splits.check_every_split(split, segment, span)
    training = splits.frames_read(start[split == splits.TRAIN], count, settings.step, len(times))
    windows = store.Windows(start, split, settings.t_in, settings.t_out, settings.step)
    context = marks.context if marks.context is not None and marks.context.astype(bool).any() else None
    frames = store.Frames(segment, environment, environments, context)
    seconds = milliseconds / 1000
    return Plan(frames, int(seconds) if seconds == int(seconds) else seconds, windows, training)


def _split_of_frame(
    times: NDArray[np.datetime64],
    span: int,
    marks: Marks,
    environments: tuple[store.Environment, ...],
    settings: Ingest,
) -> NDArray[np.int8]:
    """(time,) by the data set's own word, by environment, by date or by fractions, whichever there is first."""
    if marks.split is not None:
        return splits.by_name(marks.split)
    if marks.environment is not None:
        return _by_environment(marks, environments, settings)
    if settings.splits.fractions:
        return splits.by_fractions(len(times), span, settings.splits.fractions)
    return splits.by_dates(times, span, settings.splits.periods)


# ---- environments


def _by_environment(marks: Marks, environments: tuple[store.Environment, ...], settings: Ingest) -> NDArray[np.int8]:
    if settings.splits.fractions is None:
        raise UserError("ingest.splits gives dates, but the record consists of simulations; give fractions of them")
    assert marks.environment is not None
    seen = {environment.name: environment.seen for environment in environments}
    first = np.unique(marks.simulation, return_index=True)[1]
    names = [str(name) for name in marks.environment[first]]
    is_seen, is_unseen = (np.array([seen.get(name) is wanted for name in names]) for wanted in (True, False))
    return splits.by_simulation(marks.simulation, is_seen, is_unseen, settings.splits.fractions)


def _environments(marks: Marks, chosen: Environments) -> tuple[tuple[store.Environment, ...], NDArray[np.int32] | None]:
    """The record's environments that are seen or unseen, and (time,) the position of each frame's; -1 is neither."""
    if marks.environment is None:
        if chosen.seen or chosen.unseen:
            raise UserError("ingest.environments names environments, but the data set has none")
        return (), None
    unseen = _chosen("unseen", chosen.unseen, marks.environments)
    named = _chosen("seen", chosen.seen, marks.environments)
    both = [name for name in named if name in unseen]
    if both:
        raise UserError(f"ingest.environments: '{both[0]}' is seen and unseen; an environment can be one of them")
    seen = named if chosen.seen is not None else set(marks.environments) - unseen
    listed = tuple(
        store.Environment(name, dict(parameters), name in seen)
        for name, parameters in marks.environments.items()
        if name in seen or name in unseen
    )
    position = {environment.name: number for number, environment in enumerate(listed)}
    return listed, np.array([position.get(str(name), -1) for name in marks.environment], np.int32)


def _chosen(key: str, choice: Choice | None, environments: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The names that a list or ranges of parameters choose; raises UserError for what is not there."""
    if choice is None:
        return set()
    if not isinstance(choice, dict):
        for name in choice:
            if name not in environments:
                raise UserError(f"ingest.environments.{key}: '{name}' is unknown; known: {', '.join(environments)}")
        return set(choice)
    for parameter in choice:
        lacking = [name for name, parameters in environments.items() if parameter not in parameters]
        if lacking:
            known = ", ".join(environments[lacking[0]]) or "none"
            raise UserError(
                f"ingest.environments.{key}: environment '{lacking[0]}' has no parameter '{parameter}'; it has {known}"
            )
    found = {
        name
        for name, parameters in environments.items()
        if all(low <= parameters[parameter] <= high for parameter, (low, high) in choice.items())
    }
    if not found:
        raise UserError(f"ingest.environments.{key}: no environment lies in {choice}; there are {dict(environments)}")
    return found
