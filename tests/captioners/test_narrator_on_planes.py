"""What the narrator says of cities and fires is true: each number and word is measured again from the fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.captioners.narration.chart import Chart
from pipeline.captioners.narration.paragraph import paragraph
from pipeline.captioners.narrator import balance, narrate
from pipeline.store import Description, Grid, Variable
from tests.planes import BURNING, CITY, TAXIS, TUNNEL, city, described, fire

PLACE = r"at (upper|middle|lower) (left|centre|right) \(x (-?[\d.]+) y (-?[\d.]+)\)"
WINDOWS = [("city", start) for start in range(0, 90, 6)] + [("fire", start) for start in range(0, 50, 5)]
RECORDS = {
    "city": (city(200), TAXIS, CITY, 1800.0),
    "fire": (fire(60), BURNING, TUNNEL, 1.0),
}


def window(name: str, start: int, frames: int = 5) -> CaptionRequest:
    fields, variables, grid, seconds = RECORDS[name]
    times = np.datetime64("2001-01-01", "ms") + np.arange(frames) * np.timedelta64(int(1000 * seconds), "ms")
    return CaptionRequest(0, fields[start : start + frames], times, described(fields, variables, grid, seconds))


def told(of: CaptionRequest) -> Iterator[tuple[int, NDArray[np.floating], str]]:
    """Each variable with its frames and its sentence, told alone so that nothing is left out for want of room."""
    for number, variable in enumerate(of.description.variables):
        statistics = of.description.statistics
        alone = replace(
            of.description,
            variables=(variable,),
            statistics=type(statistics)(*(values[number : number + 1] for values in vars(statistics).values())),
        )
        text = narrate(replace(of, inputs=of.inputs[:, number : number + 1], description=alone))
        yield number, of.inputs[:, number].astype(float), text


def balanced(of: CaptionRequest) -> str:
    """All that is said of the two flows, whether the caption has room for it or not."""
    charts = [Chart(of.inputs[:, number].astype(float), of, number) for number in range(2)]
    return paragraph(list(balance(charts, of)))


def two_digits(text: str, value: float) -> bool:
    """Whether `text` is `value` to two digits."""
    return abs(float(text) - value) <= 0.051 * 10 ** np.floor(np.log10(max(abs(value), 1e-9))) * 10


def near(words: re.Match[str], row: int, column: int, grid: Grid) -> bool:
    """Whether a place that was told is a cell: within half of what places are rounded to, and in its third."""
    vertical, horizontal, x, y = words.groups()[-4:]
    thirds = (("lower", "middle", "upper").index(vertical), ("left", "centre", "right").index(horizontal))
    shares = (row / (len(grid.y) - 1), column / (len(grid.x) - 1))
    sides = all(
        third / 3 - 0.02 <= share <= (third + 1) / 3 + 0.02 for third, share in zip(thirds, shares, strict=True)
    )
    off = (abs(float(y) - grid.y[row]) / np.ptp(grid.y), abs(float(x) - grid.x[column]) / np.ptp(grid.x))
    return sides and max(off) <= 0.03


@pytest.mark.parametrize(("name", "start"), WINDOWS)
def test_mean_trend_and_highest_value_are_those_of_the_frames(name: str, start: int) -> None:
    of = window(name, start)
    for _, frames, text in told(of):
        mean = re.search(r": mean (-?[\d.]+), ", text)
        assert mean
        assert two_digits(mean[1], frames[-1].mean()), text
        rise = frames[-1].mean() - frames[0].mean()
        trend = re.search(r"(rising|warming|falling|cooling) by ([\d.]+)[;.]", text)
        if trend:
            assert (trend[1] in ("rising", "warming")) == (rise > 0), text
            assert two_digits(trend[2], abs(rise)), text
        highest = re.search(rf"(?:highest|hottest) (-?[\d.]+) {PLACE}", text)
        assert highest, text
        row, column = np.unravel_index(np.argmax(frames[-1]), frames[-1].shape)
        assert two_digits(highest[1], frames[-1].max()), text
        assert near(highest, int(row), int(column), of.description.grid), text


@pytest.mark.parametrize(("name", "start"), WINDOWS)
def test_the_area_that_stands_out_and_the_sides_it_spreads_to_are_counted(name: str, start: int) -> None:
    of = window(name, start)
    grid, statistics = of.description.grid, of.description.statistics
    for number, frames, text in told(of):
        found = re.search(
            r"above (-?[\d.]+) in ([\d.]+) % of area(?:, (spreading|shrinking)([^;.]*(?:\.\d[^;.]*)*))?", text
        )
        if not found:
            nowhere = re.search(r"nowhere above (-?[\d.]+)", text)
            assert nowhere, text
            assert frames[-1].max() <= float(nowhere[1])
            continue
        threshold = float(found[1])
        assert two_digits(found[1], statistics.mean[number] + statistics.std[number]), text
        first, last = frames[0] > threshold, frames[-1] > threshold
        assert two_digits(found[2], 100 * last.mean()), text
        if found[3]:
            assert (found[3] == "spreading") == (last.sum() > first.sum()), text
        else:
            assert abs(int(last.sum()) - int(first.sum())) <= max(1, 0.05 * first.sum())
        for side, distance in re.findall(r"(left|right|up|down) by ([\d.]+)", found[4] or ""):
            axis, at_end = (1, side == "right") if side in ("left", "right") else (0, side == "up")
            values = (grid.y, grid.x)[axis]
            rims = [values[np.flatnonzero(mask.any(axis=1 - axis))[-1 if at_end else 0]] for mask in (first, last)]
            moved = (rims[1] - rims[0]) * (1 if at_end else -1)
            assert moved > 0, text
            assert abs(moved - float(distance)) <= 0.03 * np.ptp(values), text


def test_a_fire_is_said_to_spread_to_the_side_its_smoke_goes() -> None:
    sides = [
        re.findall(r"spreading (left|right)", text) for s in range(5, 25, 5) for _, _, text in told(window("fire", s))
    ]
    assert any(sides)
    assert {side for found in sides for side in found} == {"right"}  # faster than left


@pytest.mark.parametrize("start", range(0, 90, 6))
def test_the_balance_of_two_flows_is_that_of_their_totals_and_its_places_are_the_largest(start: int) -> None:
    of = window("city", start, frames=2)
    text = balanced(of)
    inflow, outflow = of.inputs[-1].astype(float)
    total = re.search(r"Balance: (\w+) exceeds (\w+) by ([\d.]+) %", text)
    if total:
        more, less = {"inflow": (inflow, outflow), "outflow": (outflow, inflow)}[total[1]]
        assert more.sum() > less.sum()
        assert two_digits(total[3], 100 * (more.sum() / less.sum() - 1)), text
    else:
        assert "as much inflow as outflow" in text
        assert abs(inflow.sum() / outflow.sum() - 1) < 0.006
    for place in re.finditer(rf"(\w+) exceeds \w+ most {PLACE} by", text):
        lead = inflow - outflow if place[1] == "inflow" else outflow - inflow
        row, column = np.unravel_index(np.argmax(lead), lead.shape)
        assert near(place, int(row), int(column), CITY), text


def test_rush_hours_are_told_apart_by_where_more_enters_than_leaves() -> None:
    """In the morning the centre fills, in the evening it empties."""

    def surplus(frame: int) -> str:
        fields = RECORDS["city"][0][frame - 1 : frame + 1]
        of = replace(window("city", 0, 2), inputs=fields)
        found = re.search(rf"inflow exceeds outflow most {PLACE}", balanced(of))
        assert found
        return found[2]

    assert surplus(16) == "centre"
    assert surplus(36) != "centre"


def test_there_is_no_balance_of_fields_that_are_not_alike_or_may_be_negative() -> None:
    of = window("city", 10)
    assert "Balance" in narrate(of)
    assert "Balance" not in narrate(window("fire", 10))
    other = (TAXIS[0], Variable("speed", "m s-1", "speed"))
    assert "Balance" not in narrate(replace(of, description=replace(of.description, variables=other)))
    statistics = of.description.statistics
    signed = replace(statistics, climatology=statistics.climatology - np.float32(5))
    assert "Balance" not in narrate(replace(of, description=replace(of.description, statistics=signed)))


def test_places_on_a_plane_are_in_the_units_of_its_axes() -> None:
    of = window("fire", 20)
    text = narrate(of)
    assert re.search(r"hottest \d+ at lower centre \(x 36 y 0\.2\)", text), text
    assert "hot spot" in text or "cool spot" in text
    assert not re.search(r"north|south|east|west|UTC", text)


def shifted(description: Description, by: float) -> Description:
    grid = description.grid
    return replace(description, grid=replace(grid, x=grid.x + by))


def test_an_axis_may_begin_anywhere() -> None:
    of = window("fire", 20)
    moved = narrate(replace(of, description=shifted(of.description, -200.0)))
    assert "x -164 y" in moved
    assert re.sub(r"x -?[\d.]+", "x", moved) == re.sub(r"x -?[\d.]+", "x", narrate(of))
