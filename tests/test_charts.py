from __future__ import annotations

import numpy as np
import pytest

from pipeline.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    category_chart,
    intervals,
    line_chart,
    map_frame,
)
from pipeline.store import Grid


def test_points_and_ticks_lie_where_their_values_say() -> None:
    chart = line_chart("t", "x", "y", [Series("a", "m1", [0, 5, 10], [1, 3, 2])])
    (line,) = chart.lines
    assert [x for x, _ in line.points] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT])
    heights = {tick.label: tick.position for tick in chart.y_ticks}
    assert [y for _, y in line.points] == pytest.approx([heights["1"], heights["3"], heights["2"]])
    assert heights["3"] < heights["1"]  # upwards
    assert all(TOP <= position <= HEIGHT - BOTTOM for position in heights.values())


def test_a_logarithmic_axis_spaces_equal_factors_equally() -> None:
    chart = line_chart("t", "x", "y", [Series("a", "m1", [1, 2, 3], [0.01, 0.1, 1])], log=True)
    heights = [y for _, y in chart.lines[0].points]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])
    assert {"0.01", "0.1", "1"} <= {tick.label for tick in chart.y_ticks}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_values_that_an_axis_cannot_show_are_left_out(bad: float) -> None:
    chart = line_chart("t", "x", "y", [Series("a", "m1", [1, 2, 3], [1.0, bad, 2.0])], log=True)
    assert len(chart.lines[0].points) == 2


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[], [2.0], [2.0, 2.0]])
def test_a_chart_of_nothing_one_point_or_a_constant_can_be_drawn(values: list[float], log: bool) -> None:
    chart = line_chart("t", "x", "y", [Series("a", "m1", range(len(values)), values)], log=log)
    assert all(np.isfinite(chart.lines[0].points).flatten())


def test_the_legend_names_repeats_once() -> None:
    chart = line_chart(
        "t", "x", "y", [Series("a", "m1", [1], [1]), Series("a", "m1", [1], [2]), Series("b", "m2", [1], [3])]
    )
    assert [line.name for line in chart.legend] == ["a", "b"]


def test_a_global_map_is_half_as_high_as_wide_and_labelled_east_and_west() -> None:
    grid = Grid(("latitude", "longitude"), -90 + (np.arange(32) + 0.5) * 180 / 32, np.arange(64) * 360 / 64)
    frame = map_frame(grid)
    assert frame.picture_height == pytest.approx(frame.picture_width / 2)
    labels = {tick.label: tick.position for tick in frame.x_ticks}
    assert {"90°E", "180°", "90°W"} <= set(labels)
    middle = frame.left + frame.picture_width / 2
    assert labels["180°"] == pytest.approx(middle, abs=frame.picture_width / 64)
    rows = {tick.label: tick.position for tick in frame.y_ticks}
    assert rows["60°N"] < rows["0°"] < rows["60°S"]


def test_a_regional_map_keeps_the_shape_of_the_land() -> None:
    grid = Grid(("latitude", "longitude"), np.linspace(50, 60, 21), np.linspace(-8, 2, 21))
    frame = map_frame(grid)
    assert frame.picture_height / frame.picture_width == pytest.approx(1 / np.cos(np.deg2rad(55)), rel=0.01)
    assert all("°" in tick.label for tick in frame.x_ticks)


def test_a_plane_has_plain_numbers() -> None:
    frame = map_frame(Grid(("y", "x"), np.linspace(0, 9, 10), np.linspace(0, 19, 20)))
    assert not any("°" in tick.label for tick in (*frame.x_ticks, *frame.y_ticks))


def test_both_axes_can_be_logarithmic_and_a_power_law_is_straight() -> None:
    wavenumber = np.array([0, 1, 10, 100])
    series = Series("a", "m1", wavenumber, np.array([9.0, 1.0, 1e-3, 1e-6]))
    chart = line_chart("t", "x", "y", [series], log=True, log_x=True)
    (x0, y0), (x1, y1), (x2, y2) = chart.lines[0].points  # wavenumber 0 has no place
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1))
    assert {"1", "10", "100"} <= {tick.label for tick in chart.x_ticks}


def test_a_mark_stands_where_its_value_says() -> None:
    chart = line_chart("t", "x", "y", [Series("a", "m1", [0, 5, 10], [1, 2, 3])], mark=5)
    assert chart.mark == pytest.approx(chart.lines[0].points[1][0])


def test_intervals_share_a_scale_that_holds_zero_and_what_leaves_it_is_marked() -> None:
    rows = [(-0.1, -0.2, 0.0, -0.3, 0.1), (0.2, 0.1, 0.3, None, None), (-9.0, -10.0, -8.0, -11.0, -7.0)]
    first, second, far = intervals(rows, [True, True, False])
    assert first.zero == second.zero == far.zero
    assert first.high == first.zero  # both are 0
    assert (first.middle - first.zero) / (second.middle - second.zero) == pytest.approx(-0.5)  # type: ignore[operator]
    assert 0 < first.outer_low < first.low < first.middle < first.high < first.outer_high  # type: ignore[operator]
    assert second.outer_low is None
    assert (first.beyond, second.beyond, far.beyond) == (0, 0, -1)
    assert far.low == far.high == far.middle == 0


def test_intervals_without_a_row_to_scale_by_are_scaled_by_all() -> None:
    (only,) = intervals([(-9.0, -10.0, -8.0, None, None)], [False])
    assert only.beyond == 0
    assert only.low is not None
    assert 0 < only.low < 100


def test_points_of_a_category_stand_beside_each_other_with_their_spread() -> None:
    series = [Series("a", "a", [0, 1, 2], [2.0, 4.0, 3.0], [0.5, 0.0, 1.0]), Series("b", "b", [0, 1, 2], [3.0] * 3)]
    chart = category_chart("title", "kind", "error", ["one", "two", "three"], series)
    assert [tick.label for tick in chart.x_ticks] == ["one", "two", "three"]
    first, second = chart.lines
    assert not first.joined
    for tick, (x, _), (other, _) in zip(chart.x_ticks, first.points, second.points, strict=True):
        assert x < tick.position < other
        assert tick.position - x == pytest.approx(other - tick.position)
    (_, low), (_, high), (_, middle) = first.points
    assert middle == pytest.approx((low + high) / 2)
    for (x, y), (at, top, bottom), spread in zip(first.points, first.whiskers, (0.5, 0.0, 1.0), strict=True):
        assert at == x
        assert (bottom - y, y - top) == pytest.approx((spread * (low - high) / 2,) * 2)
    assert all(top == bottom for _, top, bottom in second.whiskers)
