"""Claims against fields that are known, and the score of captions that are true, exchanged or empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import CaptionRequest
from pipeline.captioners.narrator import Narrator
from pipeline.captioners.shuffled import Shuffled
from pipeline.claims import Reader
from pipeline.grounding import Fields, Judge, grounding
from pipeline.params import Caption as CaptionParams
from pipeline.store import Description, Grid, Statistics, Store, Variable
from tests.helpers import make_store, record, tiny_params, write_store
from tests.planes import BURNING, CITY, TAXIS, TUNNEL, city, fire, stored


def globe(rows: int) -> Grid:
    longitude = np.arange(2 * rows, dtype=np.float64) * 180 / rows
    return Grid(("latitude", "longitude"), longitude[:rows] + 90 / rows - 90, longitude)


GLOBE = globe(32)
HEIGHT, WIDTH = GLOBE.shape
PLANE = Grid(("y", "x"), np.arange(20, dtype=np.float64), np.arange(30, dtype=np.float64))


def described(grid: Grid) -> Description:
    """One temperature whose climatology is 0 with a standard deviation of 1."""
    maps = np.zeros((1, *grid.shape), dtype=np.float32)
    statistics = Statistics(np.zeros(1), np.ones(1), maps, maps + 1)
    return Description((Variable("t", "K", "temperature"),), grid, statistics, 21600.0, "nominal", "")


def bumps(places: list[tuple[float, float]], amplitude: float, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(T, H, W): a round bump at a (row, column) in each frame; columns wrap around."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    frames = []
    for row, column in places:
        across = (columns - column + shape[1] / 2) % shape[1] - shape[1] / 2
        frames.append(amplitude * np.exp(-((rows - row) ** 2 + across**2) / 8))
    return np.array(frames)


def verdicts(text: str, frames: NDArray[np.float64], grid: Grid = GLOBE) -> list[bool | None]:
    """What becomes of the claims of `text` about frames (T, H, W)."""
    description = described(grid)
    times = np.datetime64("2001-01-01", "s") + np.arange(len(frames)) * np.timedelta64(12, "h")
    request = CaptionRequest(0, frames[:, None].astype(np.float32), times, description)
    fields = Fields(request, Judge(description))
    return [fields.verdict(claim) for claim in Reader(description.variables, grid.geographic).claims(text)]


# A warm pool in row 24 (47.8N) that came from column 60 (337.5E) over Greenwich to column 4 (22.5E), and a cold one
# at rest in row 8 (42.2S), column 32 (180E).
POOLS = bumps([(24, 60), (24, 62), (24, 0), (24, 4)], 3, (HEIGHT, WIDTH)) + bumps([(8, 32)] * 4, -2, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("A warm pool at 48N 22E", True),
        ("A warm pool at 40N 15E", True),  # within the tolerance
        ("A warm pool at 48N 60E", False),
        ("A warm pool at 48S 22E", False),
        ("A warm pool in the northern hemisphere", True),
        ("A warm pool in the southern hemisphere", False),
        ("Warm air in the northern midlatitudes", True),
        ("Warm air in the tropics", False),
        ("Warm air near 50N", True),
        ("Warm air near 20E", True),
        ("A cold pool at 40S 180W", True),
        ("A cold pool at 40S, 175E", True),
        ("A cold pool at 40N 180E", False),
        ("The coldest air is at high latitudes", False),
        ("Warm air in the eastern hemisphere", True),
        ("Warm air in the western hemisphere", False),
        ("The sharpest gradient at 50N 25E", True),
        ("The sharpest gradient at 80N 90E", False),
        ("Warm air in the east", None),  # of a globe
    ],
)
def test_where_an_anomaly_lies(text: str, right: bool | None) -> None:
    assert verdicts(text, POOLS) == [right]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("A warm pool at 48N 22E moving 40 east", [True, True]),
        ("A warm pool at 48N 22E moving west", [True, False]),
        ("A warm pool at 48N 22E moving north", [True, None]),
        ("A cold pool at 42S 180E moving east", [True, None]),
        ("The pattern drifts eastward in the northern hemisphere.", [True]),
        ("North: drifting 40 west.", [False]),
        ("South: drifting 40 west.", [None]),
    ],
)
def test_where_to_it_moves(text: str, right: list[bool | None]) -> None:
    assert verdicts(text, POOLS) == right


@pytest.mark.parametrize("south", [False, True])
def test_poleward_is_away_from_the_equator_in_either_hemisphere(south: bool) -> None:
    rows = [9, 8, 7, 6] if south else [22, 23, 24, 25]
    frames = bumps([(row, 10) for row in rows], 3, (HEIGHT, WIDTH))
    text = f"A warm pool at {'48S' if south else '53N'} 56E moving"
    assert verdicts(f"{text} poleward", frames) == [True, True]
    assert verdicts(f"{text} equatorward", frames) == [True, False]
    assert verdicts(f"{text} {'south' if south else 'north'}", frames) == [True, True]


def test_trends_are_of_the_area_mean_of_the_region_that_is_named() -> None:
    steps = np.array([0.0, 0.1, 0.2, 0.3])[:, None, None]
    warming_north = steps * np.where(GLOBE.y > 0, 1.0, -0.2)[:, None] * np.ones((1, WIDTH))
    assert verdicts("Warming.", warming_north) == [True]
    assert verdicts("Temperatures fall.", warming_north) == [False]
    assert verdicts("Cooling over the southern hemisphere", warming_north) == [True]
    assert verdicts("Warming most at 40N 20E, cooling most at 40S 20E", warming_north) == [True, True]
    assert verdicts("Warming most at 40S 20E", warming_north) == [False]
    assert verdicts("Warming.", 0 * warming_north) == [None]  # nothing to be right or wrong about
    assert verdicts("Warming.", warming_north[:1]) == [None]


def test_an_area_mean_is_weighted_by_area() -> None:
    near_pole = (abs(GLOBE.y) > 60)[:, None] * np.ones((1, WIDTH))
    frames = np.stack([0 * near_pole, np.where(near_pole > 0, 1.0, -0.3)])
    assert frames[-1].mean() > 0
    assert verdicts("Cooling.", frames) == [True]


def test_an_extreme_may_be_the_fields_own() -> None:
    field = np.cos(np.deg2rad(GLOBE.y))[:, None] * np.ones((1, WIDTH))
    description = described(GLOBE)
    statistics = replace(description.statistics, climatology=(field - 0.1 * POOLS[-1])[None].astype(np.float32))
    frames = np.stack([field, field])[:, None].astype(np.float32)
    request = CaptionRequest(
        0, frames, np.arange(2).astype("datetime64[s]"), replace(description, statistics=statistics)
    )
    fields = Fields(request, Judge(request.description))
    reader = Reader(description.variables, geographic=True)
    for text, right in (("The warmest air is in the tropics", True), ("A warm pool in the tropics", False)):
        assert [fields.verdict(claim) for claim in reader.claims(text)] == [right]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Warm pool at upper left (x 4 y 17) moving 2 right", [True, True]),
        ("Warm pool at upper left moving left", [True, False]),
        ("Warm pool at the lower right", [False]),
        ("Warm pool in the centre", [False]),
        ("Warm pool at x 15 y 10", [False]),
        ("Warm pool in the tropics", [None]),
    ],
)
def test_planes_are_judged_by_sides_and_percent(text: str, right: list[bool | None]) -> None:
    assert verdicts(text, bumps([(17, 2), (17, 3), (17, 4)], 3, PLANE.shape), PLANE) == right


def test_a_fine_grid_is_judged_as_a_coarse_one_is() -> None:
    fine = globe(90)
    frames = bumps([(68, 170), (68, 176), (68, 2), (68, 8)], 3, (90, 180))
    assert verdicts("A warm pool at 46N 16E moving east", frames, fine) == [True, True]


# The score.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Smooth noise on a globe that changes from day to day, so that each window is its own."""
    rng = np.random.default_rng(0)
    frames, shape = 260, (16, 32)
    field = np.zeros((frames, *shape))
    waves = np.exp(-(((np.fft.fftfreq(shape[0]) * 8) ** 2)[:, None] + (np.fft.rfftfreq(shape[1]) * 16) ** 2))
    for frame in range(frames):
        noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * waves, s=shape)
        field[frame] = (0.8 * np.roll(field[frame - 1], 1, axis=1) if frame else 0) + noise
    raw = record({"t850": np.float32(275) + 5 * field.astype(np.float32)}, names=("time", "latitude", "longitude"))
    raw["t850"].attrs["long_name"] = "temperature at 850 hPa"
    params = tiny_params(ingest={"variables": ["t850"], "t_in": 3, "t_out": 1, "stride": 2})
    return write_store(tmp_path_factory.mktemp("grounding") / "store.zarr", raw, params)


