"""What ends a training run early, said in a sentence: a loss that is not finite, and memory that ran out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import Training, TrainTeacher


def all_finite(values: Mapping[str, Tensor]) -> bool:
    return bool(torch.isfinite(torch.stack([value.detach().float() for value in values.values()])).all())


def not_finite(
    place: str,
    values: Mapping[str, Tensor],
    windows: Tensor,
    settings: Training,
    checkpoint: Path | None,
    spoilt_by: list[int] | None = None,
) -> UserError:
    """The error for a loss that is NaN or infinite: `place`, the windows, every term and what to try.

    `checkpoint`: the last good one, which stays. `spoilt_by`: windows of the step before, if it was that step
    whose gradients left weights that are not finite.
    """
    terms = ", ".join(f"{name} = {value.item():g}" for name, value in values.items())
    cause = f" The step before, windows {spoilt_by}, had left weights that are not." if spoilt_by is not None else ""
    kept = f"{checkpoint} is kept." if checkpoint else "There is no checkpoint yet."
    section = settings.section
    ways = [f"a {section}.learning_rate below {settings.learning_rate:g}"]
    ways += [f"{section}.clip_norm: 1.0"] if settings.clip_norm is None else []
    ways += [f"{section}.precision: 32-true"] if settings.precision != "32-true" else []
    return UserError(
        f"{place}: the loss is not finite: {terms}; windows {windows.tolist()}.{cause} {kept} Try {', '.join(ways)}, "
        "or look at the fields of these windows"
    )


@contextmanager
def memory_told(place: str, advice: str) -> Iterator[None]:
    """Turns running out of memory, on a device or here, into a UserError; `advice` names the settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(place, advice, error) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # it has no class of its own
            raise
        raise _out_of_memory(place, advice, error) from error


def _out_of_memory(place: str, advice: str, error: Exception) -> UserError:
    words = str(error).strip().partition("\n")[0] or type(error).__name__
    return UserError(f"{place}: out of memory ({words}). {advice}")


def smaller_batches(section: str, size: int) -> str:
    """What saves memory where a model is run and nothing is learnt."""
    return f"Lower {section}.batch_size = {size}" if size > 1 else f"{section}.batch_size is 1 already"


def smaller_steps(settings: Training) -> str:
    """What saves memory in training, the cheapest first."""
    section, size = settings.section, settings.batch_size
    ways = smaller_batches(section, size)
    if size > 1:
        ways += f" and raise {section}.accumulate = {settings.accumulate} by the same factor"
        ways += ", which leaves a step what it is"
    ways += f"; or choose smaller {section}.sizes"
    if settings.precision == "32-true":
        ways += f", or {section}.precision: bf16-mixed"
    if isinstance(settings, TrainTeacher) and not settings.checkpoint_activations:
        ways += f", or {section}.checkpoint_activations: true"
    return f"{ways}. Checkpoints are kept"
