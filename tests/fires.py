"""Tiny simulated fires on disk, in each format that the reader of Prometheus takes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SHAPE = (5, 8)
UNITS = {"temperature": "K", "soot_visibility": "m", "velocity": "m/s"}
Fields = dict[str, NDArray[np.float32]]


def fire(
    frames: int = 12, seed: int = 0, shape: tuple[int, int] = SHAPE, names: Sequence[str] = tuple(UNITS)
) -> Fields:
    """(frames, H, W) by field: noise about a mean that only this field has."""
    rng = np.random.default_rng(seed)
    return {
        name: np.float32(10 * (1 + k)) + rng.normal(size=(frames, *shape)).astype("f4") for k, name in enumerate(names)
    }


def write_hdf5(path: Path, fields: Fields, interval: float = 0.5, **attributes: Any) -> None:
    """A data set for each field; `attributes` are the file's own."""
    frames, height, width = next(iter(fields.values())).shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (
            ("time", interval * np.arange(frames)),
            ("y", 0.5 + np.arange(height)),
            ("x", 2.0 * np.arange(width)),
        ):
            file[name] = values
        for name, values in fields.items():
            file[name] = values
            file[name].attrs["units"] = UNITS.get(name, "1")
        file.attrs.update(attributes)


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_environments(folder: Path, environment_of: Mapping[str, str], power_of: Mapping[str, float]) -> None:
    rows = [
        {"simulation": simulation, "environment": environment, "heat_release_rate_MW": power_of[environment]}
        for simulation, environment in environment_of.items()
    ]
    write_table(folder, "environments.csv", rows)


# ---- the Fire Dynamics Simulator's own output


def write_fds(
    folder: Path,
    slices: Sequence[tuple[str, str, str, int]],
    values: Mapping[str, NDArray[np.float32]],
    times: NDArray[np.floating],
    cells: tuple[int, int, int] = (6, 4, 4),
    split_at: int = 0,
    size: float = 0.5,
    centred: bool = False,
) -> None:
    """A run of `cells` cells of `size` metres, in two meshes that meet at cell `split_at` of x, if it is not 0.

    slices: quantity, units, axis of the plane and its node along that axis. values, by quantity: (T, rows, columns)
    at the plane's nodes, or in its cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [(0, split_at), (split_at, cells[0])] if split_at else [(0, cells[0])]
    lines = ["TITLE", " A test", "", "VERSION", "FDS6.7.9", "", "CHID", " fire", "", "NMESHES", f" {len(bounds)}", ""]
    lines += ["SURFACE", " INERT", "  5000.00    0.90", " 0 1.0 1.0 1.0 0.8 0.4 1.0", " null", ""]
    for number, (low, high) in enumerate(bounds, 1):
        lines += _mesh(number, [(low, high), (0, cells[1]), (0, cells[2])], size)
    for index, (quantity, units, axis, node) in enumerate(slices, 1):
        for number, (low, high) in enumerate(bounds, 1):
            last = {"x": high - low, "y": cells[1], "z": cells[2]}
            nodes = {name: (node, node) if name == axis else (0, last[name]) for name in "xyz"}
            file = f"fire_{number}_{index}.sf"
            indices = " ".join(f"{a} {b}" for a, b in nodes.values())
            lines += [f"{'SLCC' if centred else 'SLCF'} {number} # STRUCTURED & {indices} ! {index} 0"]
            lines += [f" {file}", f" {quantity}", f" {quantity[:4].lower()}", f" {units}"]
            own = values[quantity] if axis == "x" else values[quantity][..., low : high + (0 if centred else 1)]
            _write_slice(folder / file, (quantity, quantity[:4].lower(), units), nodes, times, own, centred)
    (folder / "fire.smv").write_text("\n".join(lines) + "\n")


def _mesh(number: int, nodes: Sequence[tuple[int, int]], size: float) -> list[str]:
    counts = [high - low for low, high in nodes]
    edges = " ".join(f"{size * edge:.5f}" for pair in nodes for edge in pair)
    lines = [f"GRID MESH_{number}", " ".join(map(str, counts)) + " 0", "", "PDIM", f"{edges} 0.0 0.0 0.0", ""]
    for name, (low, high) in zip("XYZ", nodes, strict=True):
        lines += [f"TRN{name}", " 0", *(f" {i} {size * (low + i):.5f}" for i in range(high - low + 1)), ""]
    return [*lines, "OBST", " 0", "", "VENT", " 0 0", "", "CVENT", " 0", ""]


def _write_slice(
    path: Path,
    labels: Sequence[str],
    nodes: Mapping[str, tuple[int, int]],
    times: NDArray[np.floating],
    values: NDArray[np.float32],
    centred: bool,
) -> None:
    """Fortran records: three texts, the node indices, then time and values of each frame, x fastest."""
    if centred:  # the first row and column are not values of cells
        values = np.pad(values, ((0, 0), (1, 0), (1, 0)), constant_values=-999)
    with path.open("wb") as stream:
        for label in labels:
            _record(stream, f"{label:30s}".encode())
        _record(stream, np.array(list(nodes.values()), "<i4").tobytes())
        for time, frame in zip(times, values, strict=True):
            _record(stream, np.float32(time).tobytes())
            _record(stream, np.ascontiguousarray(frame, "<f4").tobytes())


def _record(stream: object, content: bytes) -> None:
    length = np.array(len(content), "<i4").tobytes()
    stream.write(length + content + length)  # type: ignore[attr-defined]
