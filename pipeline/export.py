"""The student alone, ready to leave the pipeline: traced to two formats, and compared with what was trained.

No projection, no teacher and no text go along. Normalisation is part of the graph, so that physical units go in and
come out; the number of windows in a batch is free, the grid is not.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.choice import Candidate
from pipeline.errors import UserError
from pipeline.models import parameter_count
from pipeline.params import Params
from pipeline.quantisation import add_int8
from pipeline.serving.model import Model
from pipeline.serving.spec import CONFIG, ONNX, TORCH, FieldSpec, GridSpec, Reader, Spec
from pipeline.store import Store
from pipeline.students.base import Student
from pipeline.windows import WindowDataset, loader
from pipeline.work import write_json

OPSET = 20  # the first with GELU
TOLERANCE = 1e-5  # of a field's training standard deviation
ROUNDINGS = 2  # of float32 at the field's largest value: what the same sum in another order may cost
CHECKED_WINDOWS = 16  # of the validation split, evenly spaced
BATCH = 16
NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")  # name this machine's files


def spec_of(student: Student, chosen: Candidate, store: Store, params: Params) -> Spec:
    """What the model was made for, for `config.json`."""
    description, windows = store.description, store.windows
    grid, statistics = description.grid, description.statistics
    rows, columns = grid.dims
    return Spec(
        student=chosen.student,
        method=chosen.method,
        seed=chosen.seed,
        parameters=parameter_count(student),
        description=description.text,
        time_stamps=description.time_stamps,
        t_in=windows.t_in,
        t_out=windows.t_out,
        step_seconds=windows.step * description.frame_seconds,
        variables=tuple(
            FieldSpec(**vars(variable), mean=float(mean), std=float(std))
            for variable, mean, std in zip(description.variables, statistics.mean, statistics.std, strict=True)
        ),
        grid=GridSpec.model_validate({"dims": (rows, columns), "y": grid.y, "x": grid.x, "units": grid.units}),
        reader=Reader(dataset=params.dataset, variables=params.ingest.variables, dimensions=params.ingest.dimensions),
    )


# ---- the two formats


def write(student: Student, spec: Spec, folder: Path) -> None:
    """Both formats, and what they were made for beside them."""
    write_json(folder / CONFIG, spec.model_dump(mode="json"))
    program = trace(student, torch.zeros(2, *spec.input_shape))
    write_torch(program, folder / TORCH)
    write_onnx(program, folder / ONNX)


class _Forecast(nn.Module):
    """The forecast alone of a student's outputs."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Tensor) -> Tensor:
        forecast: Tensor = self.student(inputs).forecast
        return forecast


def trace(student: Student, example: Tensor) -> torch.export.ExportedProgram:
    """The student's graph for any number of windows. `example`: (2, T_in, C, H, W), whose values do not matter."""
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.export.export(_Forecast(student).eval(), (example,), dynamic_shapes={"inputs": {0: batch}})
    for node in program.graph.nodes:
        for note in NOTES:
            node.meta.pop(note, None)
    program.example_inputs = None
    return program


def write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Equal programs give equal bytes. Nothing in the file is pickled: weights lie in it as plain bytes."""
    torch.export.save(program, path)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Equal programs give equal bytes."""
    with _quiet():
        exported: Any = torch.onnx.export(
            program, input_names=["inputs"], output_names=["forecast"], opset_version=OPSET, dynamo=True, verbose=False
        )
    model = exported.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]  # shapes between the two ends, which are derived anew
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of its own use of itself, and its exporter's lines on every constant that it folds."""
    for name in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


# ---- do they forecast what was trained?


def measured(student: Student, folder: Path, store: Store, int8: bool) -> dict[str, Any]:
    """How far the formats lie from the student, and the validation error (MSE of z-scores) of each precision.

    `int8` makes the 8-bit model too. The test split is not read here: it is `evaluate`'s alone.
    """
    validation = WindowDataset(store, "validation")
    shown = WindowDataset(store, "validation", limit=CHECKED_WINDOWS)
    difference = check(student, folder, shown.__getitems__(list(range(len(shown)))).inputs.numpy())
    errors = {"float32": _validation_error(Model(folder), validation)}
    found: dict[str, Any] = {"difference": difference, "validation": errors}
    if int8:
        windows = add_int8(folder, store)
        errors["int8"] = _validation_error(Model(folder, "int8"), validation)
        found["int8"] = {"calibration_windows": windows, "loss": errors["int8"] / errors["float32"] - 1}
    return found


def _validation_error(model: Model, validation: WindowDataset) -> float:
    std = np.array([each.std for each in model.spec.variables])[:, None, None]
    total = 0.0
    for batch in loader(validation, BATCH):
        scores = (model.forecast(batch.inputs.numpy()) - batch.targets.numpy().astype(np.float64)) / std
        total += float(np.square(scores).mean((1, 2, 3, 4)).sum())
    return total / len(validation)


@torch.no_grad()
def check(student: Student, folder: Path, inputs: NDArray[np.float32]) -> dict[str, float]:
    """The largest difference of each format from the student, in the field's training standard deviations.

    inputs: (N, T_in, C, H, W), forecast together and the first window alone. Raises UserError where a difference is
    above TOLERANCE and more than float32 can tell apart.
    """
    model = Model(folder)
    program = torch.export.load(folder / TORCH).module()
    formats = {"onnx": model.forecast, "torch": lambda fields: program(torch.from_numpy(fields)).numpy()}
    found = {}
    for name, forecast in formats.items():
        found[name] = max(
            _difference(name, student(torch.from_numpy(part)).forecast.numpy(), forecast(part), model.spec)
            for part in (inputs, inputs[:1])
        )
    return found


def _difference(name: str, expected: NDArray[np.float32], found: NDArray[np.float32], spec: Spec) -> float:
    worst = 0.0
    for index, each in enumerate(spec.variables):
        trained, exported = expected[:, :, index], found[:, :, index]
        largest = float(np.abs(trained - exported).max())
        allowed = max(TOLERANCE * each.std, ROUNDINGS * float(np.spacing(np.abs(trained).max())))
        if not largest <= allowed:  # NaN is not
            raise UserError(
                f"the {name} model forecasts {each.name} up to {largest:.3g} {each.units} off the trained student; "
                f"allowed is {allowed:.3g}. Nothing was exported"
            )
        worst = max(worst, largest / each.std)
    return worst
