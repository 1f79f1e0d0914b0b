"""Forecasts from every initial time of an input, batch by batch, into one NetCDF file or Zarr store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.serving.model import Model
from pipeline.serving.output import Output, format_of
from pipeline.serving.reader import Windows, open_windows
from pipeline.work import replacing

log = logging.getLogger(__name__)


def predict(
    model_folder: Path, source: str, target: Path, batch_size: int = 16, raw: bool = False, precision: str = "float32"
) -> int:
    """Writes `target` and returns how many forecasts it holds; nothing is left of it if anything goes wrong.

    Raises UserError for a model or input that does not fit, and where `target` is there already.
    """
    kind = format_of(target)
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or name another output")
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; at least 1 is expected")
    model = Model(model_folder, precision)
    windows = open_windows(source, model.spec, raw)
    batches = -(-len(windows) // batch_size)
    with replacing(target) as temporary:
        title = f"Forecasts of {', '.join(each.name for each in model.spec.variables)}"
        with kind(temporary, model.spec, windows.init_times, title) as output:
            for _ in progress(_forecasts(model, windows, output, batch_size), "predict", batches, "batch"):
                pass
    return len(windows)


def _forecasts(model: Model, windows: Windows, output: Output, batch_size: int) -> Iterator[int]:
    """Writes a batch for each number it yields."""
    for start in range(0, len(windows), batch_size):
        stop = min(start + batch_size, len(windows))
        output.write(start, model.forecast(windows.inputs(start, stop)))
        yield start
