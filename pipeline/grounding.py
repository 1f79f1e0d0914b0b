"""How often what captions claim agrees with the fields, and how often it would if they were about other windows.

Each claim (`pipeline/claims.py`) is checked against the window's input frames alone. Claims that the fields leave
open count neither way. The same claims are checked against the fields of another window of the split: a caption that
fits any window gains nothing over that chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.caption_requests import caption_requests
from pipeline.captioners.base import CaptionRequest
from pipeline.claims import KINDS, PLANE_KINDS, Claim, Kind, Place, Reader
from pipeline.coarse import coarse, reach, spread, standing_out
from pipeline.progress import progress
from pipeline.splits import deranged
from pipeline.store import SPLITS, Description, Store

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOLERANCE = 10.0  # degrees, or percent of a plane's extents; at least a cell and a half
STRONG = 0.8  # of the largest anomaly of that sign: an extreme that may be named
FAINT_TREND = 0.005  # of the usual standard deviation: no change worth a word
EVEN = 0.005  # of their mean: no difference of two totals worth a word
STILL = 0.5  # cells: no movement worth a word
SIDES = "wesn"  # in the order of `reach`: left, right, down, up
REACH = 16  # an extreme moves at most a sixteenth of the grid between two frames
SEED_OF_CHANCE = 3

Tally = Counter[tuple[str, bool]]
Path = tuple[float, float, int]  # rows and columns from the first frame to the last; the sign of the latitude, if known


def grounding(texts: Sequence[str], store: Store, seed: int) -> dict[str, Any]:
    """For each split: claims found per caption; for each kind and all, how many could be judged, the share that is
    right, and the share that is right of another window.

    texts: (window,) the captions. Shares are None where nothing could be judged.
    """
    split = store.windows.split
    description = store.description
    reader = Reader(description.variables, description.grid.geographic)
    known: dict[Claim, Claim] = {}  # equal claims share one object: 50,000 captions repeat most of theirs
    claims = [tuple(known.setdefault(claim, claim) for claim in reader.claims(text)) for text in texts]
    others = deranged(split, np.random.default_rng([seed, SEED_OF_CHANCE]))
    judge = Judge(description)
    right = [Tally() for _ in SPLITS]
    chance = [Tally() for _ in SPLITS]
    for request in progress(caption_requests(store, np.arange(len(split))), "grounding", len(split), "caption"):
        fields = Fields(request, judge)
        number = split[request.window]
        right[number].update(_verdicts(claims[request.window], fields))
        chance[number].update(_verdicts(claims[others[request.window]], fields))
    kinds = KINDS if description.grid.geographic else PLANE_KINDS
    return {
        name: _summary([claims[window] for window in store.windows.of(name)], right[number], chance[number], kinds)
        for number, name in enumerate(SPLITS)
    }


class Judge:
    """The regions of one grid, and what is usual on it."""

    def __init__(self, description: Description) -> None:
        grid, statistics = description.grid, description.statistics
        self.geographic, self.periodic = grid.geographic, grid.periodic
        self.y = coarse(np.broadcast_to(grid.y[:, None], grid.shape))[:, 0]
        self.x = coarse(np.broadcast_to(grid.x[None, :], grid.shape))[0]
        self.shape = len(self.y), len(self.x)
        self.weights = coarse(np.broadcast_to(grid.latitude_weights[:, None], grid.shape))
        self.climatology = coarse(statistics.climatology.astype(float))
        self.usual = statistics.climatology_std.mean(axis=(1, 2)).astype(float)
        self.whole_globe = self.geographic and self.y[0] <= -15 and self.y[-1] >= 15
        units = [1.0 if self.geographic else abs(axis[-1] - axis[0]) / 100 for axis in (self.y, self.x)]
        self.tolerance = tuple(
            max(TOLERANCE * unit, 1.5 * _cell(axis)) for unit, axis in zip(units, (self.y, self.x), strict=True)
        )
        self.standing_out = [
            standing_out(float(mean), float(std)) for mean, std in zip(statistics.mean, statistics.std, strict=True)
        ]
        self.mask = lru_cache(maxsize=20_000)(self._mask)

    def _mask(self, place: Place) -> Mask:
        """(H, W) the cells of a place; measured places reach as far around as the tolerance."""
        mask = np.ones(self.shape, dtype=bool)
        if not place.measured:
            for name in place.names:
                mask &= self._named(name)
        if place.y:
            mask &= ((self.y >= place.y[0] - self.tolerance[0]) & (self.y <= place.y[1] + self.tolerance[0]))[:, None]
        if place.x:
            mask &= self._between(*place.x)
        return mask

    def _between(self, first: float, last: float) -> Mask:
        """Cells of a range of longitudes or of x, going right from the first to the last."""
        shrink = np.cos(np.deg2rad(self.y)).clip(0.2) if self.geographic else np.ones(len(self.y))
        margin = (self.tolerance[1] / shrink)[:, None]
        if not self.geographic:
            return (self.x >= first - margin) & (self.x <= last + margin)
        width = (last - first) % 360
        offset = (self.x - (first + width / 2) + 180) % 360 - 180  # from the middle of the range
        return abs(offset) <= width / 2 + margin

    def _named(self, name: str) -> Mask:
        y, x = self.y[:, None], self.x[None, :]
        middle_y = 0.0 if self.whole_globe else (self.y[0] + self.y[-1]) / 2
        middle_x = (self.x[0] + self.x[-1]) / 2
        nowhere = np.zeros((1, 1), dtype=bool)  # east and west of a globe are nowhere, as bands are on a plane
        sides = {"north": y > middle_y, "south": y < middle_y}
        if not self.periodic:
            sides |= {"east": x > middle_x, "west": x < middle_x}
        if not self.geographic:
            inner = (abs(_percent(self.y) - 50) < 25)[:, None] & (abs(_percent(self.x) - 50) < 25)
            return sides.get(name, inner if name == "centre" else nowhere)
        bands = {"tropics": (0, 25), "subtropics": (20, 40), "midlatitudes": (30, 60), "polar": (60, 90)}
        if name in bands:
            return (abs(y) >= bands[name][0]) & (abs(y) <= bands[name][1])
        halves = {"east hemisphere": x % 360 < 180, "west hemisphere": x % 360 >= 180}
        return sides.get(name, halves.get(name, nowhere))

    def hemisphere(self, place: Place) -> Mask:
        """Where the extreme that a place is compared with may lie: its hemisphere, or everywhere."""
        if not self.whole_globe or not (place.measured or len(place.names) > 1):
            return self.mask(Place())
        side = "north" if "north" in place.names else "south" if "south" in place.names else ""
        if place.y:
            side = "north" if sum(place.y) > 0 else "south" if sum(place.y) < 0 else ""
        return self.mask(Place(frozenset({side}))) if side else self.mask(Place())


class Fields:
    """One window's input frames, and what is true of them; measured when first asked for."""

    def __init__(self, request: CaptionRequest, judge: Judge) -> None:
        self.judge = judge
        self.frames = coarse(request.inputs.astype(float))  # (T, C, H, W)
        self._paths: dict[tuple[int, int, Place], Path | None] = {}

    @cached_property
    def anomaly(self) -> Array:
        """(T, C, H, W) from the training climatology."""
        return np.asarray(self.frames - self.judge.climatology)

    @cached_property
    def change(self) -> Array:
        """(C, H, W) last minus first frame."""
        return np.asarray(self.frames[-1] - self.frames[0])

    @cached_property
    def steepness(self) -> Array:
        """(C, H, W) the size of the last frame's gradient per arc, without the cells next to the poles."""
        y, x = self.judge.y, self.judge.x
        along_y = np.gradient(self.frames[-1], axis=1) if len(y) > 1 else np.zeros_like(self.change)
        padded = np.pad(self.frames[-1], ((0, 0), (0, 0), (1, 1)), mode="wrap" if self.judge.periodic else "edge")
        along_x = (padded[..., 2:] - padded[..., :-2]) / 2
        shrink = np.cos(np.deg2rad(y))[:, None] if self.judge.geographic else np.ones((len(y), 1))
        steepness = np.hypot(along_y / _cell(y), along_x / (_cell(x) * shrink.clip(0.05)))
        return np.asarray(np.where(shrink > 0.26, steepness, 0.0))

    def verdict(self, claim: Claim) -> bool | None:
        """Whether a claim is right; None if the fields leave it open or it cannot be checked on this grid."""
        one_is_enough = claim.kind in ("place", "balance")
        if not self.judge.mask(claim.place).any() or (len(self.frames) == 1 and not one_is_enough):
            return None
        if claim.kind == "trend":
            return self._trend(claim)
        if claim.kind == "spread":
            return self._spread(claim)
        if claim.kind == "balance":
            return self._balance(claim)
        return self._place(claim) if claim.kind == "place" else self._movement(claim)

    def _trend(self, claim: Claim) -> bool | None:
        """The sign of the area mean's change; within the tolerance around a place, if it is a place."""
        assert claim.variable is not None
        mask = self.judge.mask(claim.place)
        weights = self.judge.weights[mask]
        change = float((self.change[claim.variable][mask] * weights).sum() / weights.sum())
        if abs(change) < FAINT_TREND * self.judge.usual[claim.variable]:
            return None
        return change * claim.sign > 0

    def _spread(self, claim: Claim) -> bool | None:
        """Whether the area that stands out has grown or shrunk, or reaches further to a side than it did."""
        assert claim.variable is not None
        high = self.frames[[0, -1], claim.variable] > self.judge.standing_out[claim.variable]
        first, last = high & self.judge.mask(claim.place)
        if not claim.direction:
            grew = spread(first, last)
            return grew == claim.sign if grew else None
        before, after = reach(first), reach(last)
        if before is None or after is None or claim.direction not in SIDES:
            return None
        further = int((after - before)[SIDES.index(claim.direction)])
        return further > 0 if further else None

    def _balance(self, claim: Claim) -> bool | None:
        """Which of two fields has the larger total there, or nearly its largest lead where a point is named."""
        assert claim.variable is not None
        assert claim.other is not None
        mask = self.judge.mask(claim.place)
        one, other = self.frames[-1, claim.variable], self.frames[-1, claim.other]
        if claim.place.measured:
            return self._holds(claim.sign * (one - other), claim.place)
        totals = [float((field[mask] * self.judge.weights[mask]).sum()) for field in (one, other)]
        if abs(totals[0] - totals[1]) <= EVEN * abs(sum(totals)) / 2:
            return None
        return (totals[0] - totals[1]) * claim.sign > 0

    def _place(self, claim: Claim) -> bool:
        """Whether an anomaly lies there that is nearly the largest of its sign in its hemisphere."""
        assert claim.variable is not None
        if claim.sign == 0:
            return self._holds(self.steepness[claim.variable], claim.place)
        if self._holds(claim.sign * self.anomaly[-1, claim.variable], claim.place):
            return True
        field = claim.sign * self.frames[-1, claim.variable]
        return claim.extreme and self._holds(field - float(np.median(field)), claim.place)

    def _holds(self, values: Array, place: Place) -> bool:
        largest = float(values[self.judge.hemisphere(place)].max())
        return 0 < STRONG * largest <= float(values[self.judge.mask(place)].max())

    def _movement(self, claim: Claim) -> bool | None:
        """The direction of the displacement from the first to the last frame."""
        variables = range(self.frames.shape[1]) if claim.variable is None else (claim.variable,)
        found = {self._moves(claim, variable) for variable in variables}
        return found.pop() if len(found) == 1 else None  # of no certain variable: all must agree

    def _moves(self, claim: Claim, variable: int) -> bool | None:
        key = variable, claim.sign, claim.place
        if key not in self._paths:
            self._paths[key] = self._track(*key) if claim.sign else self._drift(variable, claim.place)
        path = self._paths[key]
        if path is None:
            return None
        rows, columns, side = path
        along = {"e": columns, "w": -columns, "n": rows, "s": -rows, "p": rows * side, "q": -rows * side}
        moved = along[claim.direction]
        return moved > 0 if abs(moved) > STILL else None

    def _track(self, variable: int, sign: int, place: Place) -> Path:
        """Of the strongest anomaly of that sign there, followed back from the last frame."""
        maps = sign * self.anomaly[:, variable]
        end = _peak(np.where(self.judge.mask(place), maps[-1], -np.inf))
        row, column = end
        for values in maps[-2::-1]:
            row, column = _nearby_peak(values, row, column, self.judge.periodic)
        return end[0] - row, end[1] - column, int(np.sign(self.judge.y[end[0]])) if self.judge.geographic else 0

    def _drift(self, variable: int, place: Place) -> Path | None:
        """Of the whole pattern in the rows of a place, by correlation of each frame with the next."""
        rows = np.flatnonzero(self.judge.mask(place).any(axis=1))
        if len(rows) < 2:
            return None
        shift = _shift(self.anomaly[:, variable, rows[0] : rows[-1] + 1], self.judge.periodic)
        return *shift, 1 if "north" in place.names else -1 if "south" in place.names else 0


