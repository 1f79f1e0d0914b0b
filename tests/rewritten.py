"""Results on disk whose numbers a test may rewrite."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.results import Results
from pipeline.tables import Table


def rewrite(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree))


def changed(folder: Path, method: str, against: str, /, **numbers: object) -> Results:
    """The results with other numbers in one comparison."""
    differences = json.loads((folder / "differences.json").read_text())
    (found,) = [each for each in differences if (each["method"], each["against"]) == (method, against)]
    found |= numbers
    rewrite(folder / "differences.json", differences)
    return Results(folder)


def with_int8(folder: Path) -> Results:
    """The results as if S2-KD's student of seed 43 had been scored in 8 bits, where it errs by a half more."""
    scores = json.loads((folder / "metrics.json").read_text())["unet"]["s2kd"]
    float32 = {key: value for key, value in scores.items() if "_sd" not in key and "share" not in key} | {"mse": 0.5}
    comparison = {"student": "unet", "method": "int8", "against": "float32", "verdict": "worse", "seeds": 1}
    comparison |= {"difference": 0.25, "low": 0.125, "high": 0.375, "windows": 15, "block_windows": 3}
    tree = {
        "run": {"model": "unet", "method": "s2kd", "seed": 43},
        "scores": {"float32": float32, "int8": float32 | {"mse": 0.75}},
        "comparison": comparison,
    }
    rewrite(folder / "int8.json", tree)
    return Results(folder)


def row(table: Table, name: str) -> dict[str, str]:
    """The cells of a row by the columns' heads."""
    (found,) = [row for row in table.rows if row.name == name]
    return dict(zip(table.head[1:], found.cells, strict=True))
