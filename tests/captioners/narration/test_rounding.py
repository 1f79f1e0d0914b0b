"""Numbers as the narrator says them: two digits, round grains, and the bin a value falls into."""

from __future__ import annotations

import pytest

from pipeline.captioners.narration.rounding import binned, number, round_below, rounded, smaller


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234, "1200"),
        (0.0456, "0.046"),
        (9.96, "10"),
        (99.7, "100"),
        (1.5, "1.5"),
        (2.0, "2"),
        (-3.14, "-3.1"),
    ],
)
def test_numbers_have_two_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_grains_are_one_two_and_five_times_powers_of_ten() -> None:
    assert [round_below(value) for value in (1, 1.9, 2, 4.99, 5, 99, 0.03)] == pytest.approx([1, 1, 2, 2, 5, 50, 0.02])
    assert [smaller(grain) for grain in (1, 2, 5, 10, 0.5)] == pytest.approx([0.5, 1, 2, 5, 0.2])


def test_a_value_is_rounded_to_its_grain_without_a_negative_zero() -> None:
    assert rounded(7.4, 5) == 5
    assert f"{rounded(-0.04, 0.1):g}" == "0"


def test_there_is_one_more_name_than_edges() -> None:
    assert [binned(value, (1, 2), ("low", "middle", "high")) for value in (0, 1.5, 9)] == ["low", "middle", "high"]
