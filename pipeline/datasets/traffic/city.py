"""The traffic twin's city: what lies where, which streets join it, and how trips spread over them.

A square grid of cells, each with homes, offices, shops, perhaps a station. Trips of eight purposes go from cell to
cell by a gravity model (Wilson 1967, Transpn Res. 1, 253-269) and take every street that is not much longer than
the shortest by a logit model over all paths. Its loads have a closed form (Bell 1995, Transpn Res. B 29, 287-295;
Akamatsu 1996, Transpn Res. B 30, 369-386): with link weights W_ij = exp(-theta cost_ij) and Z = (I - W)^-1,
q_od trips from o to d pass cell i q_od Z_oi Z_id / Z_od times. A closed street changes a few columns of W, so
the loads around it follow from Z by the Woodbury identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIDE = 32  # cells
CELLS = SIDE * SIDE
DISTRICTS = 16  # 4 x 4 blocks of cells whose demand varies together
THETA = 3.0  # how strictly trips keep to the shortest way, per unit of cost
MAIN_STREET = 0.8  # cost of crossing a cell on a main street; elsewhere about 1
LAKE = 3.0
CLOSED = np.exp(-1.5 * THETA)  # a closed cell's weight as a share of its open one: as if 1.5 units longer
CAPACITY = 950.0  # trips that the streets of a cell let through in a half hour, approached smoothly
MINUTES = 2.5  # to travel a unit of cost
SLOT_MINUTES = 30
DIVERTED = 0.9  # of a closed street's trips can be sent another way; those from the fewest origins are not

Array = NDArray[np.float64]
PARTS = ("through", "starts", "ends")  # of trips: those that pass a cell, begin in it, end in it


@dataclass(frozen=True)
class Purpose:
    """Trips from cells of one use to cells of another, or the way back of such trips."""

    origins: str
    destinations: str
    reach: float  # cost over which the wish to travel falls to 1/e
    back: bool = False


PURPOSES = {
    "to work": Purpose("homes", "offices", 5.0),
    "from work": Purpose("homes", "offices", 5.0, back=True),
    "business": Purpose("offices", "offices", 3.0),
    "to shops": Purpose("homes", "shops", 3.0),
    "from shops": Purpose("homes", "shops", 3.0, back=True),
    "to stations": Purpose("homes", "stations", 12.0),
    "from stations": Purpose("homes", "stations", 12.0, back=True),
    "other": Purpose("homes", "homes", 3.5),
}


@dataclass(frozen=True)
class Closure:
    """A closed street segment and what that does to the trips that pass each cell, were all of them diverted."""

    cells: NDArray[np.int64]
    change: Array  # (CELLS,) trips a half hour


class City:
    """The same city for the same seed.

    now, late: (purposes * DISTRICTS, 3 * CELLS), for one trip a half hour of each purpose and district of origin
    how many pass, begin and end in each cell, in the half hour in which they set out and in the next.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.main_rows, self.main_columns = _main_streets(rng)
        self.uses = _land_use(rng)
        self._weights = _street_weights(rng, self.main_rows, self.main_columns)
        self._reach: Array = np.asarray(np.linalg.inv(np.eye(CELLS) - self._weights), dtype=np.float64)  # Z
        self._cost = np.maximum(-np.log(self._reach) / THETA, 0)
        self._trips = np.stack([self._gravity(purpose) for purpose in PURPOSES.values()])
        self._visits = np.stack([_visits(trips, self._reach) for trips in self._trips])  # (purpose, origin, cell)
        self.now, self.late = self._patterns()

    def close(self, cells: NDArray[np.int64], demand: Array) -> Closure:
        """The closure of `cells` at a `demand` of (purposes,) trips a half hour."""
        by_origin = np.tensordot(demand, self._visits[:, :, cells].sum(axis=2), axes=1)
        order = np.argsort(-by_origin, kind="stable")
        share = np.cumsum(by_origin[order]) / by_origin.sum()
        origins = np.sort(order[: int(np.searchsorted(share, DIVERTED)) + 1])
        trips = np.sum([size * each[origins] for size, each in zip(demand, self._trips, strict=True)], axis=0)
        usual = demand @ np.array([each[origins].sum(axis=0) for each in self._visits])
        diverted = _visits(trips, self._without(cells), origins).sum(axis=0)
        return Closure(cells, diverted - usual)

    def loads(self, demand: Array, before: Array) -> Array:
        """(time, 3 * CELLS) expected trips of `PARTS`, at a `demand` (time, purposes * DISTRICTS) and the one before.

        No street is closed and none is full.
        """
        return demand @ self.now + before @ self.late

    def departures(self, cells: NDArray[np.int64], trips: float) -> Array:
        """(3 * CELLS,) for `trips` homeward trips that all begin in `cells`."""
        home = PURPOSES["other"]
        wish = self.uses[home.destinations] * np.exp(-self._cost[cells] / home.reach)
        wish[:, cells] = 0
        wish *= trips / wish.sum()
        visits = _visits(wish, self._reach, cells).sum(axis=0)
        starts, ends = np.zeros(CELLS), wish.sum(axis=0)
        starts[cells] = wish.sum(axis=1)
        return np.concatenate([visits - starts - ends, starts, ends])

    def segment(self, rng: np.random.Generator, flow: Array) -> NDArray[np.int64]:
        """Four to six cells in a row of a main street; busy ones, by `flow` (CELLS,), come more often."""
        length = int(rng.integers(4, 7))
        index = np.arange(CELLS).reshape(SIDE, SIDE)
        lines = [index[row] for row in self.main_rows] + [index[:, column] for column in self.main_columns]
        segments = np.array([line[first : first + length] for line in lines for first in range(SIDE - length + 1)])
        busy = flow[segments].mean(axis=1) ** 1.5
        return segments[rng.choice(len(segments), p=busy / busy.sum())]

    def _gravity(self, purpose: Purpose) -> Array:
        """(origin, destination), in sum 1; trips within a cell cross no border and are left out."""
        wish = self.uses[purpose.destinations] * np.exp(-self._cost / purpose.reach)
        np.fill_diagonal(wish, 0)
        trips = self.uses[purpose.origins][:, None] * wish / wish.sum(axis=1, keepdims=True)
        trips = trips.T if purpose.back else trips
        return trips / trips.sum()

    def _patterns(self) -> tuple[Array, Array]:
        late = np.minimum(self._cost * MINUTES / SLOT_MINUTES, 1)  # trips set out evenly over the half hour
        district = np.eye(DISTRICTS)[:, _districts()]  # (DISTRICTS, CELLS)
        whole, delayed = [], []
        for trips, visits in zip(self._trips, self._visits, strict=True):
            total = (district @ trips.sum(axis=1))[:, None]
            starts = district * trips.sum(axis=1)
            ends, late_ends = district @ trips, district @ (trips * late)
            passing, late_passing = district @ visits - starts - ends, district @ (visits * late) - late_ends
            whole.append(np.concatenate([passing, starts, ends], axis=1) / total)
            delayed.append(np.concatenate([late_passing, np.zeros_like(starts), late_ends], axis=1) / total)
        all_trips, delayed_trips = np.concatenate(whole), np.concatenate(delayed)
        return all_trips - delayed_trips, delayed_trips

    @property
    def shares(self) -> Array:
        """(purposes, DISTRICTS): where the trips of each purpose begin; each row sums to 1."""
        return self._trips.sum(axis=2) @ np.eye(DISTRICTS)[_districts()]

    def _without(self, cells: NDArray[np.int64]) -> Array:
        """Z with the weights of all links into `cells` cut to CLOSED of theirs."""
        into = (1 - CLOSED) * (self._reach[:, cells] - np.eye(CELLS)[:, cells])  # Z W = Z - I
        core = np.eye(len(cells)) + into[cells]
        return np.asarray(self._reach - into @ np.linalg.solve(core, self._reach[cells]), dtype=np.float64)


