"""Colour scales come from the training statistics, and have no colours for what cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline import pictures
from pipeline.store import Variable
from tests.fields import describe
from tests.pictures.waves import HIGH, LOW, PLANE


def test_scales_come_from_training_statistics_and_small_changes_leave_them_alone() -> None:
    description = describe((8, 16))
    assert [(scale.low, scale.high) for scale in pictures.scales(description)] == list(zip(LOW, HIGH, strict=True))
    statistics = description.statistics
    moved = replace(statistics, climatology_std=statistics.climatology_std * np.float32(0.999))
    assert pictures.scales(replace(description, statistics=moved)) == pictures.scales(description)
    one_cell = statistics.climatology.copy()
    one_cell[0, 3, 3] = 600
    wide = pictures.scales(replace(description, statistics=replace(statistics, climatology=one_cell)))
    assert (wide[0].low, wide[0].high) == (535, 605)  # 538 to 602 in steps of 5


@pytest.mark.parametrize("variables", [0, 1])
def test_quantities_that_cannot_be_negative_have_no_colours_below_zero(variables: int) -> None:
    """Bursts in one place, nothing in another: their mean less two standard deviations is below zero."""
    statistics = describe((8, 16)).statistics
    mean = np.linspace(0, 50, 256, dtype=np.float32).reshape(2, 8, 16)
    bursts = replace(statistics, climatology=mean, climatology_std=mean)
    description = replace(PLANE, statistics=bursts)
    for name, units, lowest in (
        ("inflow", "1", 0),
        ("smoke extinction coefficient", "m-1", 0),
        ("total precipitation", "m", 0),
        ("wind speed", "m s-1", 0),
        ("temperature", "degC", -1),
        ("velocity", "m s-1", -1),
        ("pressure", "Pa", -1),
    ):
        for dims in (("y", "x"), ("latitude", "longitude")):
            of = replace(
                description,
                grid=replace(description.grid, dims=dims),
                variables=tuple(Variable(f"v{number}", units, name) for number in range(2)),
            )
            low = pictures.scales(of)[variables].low
            assert (low < 0) if lowest < 0 else (low >= 0), (name, units, dims)
    signed = replace(bursts, climatology=mean - np.float32(30), climatology_std=mean)
    assert pictures.scales(replace(description, statistics=signed))[variables].low < 0


def test_the_scale_of_a_plane_with_a_fire_begins_near_the_cold_air() -> None:
    mean = np.full((2, 8, 16), 293, np.float32)
    mean[:, 2:4, 5:7] = 700
    std = np.where(mean > 300, np.float32(300), np.float32(0.5))
    statistics = replace(PLANE.statistics, climatology=mean, climatology_std=std)
    kelvin = tuple(Variable(f"t{number}", "K", "temperature") for number in range(2))
    scale = pictures.scales(replace(PLANE, statistics=statistics, variables=kelvin))[0]
    assert 200 <= scale.low <= 293
    assert scale.high >= 1300
