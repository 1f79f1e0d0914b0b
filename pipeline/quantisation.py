"""The exported student in 8 bits: weights and activations of its convolutions and matrix products.

Static quantisation by ONNX Runtime: ranges of activations are measured on training windows. Normalisation, the sum
with the last input frame, and the layer that gives the forecast stay in float32, for an 8-bit step there would be an
error in every point of every field.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.serving.spec import ONNX, ONNX_INT8
from pipeline.store import Store
from pipeline.windows import WindowDataset, loader

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CALIBRATION_WINDOWS = 64  # of the training split, evenly spaced
BATCH = 16


def add_int8(folder: Path, store: Store) -> int:
    """Writes the 8-bit model beside an export's float32 one; returns how many training windows it is calibrated on.

    Equal float32 models and records give equal bytes.
    """
    train = WindowDataset(store, "train", limit=CALIBRATION_WINDOWS)
    quantise(folder / ONNX, folder / ONNX_INT8, (batch.inputs.numpy() for batch in loader(train, BATCH)))
    return len(train)


def quantise(source: Path, target: Path, calibration: Iterable[NDArray[np.float32]]) -> None:
    """Writes the 8-bit model of `source`. `calibration`: batches (B, T_in, C, H, W) of training windows."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        last = [node.name for node in onnx.load(prepared).graph.node if node.op_type in QUANTISED][-1]
        quantize_static(
            prepared,
            target,
            _reader(iter(calibration)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[last],
            calibrate_method=CalibrationMethod.MinMax,
        )


def _reader(batches: Iterator[NDArray[np.float32]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {"inputs": batch}

    return Reader()
