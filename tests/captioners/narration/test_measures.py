"""Peaks between cells and where a pattern drifts, against fields whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.captioners.narration.measures import nearby_peak, peak, refined, vertex


@pytest.mark.parametrize("top", [-0.4, 0.0, 0.3])
def test_the_vertex_of_a_parabola_is_found_between_cells(top: float) -> None:
    assert vertex(*(-((at - top) ** 2) for at in (-1, 0, 1))) == pytest.approx(top)


def test_a_line_has_no_vertex_and_a_far_one_stays_within_half_a_cell() -> None:
    assert vertex(1, 2, 3) == 0
    assert vertex(*(-((at - 9) ** 2) for at in (-1, 0, 1))) == 0.5


def test_a_peak_is_refined_on_both_axes_and_around_a_periodic_grid() -> None:
    rows, columns = np.arange(12.0)[:, None], np.arange(20.0)[None, :]
    across = (columns - 19.8 + 10) % 20 - 10
    field = -((rows - 4.3) ** 2) - across**2
    assert peak(field, slice(0, None)) == (4, 0)
    assert refined(field, 4, 0, periodic=True) == pytest.approx((4.3, -0.2))
    assert nearby_peak(field, 4, 19, periodic=True) == (4, 20)  # beyond the last column, as movements count it