@pytest.fixture(scope="module")
def narrated(store: Store) -> list[str]:
    every = caption_requests(store, np.arange(len(store.windows)))
    return [caption.text for caption in Narrator(CaptionParams(), 0).captions(every)]


def test_true_captions_score_far_above_chance_and_exchanged_ones_at_it(store: Store, narrated: list[str]) -> None:
    order = Shuffled(CaptionParams(), 0).arrangement(store.windows.split)
    true = grounding(narrated, store, 0)["train"]
    exchanged = grounding([narrated[window] for window in order], store, 0)["train"]
    assert true["claims_per_caption"] > 4
    assert true["all"]["judged"] > 300
    assert true["all"]["right"] > 0.95
    assert true["place"]["right"] - true["place"]["chance"] > 0.5
    assert abs(exchanged["all"]["right"] - exchanged["all"]["chance"]) < 0.08
    assert exchanged["all"]["right"] < true["all"]["right"] - 0.25
    assert exchanged["claims_per_caption"] == true["claims_per_caption"]


@pytest.mark.parametrize("text", ["", "A sequence of fields on a grid."])
def test_where_nothing_is_claimed_nothing_is_judged(store: Store, text: str) -> None:
    for score in grounding([text] * len(store.windows), store, 0).values():
        assert score["claims_per_caption"] == 0
        assert score["all"] == score["place"] == {"judged": 0, "right": None, "chance": None}