def _verdicts(claims: Sequence[Claim], fields: Fields) -> list[tuple[str, bool]]:
    judged = [(claim.kind, fields.verdict(claim)) for claim in claims]
    return [(kind, verdict) for kind, verdict in judged if verdict is not None]


def _summary(claims: Sequence[Sequence[Claim]], right: Tally, chance: Tally, every: Sequence[Kind]) -> dict[str, Any]:
    found = sum(len(of_caption) for of_caption in claims)
    result: dict[str, Any] = {"captions": len(claims), "claims_per_caption": _ratio(found, len(claims))}
    for name, kinds in (("all", every), *((kind, (kind,)) for kind in every)):
        counts = [sum(tally[kind, verdict] for kind in kinds) for tally in (right, chance) for verdict in (True, False)]
        result[name] = {
            "judged": counts[0] + counts[1],
            "right": _ratio(counts[0], counts[0] + counts[1]),
            "chance": _ratio(counts[2], counts[2] + counts[3]),
        }
    return result


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


# Measurements, in cells.


def _peak(values: Array) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    return int(row), int(column)


def _nearby_peak(values: Array, row: int, column: int, periodic: bool) -> tuple[int, int]:
    """The largest value near a place; the column may leave 0..w-1 where the grid is periodic."""
    height, width = values.shape
    reach_y, reach_x = max(1, height // REACH), max(2, width // REACH)
    rows = np.arange(max(0, row - reach_y), min(height, row + reach_y + 1))
    columns = np.arange(column - reach_x, column + reach_x + 1)
    if not periodic:
        columns = columns[(columns >= 0) & (columns < width)]
    at = _peak(values[rows[:, None], columns[None, :] % width])
    return int(rows[at[0]]), int(columns[at[1]])


def _shift(maps: Array, periodic: bool) -> tuple[float, float]:
    """Rows and columns between the first and the last of (T, h, w), where the frames' correlation is largest."""
    _, height, width = maps.shape
    maps = maps - maps.mean(axis=(1, 2), keepdims=True)
    shape = (2 * height, width if periodic else 2 * width)  # zeros around what is not periodic
    spectra = np.fft.rfft2(maps, s=shape)
    correlation = np.fft.irfft2((spectra[1:] * spectra[:-1].conj()).sum(axis=0), s=shape)
    reach_y, reach_x = min(height - 1, max(1, height // 8)), min(width - 1, max(1, width // 8))
    near = correlation[np.arange(-reach_y, reach_y + 1)[:, None], np.arange(-reach_x, reach_x + 1)[None, :]]
    row, column = _peak(near)
    steps = len(maps) - 1
    return float(steps * (row - reach_y)), float(steps * (column - reach_x))


def _cell(axis: Array) -> float:
    return float(abs(axis[-1] - axis[0]) / max(1, len(axis) - 1)) or 1.0


def _percent(axis: Array) -> Array:
    return np.asarray(100 * (axis - axis[0]) / ((axis[-1] - axis[0]) or 1.0))
