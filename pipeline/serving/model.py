"""The exported student behind one call, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.serving import spec as specs


class Model:
    """Forecasts of the model in an export's folder; `precision` is float32 or int8, where that was exported.

    Safe to call from several threads at once.
    """

    def __init__(self, folder: Path, precision: str = "float32") -> None:
        """Raises UserError if the folder holds no such model, or ONNX Runtime cannot read it."""
        self.spec = specs.read(folder)
        self.precision = precision
        self.path = folder / specs.PRECISION[precision]
        if not self.path.is_file():
            hint = "; export.int8 = true in params.yaml makes it" if precision == "int8" else ""
            raise UserError(f"{self.path} is missing{hint}")
        self._session = _session(self.path)
        self._check_shape()

    def forecast(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, t_in, C, H, W) -> (B, t_out, C, H, W), float32, physical units."""
        (forecast,) = self._session.run(None, {"inputs": np.ascontiguousarray(inputs, dtype=np.float32)})
        return np.asarray(forecast)

    def _check_shape(self) -> None:
        found = tuple(self._session.get_inputs()[0].shape[1:])
        if found != self.spec.input_shape:
            raise UserError(f"{self.path} takes {found}, and {specs.CONFIG} beside it says {self.spec.input_shape}")


def _session(path: Path) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile
    except ImportError:
        raise UserError("forecasting needs ONNX Runtime, which is not installed: pip install 's2kd[serve]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings speak of its own optimisations
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise UserError(f"{path} cannot be read; it is cut short, damaged or no ONNX model: {error}") from None
