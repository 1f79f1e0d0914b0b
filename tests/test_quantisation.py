from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.quantisation import QUANTISED, quantise
from pipeline.serving import spec as specs
from tests.exported import make_exported


@pytest.mark.slow
def test_eight_bits_forecast_nearly_the_same_and_repeat_byte_for_byte(tmp_path: Path) -> None:
    exported = make_exported(tmp_path)
    frames = exported.store.frames(0, 60)
    windows = np.stack([frames[start : start + 5 : 2] for start in range(40)])
    for name in ("a.onnx", "b.onnx"):
        quantise(exported.folder / specs.ONNX, tmp_path / name, [windows[:20], windows[20:]])
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    graph = onnx.load(tmp_path / "a.onnx").graph
    weighted = [node for node in graph.node if node.op_type in QUANTISED]
    fed = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert all(fed.issuperset(node.input[:2]) for node in weighted[:-1])
    assert not fed & set(weighted[-1].input), "the layer that gives the forecast stays in float32"
    import onnxruntime

    forecasts = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"inputs": windows})[0]
        for path in (exported.folder / specs.ONNX, tmp_path / "a.onnx")
    ]
    for index, each in enumerate(exported.spec.variables):
        difference = forecasts[0][:, :, index] - forecasts[1][:, :, index]
        assert 0 < np.sqrt(np.square(difference).mean()) < 0.05 * each.std
