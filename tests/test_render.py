from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline.render import (
    Scale,
    colour_stops,
    error_scale,
    field_scale,
    maps_png,
    palette,
    raster_png,
    units_text,
)
from pipeline.store import Grid, Variable
from tests.fields import describe

RAMP = np.arange(12, dtype=np.float32).reshape(3, 4)  # the last row is the northern one


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_raster_has_a_pixel_per_cell_with_north_at_the_top() -> None:
    picture = pixels(raster_png(RAMP, Scale(0, 11, "viridis"), 100))
    expected = colormaps["viridis"](RAMP[::-1] / 11, bytes=True)[..., :3]
    np.testing.assert_allclose(picture.astype(int), expected.astype(int), atol=1)


def test_values_outside_the_scale_take_its_end_colours() -> None:
    picture = pixels(raster_png(np.array([[-5, 20]], dtype=np.float32), Scale(0, 11, "viridis"), 100))
    ends = colormaps["viridis"]([0.0, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(picture[0], ends)


def test_a_fine_field_is_thinned_to_a_bounded_size() -> None:
    picture = pixels(raster_png(np.zeros((721, 1440), dtype=np.float32), Scale(0, 1, "viridis"), 65_200))
    assert picture.shape[:2] == (181, 360)  # every fourth row and column


def test_pictures_repeat_byte_for_byte_and_name_no_version() -> None:
    description = describe((6, 8))
    field = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    for draw in (
        lambda: raster_png(field, error_scale([field]), 100),
        lambda: maps_png({"truth": field}, description.variables[0], description.grid, error_scale([field])),
    ):
        first = draw()
        assert first == draw()
        assert not Image.open(io.BytesIO(first)).text  # type: ignore[attr-defined]
        assert b"atplotlib" not in first


def test_labelled_maps_grow_by_a_panel_for_each_field() -> None:
    description = describe((6, 8))
    field = np.zeros((6, 8), dtype=np.float32)
    variable = Variable("t", "K", "temperature")
    widths = [
        pixels(
            maps_png({str(i): field for i in range(count)}, variable, description.grid, Scale(0, 1, "viridis"))
        ).shape[1]
        for count in (1, 2, 3)
    ]
    assert widths[1] - widths[0] == pytest.approx(widths[2] - widths[1], abs=2)
    assert widths[1] > widths[0]


def test_scales_span_all_fields_and_errors_are_symmetric_about_zero() -> None:
    assert field_scale([RAMP, RAMP - 3]) == Scale(-3, 11, "viridis")
    scale = error_scale([RAMP - 9, RAMP - 8])
    assert (scale.low, scale.high) == (-9, 9)


def test_a_constant_field_still_has_a_scale_of_some_width() -> None:
    constant = np.full((2, 2), 5, dtype=np.float32)
    scale = field_scale([constant])
    assert scale.low < 5 < scale.high
    assert error_scale([constant * 0]).high > 0


def test_a_gradient_runs_from_the_colour_maps_first_colour_to_its_last() -> None:
    stops = colour_stops(Scale(0, 1, "viridis"))
    assert (stops[0], stops[-1]) == ("#440154", "#fde725")


@pytest.mark.parametrize(
    ("units", "text"),
    [("m2 s-2", "m² s⁻²"), ("m**2 s**-2", "m² s⁻²"), ("K", "K"), ("kg m-2 s-1", "kg m⁻² s⁻¹"), ("1", "1"), ("%", "%")],
)
def test_units_are_shown_as_people_write_them(units: str, text: str) -> None:
    assert units_text(units) == text


def test_axes_of_a_plane_are_drawn_in_its_units() -> None:
    """The picture changes with the units, and a plane without any is drawn too."""
    grids = [Grid(("y", "x"), np.array([0.0, 1, 2]), np.array([0.0, 1, 2, 3]), units) for units in ("", "m", "km")]
    variable = Variable("smoke", "m-1", "smoke")
    drawn = [maps_png({"a": RAMP}, variable, grid, Scale(0, 11, "viridis")) for grid in grids]
    assert len(set(drawn)) == 3


def test_a_palette_has_256_colours_and_grows_lighter_evenly() -> None:
    colours = np.frombuffer(palette("viridis"), dtype=np.uint8).reshape(256, 3)
    lightness = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness[::8]) > 0).all()
    assert tuple(colours[0]) == (68, 1, 84)