def full(loads: Array) -> Array:
    """`loads` with what passes held below what the streets let through; no street carries less than nothing."""
    loads = np.maximum(loads, 0)
    passing = loads[..., :CELLS]
    return np.concatenate([passing / (1 + (passing / CAPACITY) ** 4) ** 0.25, loads[..., CELLS:]], axis=-1)


def _visits(trips: Array, reach: Array, origins: NDArray[np.int64] | slice = slice(None)) -> Array:
    """(origin, cell): how often the trips from each of the `origins` are in each cell, ends included."""
    return reach[origins] * ((trips / reach[origins]) @ reach.T)


def _districts() -> NDArray[np.int64]:
    """(CELLS,) the district of each cell."""
    block = np.arange(SIDE) * 4 // SIDE
    return (block[:, None] * 4 + block).ravel()


def _main_streets(rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Rows and columns of main streets, five or six cells apart."""
    lines = [np.cumsum([int(rng.integers(2, 4)), *rng.integers(5, 7, 5)]) for _ in range(2)]
    rows, columns = ([int(line) for line in given if line < SIDE] for given in lines)
    return rows, columns


def _land_use(rng: np.random.Generator) -> dict[str, Array]:
    """(CELLS,) each: how many trips each use draws, in sum 1."""
    middle = SIDE / 2 + rng.uniform(-1.5, 1.5, 2)
    angles = rng.uniform(0, 2 * np.pi) + np.array([0, 2.2, 4.1])
    around = [middle + radius * np.array([np.sin(a), np.cos(a)]) for radius, a in zip((6, 8, 7), angles, strict=True)]
    homes = _spots([middle], [10]) * _texture(rng, 1.2, 0.6)
    offices = _spots([middle, *around], [4.5, 3, 3, 3], [1, 0.5, 0.4, 0.4]) * _texture(rng, 0.8, 0.5) + 0.05 * homes
    centres = [rng.uniform(5, SIDE - 5, 2) for _ in range(14)]
    shops = _spots([middle, *centres], [4, *[1.5] * 14], [1, *rng.uniform(0.2, 0.6, 14)]) + 0.15 * homes
    places = [middle + np.array([4, -5]), middle + np.array([-6, 3]), np.array([3, SIDE - 4])]
    stations = _spots(places, [1, 1, 1], [1, 0.8, 0.6])
    uses = {"homes": homes, "offices": offices, "shops": shops, "stations": stations}
    return {name: use.ravel() / use.sum() for name, use in uses.items()}


def _spots(places: list[Array], widths: list[float], heights: list[float] | None = None) -> Array:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distances = [(rows - place[0]) ** 2 + (columns - place[1]) ** 2 for place in places]
    shares = heights or [1.0] * len(places)
    return sum(h * np.exp(-d / (2 * w * w)) for h, d, w in zip(shares, distances, widths, strict=True))


def _texture(rng: np.random.Generator, width: float, strength: float) -> Array:
    noise = gaussian_filter(rng.standard_normal((SIDE, SIDE)), width)
    return np.exp(strength * noise / noise.std())


def _street_weights(rng: np.random.Generator, rows: list[int], columns: list[int]) -> Array:
    """W, (CELLS, CELLS): links to the four neighbours, fast on main streets, none over the river but on bridges."""
    cost = _texture(rng, 1.0, 0.15)
    lake = rng.uniform(8, SIDE - 8, 2)
    cost[_spots([lake], [1.5]) > 0.5] = LAKE
    cost[rows], cost[:, columns] = MAIN_STREET, MAIN_STREET
    river = np.clip(np.cumsum(rng.integers(-1, 2, SIDE)) + 9, 3, SIDE - 4)  # flows between columns river - 1 and river
    weights = np.zeros((CELLS, CELLS))
    index = np.arange(CELLS).reshape(SIDE, SIDE)
    for here, there in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:])):
        weight = np.exp(-THETA * (cost.ravel()[here] + cost.ravel()[there]) / 2)
        dry = (here % SIDE < river[here // SIDE]) == (there % SIDE < river[there // SIDE])
        bridge = np.isin(here // SIDE, rows) & (here // SIDE == there // SIDE)
        weight = np.where(dry | bridge, weight, 0)
        weights[here, there] = weights[there, here] = weight
    return weights