def test_what_fits_every_window_gains_nothing_over_chance(store: Store) -> None:
    text = "Temperature at 850 hPa: warming; the pattern drifts eastward."
    for score in grounding([text] * len(store.windows), store, 0).values():
        assert score["all"]["judged"] > 0
        assert score["all"]["right"] == score["all"]["chance"]


def test_target_frames_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store.zarr", t_in=2, t_out=2, stride=4)
    every = caption_requests(store, np.arange(len(store.windows)))
    texts = [caption.text for caption in Narrator(CaptionParams(), 0).captions(every)]
    score = grounding(texts, store, 0)
    targets = np.concatenate([store.windows.target_frames(window) for window in range(len(store.windows))])
    read = Store.frames

    def without_targets(self: Store, start: int, stop: int) -> NDArray[np.float32]:
        frames = read(self, start, stop)
        frames[np.isin(np.arange(start, stop), targets)] = np.nan
        return frames

    monkeypatch.setattr(Store, "frames", without_targets)
    assert grounding(texts, store, 0) == score
    assert score["train"]["all"]["judged"] > 20


def test_the_score_repeats_and_its_splits_are_counted(store: Store, narrated: list[str]) -> None:
    score = grounding(narrated, store, 0)
    assert score == grounding(narrated, store, 0)
    assert list(score) == ["train", "validation", "test"]
    assert [part["captions"] for part in score.values()] == np.bincount(store.windows.split).tolist()


# Cities and fires.


@pytest.mark.parametrize("name", ["city", "fire"])
def test_the_rules_captions_of_cities_and_fires_are_true_and_their_own(tmp_path: Path, name: str) -> None:
    kept = {"city": (city(240), TAXIS, CITY, 1_800_000), "fire": (fire(80), BURNING, TUNNEL, 500)}[name]
    store = stored(tmp_path / "store.zarr", *kept)
    every = caption_requests(store, np.arange(len(store.windows)))
    texts = [caption.text for caption in Narrator(CaptionParams(), 0).captions(every)]
    score = grounding(texts, store, 0)["train"]
    assert score["claims_per_caption"] > 5
    assert score["all"]["right"] > 0.95
    for kind in ("trend", "place", "spread", *(["balance"] if name == "city" else [])):
        assert score[kind]["judged"] > 10
        assert score[kind]["right"] > 0.95
    if name == "fire":
        return  # which spreads the same way all the time
    assert score["all"]["right"] > score["all"]["chance"] + 0.15
    others = grounding(
        [texts[window] for window in Shuffled(CaptionParams(), 0).arrangement(store.windows.split)], store, 0
    )
    assert others["train"]["all"]["right"] < score["all"]["right"] - 0.15


def on_plane(text: str, frames: NDArray[np.float64]) -> list[bool | None]:
    """Verdicts about frames (T, C, H, W) of inflow and outflow, whose climatology is 0 and standard deviation 1."""
    maps = np.zeros((2, *PLANE.shape), dtype=np.float32)
    variables = (Variable("inflow", "1", "inflow"), Variable("outflow", "1", "outflow"))
    statistics = Statistics(np.zeros(2), np.ones(2), maps, maps + 1)
    description = Description(variables, PLANE, statistics, 1.0, "nominal", "")
    request = CaptionRequest(0, frames.astype(np.float32), np.arange(len(frames)).astype("datetime64[s]"), description)
    fields = Fields(request, Judge(description))
    return [fields.verdict(claim) for claim in Reader(variables, False).claims(text)]


FLOWS = np.zeros((3, 2, *PLANE.shape))
FLOWS[0, 0, 8:12, 5:10] = FLOWS[1, 0, 8:12, 5:12] = FLOWS[2, 0, 8:12, 4:20] = 5  # above 1: reaches right, a little left
FLOWS[:, 1, 15:18, 20:25] = 9


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Inflow spreads.", [True]),
        ("Inflow shrinks.", [False]),
        ("Inflow spreads to the right.", [True, True]),
        ("Inflow spreads left.", [True, True]),
        ("Inflow spreads upwards.", [True, None]),
        ("Outflow spreads.", [None]),
        ("Inflow exceeds outflow.", [True]),  # 64 cells of 5 are more than 15 of 9
        ("Outflow exceeds inflow in the upper right.", [True]),
        ("Inflow is lower than outflow at x 22 y 16.", [True]),
        ("Inflow exceeds outflow at x 22 y 16.", [False]),
        ("Inflow exceeds outflow at x 12 y 10.", [True]),
    ],
)
def test_what_spreads_and_what_exceeds_what_is_measured(text: str, right: list[bool | None]) -> None:
    assert on_plane(text, FLOWS) == right
