"""Blocks of a sheet, the shape of maps, and the places of their ticks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import pictures
from pipeline.params import Picture
from pipeline.pictures.labels import axis_names
from pipeline.pictures.layout import axis_ticks, map_shape
from pipeline.store import Grid, Statistics, Variable
from tests.fields import describe
from tests.pictures.waves import PLANE, board, maps, pixels, request


@pytest.mark.parametrize(("frames", "pixels_wide", "blocks"), [(4, 256, 1), (7, 256, 1), (12, 256, 2), (24, 256, 3)])
def test_a_sheet_of_many_frames_is_laid_out_in_blocks(frames: int, pixels_wide: int, blocks: int) -> None:
    of = request(frames=frames)
    settings = Picture(pixels=pixels_wide)
    (sheet,) = pictures.draw(of, settings)
    assert pixels(sheet).shape[1] < 2400
    places = board(of, settings).places
    assert len(places) == frames
    assert len({rows for _, rows in places}) == blocks
    per_block = pictures.frames_side_by_side(of.description.grid, pixels_wide, frames)
    assert [left for left, _ in places] == [places[frame % per_block][0] for frame in range(frames)]
    for frame, shown in enumerate(maps(of, settings)):  # each frame is in its place
        alone = replace(of, inputs=of.inputs[[frame] * frames])
        np.testing.assert_array_equal(shown[0], maps(alone, settings)[0][0])


def test_a_tunnel_is_drawn_wide_and_a_pixel_for_each_cell_at_least() -> None:
    grid = Grid(
        ("y", "x"), np.linspace(0.2, 5.8, 16, dtype=np.float64), np.linspace(0.4, 99.6, 128, dtype=np.float64), "m"
    )
    height, width = map_shape(grid, 256)
    assert (height, width) == (128, 512)
    assert axis_names(grid) == ("y, m", "x, m")
    assert axis_names(PLANE.grid) == ("y", "x")
    assert axis_names(describe((8, 16)).grid) == ("", "")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 40), (40, 5), (181, 360)])
@pytest.mark.parametrize("dims", [("latitude", "longitude"), ("y", "x")])
@pytest.mark.parametrize("width", [32, 200])
def test_nothing_is_written_over_a_map(rows: int, columns: int, dims: tuple[str, str], width: int) -> None:
    grid = Grid(dims, np.linspace(-80, 80, rows), np.linspace(-170, 170, columns))
    means, spreads = np.zeros((2, rows, columns), np.float32), np.full((2, rows, columns), 1e-7, np.float32)
    long = Variable("a", "kg m-2", "a name\n of very many words " * 9)
    statistics = Statistics(np.zeros(2), np.zeros(2), means, spreads)
    description = replace(describe(), variables=(long, long), grid=grid, statistics=statistics)
    of = replace(request(description=description), inputs=np.zeros((3, 2, rows, columns), np.float32))
    for frame in maps(of, Picture(pixels=width)):
        for field in frame:
            assert len(np.unique(field.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("longitudes", [np.arange(0, 360, 22.5), np.arange(-180, 180, 22.5)])
def test_ticks_stand_at_their_coordinates(longitudes: NDArray[np.float64]) -> None:
    grid = Grid(("latitude", "longitude"), np.linspace(-78.75, 78.75, 8).astype(np.float64), longitudes)
    ticks = {tick.label: tick.place for tick in axis_ticks(grid, 1, 320, 10)}
    start = longitudes[0] - 11.25
    for label, degrees in {"0°": 0, "60°E": 60, "60°W": -60}.items():
        assert ticks[label] == pytest.approx((degrees - start) % 360 / 360 * 320)
    rows = {tick.label: tick.place for tick in axis_ticks(grid, 0, 160, 10)}
    assert rows["0°"] == pytest.approx(80)
    assert rows["60°N"] == pytest.approx(160 * 30 / 180)
