from __future__ import annotations

import sys

import pytest

from pipeline.errors import UserError
from pipeline.registry import Registry

TABLE = Registry("colour", {"red": "colorsys:rgb_to_hls", "blue": "colorsys:rgb_to_hsv"})


def test_it_is_a_mapping_in_the_order_of_its_table() -> None:
    assert list(TABLE) == ["red", "blue"]
    assert len(TABLE) == 2
    assert "red" in TABLE
    assert "green" not in TABLE
    assert TABLE["blue"] == "colorsys:rgb_to_hsv"


def test_an_entry_is_imported_only_when_it_is_chosen() -> None:
    sys.modules.pop("colorsys", None)
    list(TABLE.items())
    assert "colorsys" not in sys.modules
    loaded = TABLE.load("red")
    import colorsys

    assert loaded is colorsys.rgb_to_hls


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown colour 'green'; known: red, blue"):
        TABLE.load("green")
