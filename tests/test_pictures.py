"""What a model is shown: right colours in the right places, the same bytes each time, drawn in processes."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipeline import pictures
from pipeline.captioners.base import CaptionRequest
from pipeline.errors import UserError
from pipeline.params import Picture
from pipeline.store import Description, Grid, Statistics, Variable
from tests.fields import describe

ROOT = Path(__file__).resolve().parents[1]
MINUS = "\N{MINUS SIGN}"
LOW, HIGH = (538.0, -12.0), (542.0, -8.0)  # of the colour scales of `describe`: climatology ± 2 x 1
DIGESTS = {  # by version
    "1": "6791456334753415e0994d663c6124dfecd04dd4588aa17e1a4b4399467287ee",
    "2": "10156cd9a0ad8effc9c050649e66578a556250a1132a421a28ecb1f7e29aaf7e",
}


def request(window: int = 0, description: Description | None = None, frames: int = 3) -> CaptionRequest:
    """Waves within the colour scales, another one for each window, frame and variable."""
    description = description or describe((8, 16))
    rows, columns = np.mgrid[0:1:8j, 0:1:16j]
    phases = window + np.arange(frames)[:, None, None, None] + 0.5 * np.arange(2)[:, None, None]
    waves = np.sin(2 * np.pi * columns + phases) * rows
    values = (np.array([540, -10])[:, None, None] + 1.5 * waves).astype(np.float32)
    times = np.datetime64("2001-01-01T06", "s") + np.arange(frames) * np.timedelta64(6, "h")
    return CaptionRequest(window, values, times, description)


def pixels(picture: bytes) -> NDArray[np.uint8]:
    """(height, width, 3)"""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def board(of: CaptionRequest, settings: Picture) -> pictures.Board:
    """The board that `draw` has just used."""
    labels = pictures.frame_labels(of.times, True)
    size = pictures._text_size(settings.pixels)
    widest = max(pictures._text_width("".join("0" if c.isdigit() else c for c in label), size) for label in labels)
    frames = len(labels) if settings.layout == "sheet" else 1
    return pictures._board(pictures.ByIdentity(of.description), settings.pixels, frames, widest)


def maps(of: CaptionRequest, settings: Picture) -> list[list[NDArray[np.uint8]]]:
    """By frame and variable: the pixels of a map of the sheet, north up."""
    (sheet,) = pictures.draw(of, settings)
    image, plan = pixels(sheet), board(of, settings)
    height, width = plan.map_shape
    return [[image[row : row + height, left : left + width] for row in rows] for left, rows in plan.places]


PLANE = describe((8, 16), dims=("y", "x"))
TUNNEL = replace(PLANE, grid=Grid(("y", "x"), np.linspace(0, 3.5, 8), np.linspace(0, 30, 16), "m"))


@pytest.mark.parametrize(
    ("version", "several"),
    [
        (pictures.VERSION, [request(description=describe((8, 16)))]),
        (pictures.LATER_VERSION, [request(description=PLANE), request(description=TUNNEL), request(frames=30)]),
    ],
)
def test_a_change_of_pixels_comes_with_a_new_version(version: str, several: list[CaptionRequest]) -> None:
    digest = hashlib.sha256()
    for layout in ("sheet", "images"):
        for of in several:
            if layout == "sheet":
                settings = Picture(pixels=64)
                assert pictures.drawing(of.description, settings, len(of.inputs)) == version.removeprefix("1")
            for picture in pictures.draw(of, Picture(layout=layout, pixels=64)):
                digest.update(pixels(picture).tobytes())
    assert DIGESTS.get(version) == digest.hexdigest(), (
        "the pixels have changed, and finished captions are known by the version of pictures: raise it, and enter the "
        f"new version here with the digest {digest.hexdigest()}"
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_a_value_has_its_colour_in_the_middle_of_the_map(share: float) -> None:
    values = [low + share * (high - low) for low, high in zip(LOW, HIGH, strict=True)]
    flat = np.broadcast_to(np.array(values, dtype=np.float32)[:, None, None], (3, 2, 8, 16))
    expected = np.array(colormaps["viridis"](share)[:3]) * 255
    for frame in maps(replace(request(), inputs=flat), Picture(pixels=64)):
        for field in frame:
            assert np.abs(field[16, 32] - expected).max() < 3
            assert (field == field[0, 0]).all()


def test_north_is_up_and_east_to_the_right_and_each_frame_and_variable_in_its_place() -> None:
    yellow = np.array(colormaps["viridis"](1.0)[:3]) * 255
    for frame in range(3):
        for variable in range(2):
            values = np.broadcast_to(np.array(LOW, dtype=np.float32)[:, None, None], (3, 2, 8, 16)).copy()
            values[frame, variable, -1, -2:] = HIGH[variable]  # the northernmost row, far in the east
            shown = maps(replace(request(), inputs=values), Picture(pixels=64))
            bright = [[np.abs(field[1, -2] - yellow).max() < 3 for field in fields] for fields in shown]
            assert np.argwhere(bright).tolist() == [[frame, variable]]
            assert np.abs(shown[frame][variable][-2, -2] - yellow).max() > 100


def test_values_beyond_the_scale_take_the_ends_colours() -> None:
    values = request().inputs.copy()
    values[0], values[1] = 1e30, -1e30
    first, second, _ = maps(replace(request(), inputs=values), Picture(pixels=64))
    assert (first[0] == np.array(colormaps["viridis"](1.0, bytes=True)[:3])).all()
    assert (second[0] == np.array(colormaps["viridis"](0.0, bytes=True)[:3])).all()


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


def test_the_layouts_give_one_sheet_or_pictures_of_one_size() -> None:
    of = request(frames=4)
    (sheet,) = pictures.draw(of, Picture(pixels=64))
    images = pictures.draw(of, Picture(layout="images", pixels=64))
    assert pictures.draw(of, Picture(layout="video", pixels=64)) == images
    assert len(images) == 4
    assert len({pixels(image).shape for image in images}) == 1
    assert len(set(images)) == 4
    assert pixels(sheet).shape[1] > 3 * pixels(images[0]).shape[1] / 2


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
    height, width = pictures._map_shape(grid, 256)
    assert (height, width) == (128, 512)
    assert pictures._axis_names(grid) == ("y, m", "x, m")
    assert pictures._axis_names(PLANE.grid) == ("y", "x")
    assert pictures._axis_names(describe((8, 16)).grid) == ("", "")


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


def test_frames_are_labelled_with_their_time_or_its_distance_to_the_last() -> None:
    times = np.array(["2001-01-01T06:00:00", "2001-01-01T18:00:00", "2001-01-02T06:00:00"], "datetime64[s]")
    assert pictures.frame_labels(times, True) == ["2001-01-01 06:00", "2001-01-01 18:00", "2001-01-02 06:00"]
    assert pictures.frame_labels(times, False) == [f"t{MINUS}24 h", f"t{MINUS}12 h", "t"]
    assert pictures.frame_labels(times[::2], False) == [f"t{MINUS}1 d", "t"]
    assert pictures.frame_labels(times[0] + np.arange(2) * np.timedelta64(90, "s"), False) == [f"t{MINUS}90 s", "t"]
    assert pictures.frame_labels(times[0] + np.arange(2), True)[1] == "2001-01-01 06:00:01"
    assert pictures.frame_labels(times.astype("datetime64[ms]"), True) == pictures.frame_labels(times, True)
    assert pictures.frame_labels(times.astype("datetime64[ms]"), False) == pictures.frame_labels(times, False)
    tenths = times[0].astype("datetime64[ms]") + np.arange(3) * np.timedelta64(100, "ms")
    assert pictures.frame_labels(tenths, False) == [f"t{MINUS}0.2 s", f"t{MINUS}0.1 s", "t"]
    assert pictures.frame_labels(tenths, True)[1] == "2001-01-01 06:00:00.100"


@pytest.mark.parametrize("longitudes", [np.arange(0, 360, 22.5), np.arange(-180, 180, 22.5)])
def test_ticks_stand_at_their_coordinates(longitudes: NDArray[np.float64]) -> None:
    grid = Grid(("latitude", "longitude"), np.linspace(-78.75, 78.75, 8).astype(np.float64), longitudes)
    ticks = {tick.label: tick.place for tick in pictures._axis_ticks(grid, 1, 320, 10)}
    start = longitudes[0] - 11.25
    for label, degrees in {"0°": 0, "60°E": 60, "60°W": -60}.items():
        assert ticks[label] == pytest.approx((degrees - start) % 360 / 360 * 320)
    rows = {tick.label: tick.place for tick in pictures._axis_ticks(grid, 0, 160, 10)}
    assert rows["0°"] == pytest.approx(80)
    assert rows["60°N"] == pytest.approx(160 * 30 / 180)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_frames_with_gaps_are_not_drawn_and_the_error_says_where(bad: float) -> None:
    of = request()
    of.inputs[1, 1, 2, 2:4] = bad
    with pytest.raises(pictures.UndrawableError, match="input frame 2 of 3 holds 2 values of temperature"):
        pictures.draw(of, Picture())


def test_windows_are_drawn_ahead_in_order_lazily_and_a_bad_one_costs_one_row() -> None:
    description = describe((8, 16))
    taken: list[int] = []

    def requests() -> Iterator[CaptionRequest]:
        for window in range(60):
            taken.append(window)
            of = request(window, description)
            if window == 5:
                of.inputs[0, 0, 0, 0] = np.nan
            yield of

    settings = Picture(pixels=32)
    drawn = pictures.drawn_ahead(requests(), settings, workers=2)
    assert not taken
    first = next(drawn)
    assert len(taken) <= 2 * pictures.AHEAD + 1
    found = [first, *drawn]
    assert [one.request.window for one in found] == list(range(60))
    assert not multiprocessing.active_children()
    for one in found:
        if one.request.window == 5:
            assert one.pictures == ()
            assert "input frame 1 of 3 holds 1 values of height" in one.error
        else:
            assert one.error == ""
            assert one.pictures == pictures.draw(one.request, settings)  # to the byte


def test_closing_ends_the_workers_and_no_request_starts_none() -> None:
    description = describe((8, 16))
    assert list(pictures.drawn_ahead([], Picture(), workers=1)) == []
    drawn = pictures.drawn_ahead((request(w, description) for w in range(10**6)), Picture(pixels=32), workers=1)
    next(drawn)
    assert len(multiprocessing.active_children()) == 1
    drawn.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    description = describe((8, 16))
    drawn = pictures.drawn_ahead((request(w, description) for w in range(10**6)), Picture(pixels=32), workers=2)
    next(drawn)
    child = multiprocessing.active_children()[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"process that draws pictures died.* caption.workers is 2"):
        for _ in drawn:
            pass
    assert not multiprocessing.active_children()


def test_requests_of_another_record_are_refused() -> None:
    with pytest.raises(ValueError, match="several records"):
        list(pictures.drawn_ahead([request(0), request(1)], Picture(pixels=32), workers=1))


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import multiprocessing, time\n"
        "from tests.test_pictures import request\n"
        "from pipeline import pictures\n"
        "from pipeline.params import Picture\n"
        "drawn = pictures.drawn_ahead([request()], Picture(pixels=32), 1)\n"
        "next(drawn)\n"
        "print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by ten seconds")


def test_importing_the_module_loads_no_heavy_library() -> None:
    code = "import sys, pipeline.pictures; print([n for n in ('torch', 'matplotlib', 'PIL') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
