"""Weather that the trained model can read: one warm and one cold place, a tendency, and the caption to go with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import CaptionRequest
from pipeline.params import Picture
from pipeline.store import Description, Grid, Statistics, Variable

PROMPT = "Describe the weather map."
PICTURE = Picture(layout="sheet", pixels=96)  # the model has learnt these pictures and no others
SHAPE, T_IN = (16, 32), 2
MEAN, STD = 280.0, 12.0  # K
ROWS, COLUMNS = ("southern", "middle", "northern"), ("west", "centre", "east")
TRENDS = {"is warming": 10.0, "hardly changes": 0.0, "is cooling": -10.0}  # K between the two frames
PLACES = list(product(range(3), range(3)))
SCENES = [(*pair, trend) for pair, trend in product(permutations(PLACES, 2), TRENDS)]


@dataclass(frozen=True)
class Scene:
    """Input frames (T_in, 1, H, W) in K and what is to be said of them."""

    inputs: NDArray[np.float32]
    caption: str


def scene(kind: int, random: np.random.Generator) -> Scene:
    """One of the len(SCENES) kinds, with places, strengths and noise varied at random."""
    warm, cold, trend = SCENES[kind % len(SCENES)]
    field = hill(warm, random) - hill(cold, random) + random.normal(0, 0.5, SHAPE)
    change = TRENDS[trend] * random.uniform(0.85, 1.15)
    frames = MEAN + field + np.array([-0.5, 0.5])[:, None, None] * change
    caption = f"The {name(warm)} is warm, the {name(cold)} is cold, and the map {trend}."
    return Scene(frames[:, None].astype(np.float32), caption)


def name(place: tuple[int, int]) -> str:
    return f"{ROWS[place[0]]} {COLUMNS[place[1]]}"


def hill(place: tuple[int, int], random: np.random.Generator) -> NDArray[np.float64]:
    """(H, W): a bump in K near the middle of one of the nine parts of the map."""
    row, column = (
        (part + 0.5 + random.uniform(-0.15, 0.15)) * size / 3 for part, size in zip(place, SHAPE, strict=True)
    )
    y, x = np.arange(SHAPE[0])[:, None] + 0.5, np.arange(SHAPE[1])[None, :] + 0.5
    distance = ((y - row) / (SHAPE[0] / 7)) ** 2 + ((x - column) / (SHAPE[1] / 7)) ** 2
    return np.asarray(random.uniform(17, 23) * np.exp(-distance))


def _degrees(size: int) -> NDArray[np.float64]:
    return np.arange(0, 2 * size, 2, dtype=np.float64)


@cache
def description() -> Description:
    """A record of temperature on a part of the globe, with the statistics that `scene` has on average."""
    ones = np.ones((1, *SHAPE), dtype=np.float32)
    return Description(
        variables=(Variable("t850", "K", "temperature at 850 hPa", "air_temperature"),),
        grid=Grid(("latitude", "longitude"), _degrees(SHAPE[0]), _degrees(SHAPE[1])),
        statistics=Statistics(np.array([MEAN]), np.array([STD]), MEAN * ones, STD * ones),
        frame_seconds=21600,
        time_stamps="calendar",
        text="Maps for tests.",
    )


def request(window: int, inputs: NDArray[np.float32], attempt: int = 0) -> CaptionRequest:
    times = np.datetime64("2001-01-01T00", "s") + np.arange(T_IN) * np.timedelta64(6, "h")
    return CaptionRequest(window, inputs, times, description(), attempt, seed=window)
