"""What a model is shown: right colours in the right places, the same bytes each time."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps

from pipeline import pictures
from pipeline.captioners.base import CaptionRequest
from pipeline.params import Picture
from tests.fields import describe
from tests.pictures.waves import HIGH, LOW, PLANE, TUNNEL, maps, pixels, request

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = {  # by version
    "1": "6791456334753415e0994d663c6124dfecd04dd4588aa17e1a4b4399467287ee",
    "2": "10156cd9a0ad8effc9c050649e66578a556250a1132a421a28ecb1f7e29aaf7e",
}


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


def test_the_layouts_give_one_sheet_or_pictures_of_one_size() -> None:
    of = request(frames=4)
    (sheet,) = pictures.draw(of, Picture(pixels=64))
    images = pictures.draw(of, Picture(layout="images", pixels=64))
    assert pictures.draw(of, Picture(layout="video", pixels=64)) == images
    assert len(images) == 4
    assert len({pixels(image).shape for image in images}) == 1
    assert len(set(images)) == 4
    assert pixels(sheet).shape[1] > 3 * pixels(images[0]).shape[1] / 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_frames_with_gaps_are_not_drawn_and_the_error_says_where(bad: float) -> None:
    of = request()
    of.inputs[1, 1, 2, 2:4] = bad
    with pytest.raises(pictures.UndrawableError, match="input frame 2 of 3 holds 2 values of temperature"):
        pictures.draw(of, Picture())


def test_importing_the_module_loads_no_heavy_library() -> None:
    code = "import sys, pipeline.pictures; print([n for n in ('torch', 'matplotlib', 'PIL') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
