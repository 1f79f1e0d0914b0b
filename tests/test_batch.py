from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.batch import Batch, Text


def batch(**changes: Any) -> Batch:
    parts: dict[str, Any] = {
        "windows": torch.arange(3),
        "inputs": torch.zeros(3, 2, 1, 4, 5),
        "targets": torch.zeros(3, 1, 1, 4, 5),
        "text": Text(torch.zeros(3, 7, 2), torch.ones(3, 7, dtype=torch.bool)),
        "features": torch.zeros(3, 20, 6),
        "forecasts": torch.zeros(3, 1, 1, 4, 5),
    }
    return Batch(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.zeros(2, 2, 1, 4, 5)}, "3 windows, 2 inputs"),
        ({"targets": torch.zeros(4, 1, 1, 4, 5)}, "4 targets"),
        ({"targets": torch.zeros(3, 1, 1, 5, 4)}, "grids differ"),
        ({"features": torch.zeros(2, 20, 6)}, "2 captions or features"),
        ({"forecasts": torch.zeros(3, 2, 1, 4, 5)}, r"forecasts \(3, 2, 1, 4, 5\), targets"),
        ({"text": Text(torch.zeros(2, 7, 2), torch.ones(2, 7, dtype=torch.bool))}, "2 captions or features"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch(**changes)


@pytest.mark.parametrize("mask", [torch.ones(3, 6, dtype=torch.bool), torch.ones(3, 7)])
def test_a_mask_must_be_boolean_and_as_long_as_its_tokens(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Text(torch.zeros(3, 7, 2), mask)


def test_moving_takes_every_part_along() -> None:
    moved = batch().to("meta")
    assert moved.text is not None
    assert moved.features is not None
    assert moved.forecasts is not None
    parts = (moved.windows, moved.inputs, moved.targets, moved.text.tokens, moved.text.mask, moved.features)
    assert {part.device.type for part in (*parts, moved.forecasts)} == {"meta"}


def test_a_batch_without_text_and_features_moves_too() -> None:
    moved = batch(text=None, features=None).to("meta")
    assert moved.text is None
    assert moved.features is None
