"""What `/predict` takes and gives: JSON, a NumPy array or a NetCDF file, each refused in a sentence if it does not fit.

Bodies come from anywhere. Sizes are checked before memory is asked for them, and nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.serving.model import Model
from pipeline.serving.output import NetCDF
from pipeline.serving.reader import open_windows
from pipeline.serving.spec import Spec

WINDOWS_AT_ONCE = 16
NETCDF_MAGIC = (b"CDF", b"\x89HDF")
ONE_FILE = threading.Lock()  # the NetCDF library must not be called from two threads at once


class TooLargeError(UserError):
    """A body, or the forecasts it asks for, above the server's limit."""


def forecast(model: Model, inputs: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Forecasts of (N, t_in, C, H, W), some windows at a time. `limit`: bytes of all forecasts."""
    _check_answer(model.spec, len(inputs), limit)
    starts = range(0, len(inputs), WINDOWS_AT_ONCE)
    return np.concatenate([model.forecast(inputs[start : start + WINDOWS_AT_ONCE]) for start in starts])


def from_json(model: Model, body: bytes, limit: int) -> bytes:
    """{"inputs": [...]}, nested as (t_in, C, H, W) or (N, t_in, C, H, W) -> {"forecast": [...]}, nested alike."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("the body is not JSON") from None
    if not isinstance(tree, dict) or set(tree) != {"inputs"}:
        raise UserError('the body must be {"inputs": [...]}, an object with that one key')
    try:
        inputs = np.array(tree["inputs"], dtype=np.float32)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise UserError("inputs must be nested lists of numbers, all rows of one length") from None
    return json.dumps({"forecast": _array(model, inputs, limit).tolist()}, allow_nan=False).encode()


def from_npy(model: Model, body: bytes, limit: int) -> bytes:
    """A .npy file of (t_in, C, H, W) or (N, t_in, C, H, W), float32 or float64 -> one of the forecasts, float32."""
    stream = io.BytesIO(body)
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise UserError(f"the body is not a .npy file: {error}") from None
    if dtype not in (np.float32, np.float64) or fortran:
        order = "column" if fortran else "row"
        raise UserError(f"the array is {dtype} in {order} order; float32 in row order is expected")
    _check_shape(shape, model.spec)
    values = body[stream.tell() :]
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise UserError(f"the .npy file is cut short: {len(values)} bytes of an array {shape} of {dtype}")
    inputs = np.frombuffer(values, dtype).reshape(shape).astype(np.float32)
    written = io.BytesIO()
    np.save(written, _array(model, inputs, limit), allow_pickle=False)
    return written.getvalue()


def from_netcdf(model: Model, body: bytes, limit: int) -> bytes:
    """A NetCDF file -> one with the forecasts from every initial time in it, as `s2kd predict` writes them."""
    if not body.startswith(NETCDF_MAGIC):
        raise UserError("the body is not a NetCDF file")
    with ONE_FILE, tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "input.nc", Path(folder) / "forecast.nc"
        source.write_bytes(body)
        try:
            return _forecast_file(model, source, target, limit)
        except UserError as error:
            raise type(error)(str(error).replace(str(source), "the file")) from None


CONTENT: dict[str, Callable[[Model, bytes, int], bytes]] = {
    "application/json": from_json,
    "application/x-npy": from_npy,
    "application/x-netcdf": from_netcdf,
}


def _forecast_file(model: Model, source: Path, target: Path, limit: int) -> bytes:
    _check_declared(source, limit)
    windows = open_windows(str(source), model.spec)
    _check_answer(model.spec, len(windows), limit)
    with NetCDF(target, model.spec, windows.init_times, "Forecasts") as output:
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            output.write(start, model.forecast(windows.inputs(start, min(start + WINDOWS_AT_ONCE, len(windows)))))
    return target.read_bytes()


def _check_declared(path: Path, limit: int) -> None:
    """A small file can hold a huge array in compressed form: what it declares counts, not its own size."""
    import netCDF4

    try:
        with netCDF4.Dataset(path) as opened:
            declared = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in opened.variables.values())
    except (OSError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if declared > limit:
        raise TooLargeError(f"the file holds {declared / 1e6:.1f} MB; allowed are {limit / 1e6:g} MB")


def _array(model: Model, inputs: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Forecasts of one window or many, with as many dimensions as `inputs`."""
    _check_shape(inputs.shape, model.spec)
    if not np.isfinite(inputs).all():
        raise UserError("inputs hold NaN, infinity or a number beyond float32; the model needs a value at every point")
    one = inputs.ndim == 4
    forecasts = forecast(model, inputs[None] if one else inputs, limit)
    if not np.isfinite(forecasts).all():
        raise UserError("the forecast is beyond float32: inputs must be in the units of /metadata")
    return forecasts[0] if one else forecasts


def _check_shape(shape: tuple[int, ...], spec: Spec) -> None:
    if shape[-4:] != spec.input_shape or len(shape) not in (4, 5) or 0 in shape:
        words = ", ".join(map(str, spec.input_shape))
        raise UserError(f"inputs have the shape {shape}; the model takes ({words}) or (N, {words})")


def _check_answer(spec: Spec, windows: int, limit: int) -> None:
    size: Any = windows * spec.t_out * math.prod(spec.frame_shape) * 4
    if size > limit:
        raise TooLargeError(f"{windows} forecasts are {size / 1e6:.1f} MB; allowed are {limit / 1e6:g} MB")
