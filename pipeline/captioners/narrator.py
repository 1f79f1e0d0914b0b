"""A captioner of rules: says in a forecaster's words what the input frames show. Deterministic, without a model.

It reads a window as a forecaster reads a chart: how far the field is from normal and where it is heading,
how lively the flow is, where highs and lows of the anomaly sit and how they move, where the sharpest
gradient lies, and where the field has changed most. On a plane (a city, a section through a fire) it also says
the field's mean and highest value, how much of the area stands out and to which sides that spreads, and of two
fields of one kind, such as inflow and outflow, which exceeds which and where. Nothing in it knows a variable by
name; units alone choose between words such as warm and high.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.captioners.base import Caption, Captioner, CaptionRequest
from pipeline.captions import clean
from pipeline.coarse import coarse, reach, spread, standing_out
from pipeline.params import Caption as CaptionParams
from pipeline.store import Variable
from pipeline.work import fingerprint

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_WORDS = 110
MAX_PIECES = 150  # of a BERT word-piece tokenizer, estimated from above; common text encoders take 160 and more
MAX_PIECES_ON_A_PLANE = 146  # its many numbers are estimated a little worse
MAX_CONTEXT = 20  # words about what was known at the last frame's time
SPEAKING_NAME = re.compile(r"[A-Za-z_]{4,}")
EVEN = 0.005  # of their mean: two totals that differ by less are called equal
FAINT = 0.1  # standard deviations that are not worth a word
GRAINS = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # degrees or percent to which places are rounded

TEMPERATURE_UNITS = {"k", "kelvin", "c", "degc", "°c", "celsius", "degree_celsius", "degrees_celsius"}
HEIGHT_UNITS = {"m2s-2", "m^2s^-2", "m**2s**-2", "m2/s2", "gpm", "dam"}


@dataclass(frozen=True)
class Words:
    """How a forecaster speaks of one kind of field."""

    low: str = "low"
    high: str = "high"
    rising: str = "rising"
    falling: str = "falling"
    front: str = "sharpest gradient"
    highest: str = "highest"


TEMPERATURE_WORDS = Words("cold pool", "warm pool", "warming", "cooling", "front")
HEAT_WORDS = Words("cool spot", "hot spot", "warming", "cooling", "sharpest gradient", "hottest")  # on a plane
HEIGHT_WORDS = Words("trough", "ridge", "rising", "falling", "sharpest gradient")


@dataclass(frozen=True)
class Clause:
    """A piece of the paragraph. Clauses of one sentence share its key and head; smaller ranks are kept first."""

    rank: int
    sentence: tuple[object, ...]
    head: str
    text: str


@dataclass(frozen=True)
class Centre:
    """A high or low of the anomaly in the last frame. Rows and columns may be fractions."""

    row: float
    column: float
    sign: int  # +1 for a high, -1 for a low
    strength: float  # sign times the anomaly there, physical units; negative where no anomaly has that sign
    rows: float  # how far it came over the inputs, towards higher rows
    columns: float  # and towards higher columns
    growth: float  # relative growth of its magnitude over the inputs


class Chart:
    """One variable's frames on a coarse grid, with what is needed to read them."""

    def __init__(self, fields: Array, request: CaptionRequest, variable: int) -> None:
        grid, statistics = request.description.grid, request.description.statistics
        self.fields = coarse(fields)  # (T, h, w)
        self.y = coarse(np.broadcast_to(grid.y[:, None], grid.shape))[:, 0]
        self.x = coarse(np.broadcast_to(grid.x[None, :], grid.shape))[0]
        self.weights = coarse(np.broadcast_to(grid.latitude_weights[:, None], grid.shape))
        self.geographic, self.periodic = grid.geographic, grid.periodic
        self.anomaly = self.fields - coarse(statistics.climatology[variable].astype(float))
        spread = coarse(statistics.climatology_std[variable].astype(float))
        usual = float(spread.mean()) or 1.0  # a field that never changed in training has no spread
        self.scaled = self.anomaly / np.maximum(spread, 0.05 * usual)  # in standard deviations
        self.usual = usual
        self.standing_out = standing_out(float(statistics.mean[variable]), float(statistics.std[variable]))

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Height and width of the grid, in its own coordinates, cells' rims included."""
        height, width = (abs(axis[-1] - axis[0]) * len(axis) / max(1, len(axis) - 1) for axis in (self.y, self.x))
        return float(height) or 1.0, float(width) or 1.0

    @cached_property
    def grain(self) -> float:
        """To how many degrees places are rounded."""
        return max((grain for grain in GRAINS if grain <= self.extent[0] / 20), default=GRAINS[0])

    @cached_property
    def step(self) -> float:
        """To how many degrees movements are rounded."""
        return max((grain for grain in GRAINS if grain < self.grain), default=GRAINS[0])

    @cached_property
    def grains(self) -> tuple[float, float]:
        """To how many units of a plane's rows and columns places are rounded: a round twentieth of its extents."""
        return round_below(self.extent[0] / 20), round_below(self.extent[1] / 20)

    def regions(self) -> dict[str, slice]:
        """Rows by name: two hemispheres where the grid has them, else the whole."""
        if not self.geographic or self.y[0] > -15 or self.y[-1] < 15:
            return {"Pattern": slice(0, len(self.y))}
        equator = int(np.searchsorted(self.y, 0))
        return {"North": slice(equator, len(self.y)), "South": slice(0, equator)}

    def value(self, value: float) -> str:
        """A value of the field to two digits of its usual variation: of 293.4 K, all of it may matter."""
        digits = 1 - int(np.floor(np.log10(self.usual)))
        text = f"{round(value, digits) + 0.0:.{max(0, digits)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text

    def mean(self, values: Array) -> float:
        """The area mean of a map."""
        return float((values * self.weights).sum() / self.weights.sum())


class Narrator(Captioner):
    """Writes 60 to 110 words about a window, or fewer if `caption.max_words` says so."""

    model = "narrator rules, version 1"
    prompt = (
        "For each variable: distance from the training climatology and trend over the inputs; for each hemisphere, or "
        "the whole grid: liveliness, its growth, dominant wave and drift; the strongest anomalies of either sign, in "
        "the variable's units, with place, movement over the inputs and growth; the sharpest gradient; the largest "
        "changes. Movements are in degrees of longitude and latitude. Season and hour where time stamps are of a "
        "calendar. On planes, right is larger x and upper is larger y, in the axes' units; also the mean, the highest "
        "value, the share of the area above one standard deviation over the training mean and the sides to which it "
        "spreads, and of two fields of equal units that are never negative which exceeds which. Where something was "
        "known at the last frame's time, that too."
    )

    def __init__(self, settings: CaptionParams, seed: int, dataset: str = "") -> None:
        super().__init__(settings.model_copy(update={"output": "text"}), seed, dataset)  # JSON is for models
        self._words = min(settings.max_words, MAX_WORDS)

    @property
    def identity(self) -> dict[str, Any]:
        return {"words": self._words, "rules": fingerprint((), code=[__name__, "pipeline.coarse"])}

    def captions(self, requests: Iterable[CaptionRequest]) -> Iterator[Caption]:
        for request in requests:
            if np.isfinite(request.inputs).all():
                yield Caption(request.window, narrate(request, self._words))
            else:
                yield Caption(request.window, "", "failed", "the input frames hold NaN or infinity")


def narrate(request: CaptionRequest, max_words: int = MAX_WORDS) -> str:
    """The paragraph about one window of finite values."""
    opening = [text for text in (season(request), span(request), known(request)) if text]
    clauses = [Clause(0, (text,), "", text) for text in opening]
    variables = request.description.variables
    charts = [Chart(request.inputs[:, number].astype(float), request, number) for number in range(len(variables))]
    for number, (chart, variable) in enumerate(zip(charts, variables, strict=True)):
        if chart.geographic:
            clauses += describe(chart, variable)
        else:
            told = variable.units in {before.units for before in variables[:number]}
            clauses += describe_plane(
                chart, replace(variable, units="") if told else variable, words_for(variable.units)
            )
    if not request.description.grid.geographic:
        clauses += balance(charts, request)
        return compose(clauses, max_words, MAX_PIECES_ON_A_PLANE)
    return compose(clauses, max_words)


def describe(chart: Chart, variable: Variable) -> Iterator[Clause]:
    """All that can be said of one variable."""
    words = words_for(variable.units)
    yield Clause(0, (variable.name,), named(variable), level(chart, words))
    for region, rows in chart.regions().items():
        strongest, opposite = centres(chart, rows, words)
        said = [(2, activity(chart, rows)), (1, strongest), (3, opposite), (4, gradient(chart, rows, words))]
        if len(chart.fields) > 1:
            said.append((5, change(chart, rows, words)))
        for rank, text in said:
            yield Clause(rank, (variable.name, region), region, text)


def describe_plane(chart: Chart, variable: Variable, words: Words) -> Iterator[Clause]:
    """All that can be said of one variable on a plane."""
    words = HEAT_WORDS if words is TEMPERATURE_WORDS else words
    if SPEAKING_NAME.fullmatch(variable.name):  # long names leave too little room for what happens
        variable = replace(variable, long_name=variable.name)
    rows = slice(0, len(chart.y))
    strongest, opposite = centres(chart, rows, words)
    several = len(chart.fields) > 1
    said = [
        (0, f"mean {chart.value(chart.mean(chart.fields[-1]))}, {level(chart, words)}"),
        (1, highest(chart, words)),
        (2, standing_out_words(chart)),
        (2, strongest),
        (3, change(chart, rows, words) if several else ""),
        (4, opposite),
        (6, gradient(chart, rows, words)),
    ]
    for rank, text in said:
        if text:
            yield Clause(rank, (variable.name,), named(variable), text)
    yield Clause(5, (variable.name, "pattern"), "Pattern", activity(chart, rows))


def balance(charts: Sequence[Chart], request: CaptionRequest) -> Iterator[Clause]:
    """Of the first two variables of equal units that are never negative: which exceeds which, over all and where."""
    climatology = request.description.statistics.climatology
    variables = request.description.variables
    for one, other in combinations(range(len(charts)), 2):
        if (
            variables[one].units == variables[other].units
            and min(climatology[one].min(), climatology[other].min()) >= 0
        ):
            names = [variable.name.replace("_", " ") for variable in (variables[one], variables[other])]
            key = ("balance", *names)
            difference = charts[one].fields[-1] - charts[other].fields[-1]
            yield Clause(1, key, "Balance", excess(charts[one], charts[other], names))
            for rank, sign, (more, less) in ((2, 1, names), (3, -1, names[::-1])):
                row, column = peak(sign * difference, slice(0, None))
                by = sign * difference[row, column]
                if by >= FAINT * charts[one].usual:
                    where = place(charts[one], row, column)
                    yield Clause(rank, key, "Balance", f"{more} exceeds {less} most {where} by {number(by)}")
            return


# What the charts show: each function returns a clause.


def level(chart: Chart, words: Words) -> str:
    """How far the field is from normal, and its trend over the inputs."""
    now = chart.mean(chart.anomaly[-1])
    share = abs(now) / chart.usual
    degree = binned(share, (0.05, 0.15, 0.4, 1.0), ("near", "slightly", "", "well", "far"))
    side = "above" if now > 0 else "below"
    text = "near normal" if degree == "near" else f"{degree} {side} normal by {number(abs(now))}".strip()
    if len(chart.fields) == 1:
        return text
    trend = chart.mean(chart.anomaly[-1] - chart.anomaly[0])
    if abs(trend) < 0.01 * chart.usual:
        return f"{text}, steady"
    return f"{text}, {words.rising if trend > 0 else words.falling} by {number(abs(trend))}"


def highest(chart: Chart, words: Words) -> str:
    """The field's own maximum in the last frame, and where it lies."""
    row, column = peak(chart.fields[-1], slice(0, None))
    return f"{words.highest} {chart.value(chart.fields[-1][row, column])} {place(chart, row, column)}"


def standing_out_words(chart: Chart) -> str:
    """How much of the area stands out in the last frame, whether that grew over the inputs, and to which sides."""
    first, last = chart.fields[0] > chart.standing_out, chart.fields[-1] > chart.standing_out
    if not last.any():
        return f"nowhere above {number(chart.standing_out)}"
    text = f"above {number(chart.standing_out)} in {number(100 * float(last.mean()))} % of area"
    grew = spread(first, last)
    if len(chart.fields) == 1 or not grew:
        return text
    return f"{text}, {'spreading' if grew > 0 else 'shrinking'}{sides(chart, first, last) if grew > 0 else ''}"


def sides(chart: Chart, first: Mask, last: Mask) -> str:
    """The one or two sides to which an area has come to reach further, and by how much."""
    before, after = reach(first), reach(last)
    if before is None or after is None:
        return ""
    cells = [chart.extent[1] / len(chart.x)] * 2 + [chart.extent[0] / len(chart.y)] * 2
    steps = [smaller(chart.grains[1])] * 2 + [smaller(chart.grains[0])] * 2
    share = (after - before) / np.array([len(chart.x)] * 2 + [len(chart.y)] * 2)  # of the extent
    further = sorted((side for side in range(4) if after[side] > before[side]), key=lambda side: -share[side])[:2]
    parts = [
        f"{('left', 'right', 'down', 'up')[side]} by "
        f"{rounded((after[side] - before[side]) * cells[side], steps[side]) or steps[side]:g}"
        for side in further
    ]
    return " " + " and ".join(parts) if parts else ""


def excess(one: Chart, other: Chart, names: Sequence[str]) -> str:
    """Which of two fields has the larger total in the last frame, and by how much of the smaller."""
    totals = [chart.mean(chart.fields[-1]) for chart in (one, other)]
    if abs(totals[0] - totals[1]) <= EVEN * sum(totals) / 2:
        return f"as much {names[0]} as {names[1]}"
    more = int(totals[1] > totals[0])
    if min(totals) <= 0:
        return f"{names[more]} exceeds {names[1 - more]}"
    return f"{names[more]} exceeds {names[1 - more]} by {number(100 * (max(totals) / min(totals) - 1))} %"


def activity(chart: Chart, rows: slice) -> str:
    """How lively the anomalies are, whether they grow, the dominant wave and the drift of the pattern."""
    strength = np.sqrt(
        (chart.scaled[:, rows] ** 2 * chart.weights[rows]).mean(axis=(1, 2)) / chart.weights[rows].mean()
    )
    parts = [binned(strength[-1], (0.8, 0.93, 1.07, 1.2), ("very quiet", "quiet", "ordinary", "active", "very active"))]
    if len(strength) > 1:
        parts.append(growth_words(strength[-1] / max(strength[0], 1e-9) - 1, slow=0.02))
    if chart.periodic:
        parts.append(f"wave {dominant_wave(chart, rows)}")
    if len(strength) > 1:
        parts.append("drifting " + movement(chart, *drift(chart, rows), still="little"))
    return ", ".join(parts)


def centres(chart: Chart, rows: slice, words: Words) -> tuple[str, str]:
    """The strongest high or low of the anomaly, then the strongest one of the other sign."""
    high, low = centre(chart, rows, +1), centre(chart, rows, -1)
    said = [centre_words(chart, high, words.high), centre_words(chart, low, words.low)]
    strongest = int(high.strength < low.strength)
    return said[strongest], said[1 - strongest]


def centre_words(chart: Chart, centre: Centre, name: str) -> str:
    if centre.strength < FAINT * chart.usual:
        return f"no {name}"
    text = f"{name} {'+-'[centre.sign < 0]}{number(centre.strength)} {place(chart, centre.row, centre.column)}"
    if len(chart.fields) == 1:
        return text
    moved = movement(chart, centre.rows, centre.columns, still="little")
    return f"{text} moving {moved}, {growth_words(centre.growth, slow=0.05)}"


def gradient(chart: Chart, rows: slice, words: Words) -> str:
    """Where the field in the last frame is steepest, how much, and towards where it falls."""
    slope_y, slope_x = slopes(chart)
    steepness = np.hypot(slope_y, slope_x)
    if chart.geographic:
        steepness = np.where(abs(chart.y)[:, None] > 75, 0, steepness)  # columns converge: small scales, no fronts
    row, column = peak(steepness, rows)
    times = steepness[row, column] / max(chart.mean(steepness), 1e-12)
    downhill = direction(chart, -slope_y[row, column], -slope_x[row, column])
    return f"{words.front} {place(chart, row, column)}, {max(1, round(times))} times the mean, falling {downhill}"


def change(chart: Chart, rows: slice, words: Words) -> str:
    """Where the field rose and fell most over the inputs."""
    tendency = chart.fields[-1] - chart.fields[0]
    parts = []
    for sign, word in ((1, words.rising), (-1, words.falling)):
        where = peak(sign * tendency, rows)
        if sign * tendency[where] >= FAINT * chart.usual:
            parts.append(f"{word} most {place(chart, *where)} by {number(abs(tendency[where]))}")
    return ", ".join(parts) or "little change"


# Measurements on charts: rows and columns, fractions of cells.


def peak(values: Array, rows: slice) -> tuple[int, int]:
    """Row and column of the largest value within `rows`."""
    row, column = np.unravel_index(int(np.argmax(values[rows])), values[rows].shape)
    return int(row) + (rows.start or 0), int(column)


def centre(chart: Chart, rows: slice, sign: int) -> Centre:
    """The strongest anomaly of one sign in the last frame, followed back through the inputs."""
    maps = sign * chart.anomaly
    row, column = end = peak(maps[-1], rows)
    for values in maps[-2::-1]:
        row, column = nearby_peak(values, row, column, chart.periodic)
    first, last = refined(maps[0], row, column, chart.periodic), refined(maps[-1], *end, chart.periodic)
    value, before = maps[-1][end], maps[0][row, column % maps.shape[2]]
    return Centre(
        row=last[0],
        column=last[1],
        sign=sign,
        strength=float(value),
        rows=last[0] - first[0],
        columns=last[1] - first[1],
        growth=float((value - before) / max(abs(before), 0.1 * chart.usual)),
    )


def nearby_peak(values: Array, row: int, column: int, periodic: bool) -> tuple[int, int]:
    """The largest value near a place; the column may leave 0..w-1 where the grid is periodic."""
    height, width = values.shape
    reach_y, reach_x = max(1, height // 16), max(2, width // 16)
    rows = np.arange(max(0, row - reach_y), min(height, row + reach_y + 1))
    columns = np.arange(column - reach_x, column + reach_x + 1)
    if not periodic:
        columns = columns[(columns >= 0) & (columns < width)]
    window = values[np.ix_(rows, columns % width)]
    here = values[row, column % width]
    if window.max() <= here + 1e-4 * abs(here):
        return row, column  # on a plateau a centre stays where it is
    best = np.unravel_index(int(np.argmax(window)), window.shape)
    return int(rows[best[0]]), int(columns[best[1]])


def refined(values: Array, row: int, column: int, periodic: bool) -> tuple[float, float]:
    """The peak's place between cells, by a parabola through its neighbours on each axis."""
    height, width = values.shape
    at = column % width
    along_y = vertex(*values[row - 1 : row + 2, at]) if 0 < row < height - 1 else 0.0
    inside = periodic or 0 < at < width - 1
    along_x = vertex(*values[row, [(at - 1) % width, at, (at + 1) % width]]) if inside else 0.0
    return row + along_y, column + along_x


def vertex(before: float, here: float, after: float) -> float:
    """Offset of a parabola's vertex from the middle of three points, within half a cell."""
    curvature = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature else 0.0


def drift(chart: Chart, rows: slice) -> tuple[float, float]:
    """Rows and columns by which the whole pattern moved over the inputs, by cross-correlation of frames in turn."""
    maps = chart.scaled[:, rows]
    maps = maps - (maps.mean(axis=2, keepdims=True) if chart.periodic else maps.mean(axis=(1, 2), keepdims=True))
    _, height, width = maps.shape
    shape = (2 * height, width if chart.periodic else 2 * width)  # zeros around what is not periodic
    spectra = np.fft.rfft2(maps, s=shape)
    correlation = np.fft.irfft2((spectra[1:] * spectra[:-1].conj()).sum(axis=0), s=shape)
    reach_y, reach_x = min(height - 1, max(1, height // 8)), min(width - 1, max(1, width // 8))
    window = correlation[np.ix_(np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1))]
    row, column = refined(window, *peak(window, slice(0, None)), periodic=False)
    steps = len(maps) - 1
    return steps * (row - reach_y), steps * (column - reach_x)


def dominant_wave(chart: Chart, rows: slice) -> int:
    """The zonal wave number that dominates the last frame's anomaly: its variance times the wave number is largest.

    The factor looks past the slow planetary waves to those that carry the weather.
    """
    power = (np.abs(np.fft.rfft(chart.anomaly[-1, rows], axis=1)) ** 2 * chart.weights[rows, :1]).sum(axis=0)
    return int(np.argmax(power * np.arange(len(power))))


def slopes(chart: Chart) -> tuple[Array, Array]:
    """Derivatives of the last frame towards higher rows and columns, per degree of arc or per cell."""
    field = chart.fields[-1]
    padded = np.pad(field, ((0, 0), (1, 1)), mode="wrap" if chart.periodic else "edge")
    along_x = (padded[:, 2:] - padded[:, :-2]) / 2
    along_y = np.gradient(field, axis=0) if len(field) > 1 else np.zeros_like(field)
    height, width = chart.extent
    cell_y, cell_x = (height / field.shape[0], width / field.shape[1]) if chart.geographic else (1.0, 1.0)
    shrink = np.cos(np.deg2rad(chart.y))[:, None].clip(0.05) if chart.geographic else 1.0
    return along_y / cell_y, along_x / (cell_x * shrink)


# Words.


def words_for(units: str) -> Words:
    plain_units = re.sub(r"[\s.]", "", units.lower())
    if plain_units in TEMPERATURE_UNITS:
        return TEMPERATURE_WORDS
    return HEIGHT_WORDS if plain_units in HEIGHT_UNITS else Words()


def season(request: CaptionRequest) -> str:
    """Month, season and hour of the last input; nothing where time stamps are no calendar."""
    if request.description.time_stamps == "nominal":
        return ""
    now = request.times[-1].astype("datetime64[s]").item()
    grid = request.description.grid
    month, hour = f"{now:%B}", f"{now:%H} UTC"
    if request.description.time_stamps == "local":
        return f"{now:%A} in {month}, {now:%H:%M} local time"
    if not grid.geographic:
        return f"{now:%A} in {month}, {hour}"
    if grid.y[0] <= -15 and grid.y[-1] >= 15:
        return f"{month}, northern {season_of(now.month)}, {hour}"
    middle = float(grid.y.mean())
    part = f"{season_of(now.month if middle >= 0 else now.month + 6)}, " if abs(middle) > 15 else ""
    local = (now.hour + float(grid.x.mean()) / 15) % 24
    return f"{month}, {part}{hour}, local {part_of_day(local)}"


def season_of(month: int) -> str:
    """The northern season of a month; the southern one is that of six months on."""
    return ("winter", "spring", "summer", "autumn")[month % 12 // 3]


def part_of_day(hour: float) -> str:
    return ("night", "early morning", "morning", "afternoon", "evening", "night")[int(hour // 4)]


def known(request: CaptionRequest) -> str:
    """What was known at the time of the last frame, as far as a sentence has room."""
    facts = (
        [clean(fact).replace(":", "").strip(" .") for fact in request.context[-1].split(";")] if request.context else []
    )
    told = [
        fact for index, fact in enumerate(facts) if fact and len(" ".join(facts[: index + 1]).split()) <= MAX_CONTEXT
    ]
    return f"Known: {', '.join(told)}" if told else ""


def span(request: CaptionRequest) -> str:
    """Over how long the inputs reach."""
    seconds = float((request.times[-1] - request.times[0]) / np.timedelta64(1, "s"))
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 3 * size or (seconds and unit == "second"):
            return f"Over {number(seconds / size)} {unit}s"
    return ""


def place(chart: Chart, row: float, column: float) -> str:
    """Where a cell lies: degrees on the globe, which ninth and the coordinates on a plane."""
    y = float(np.interp(row, np.arange(len(chart.y)), chart.y))
    columns = np.arange(len(chart.x) + 1)
    x = float(np.interp(column % len(chart.x) if chart.periodic else column, columns, [*chart.x, chart.x[0] + 360]))
    if chart.geographic:
        return f"at {latitude(y, chart.grain)} {longitude(x, chart.grain)}"
    vertical = binned(row / max(1, len(chart.y) - 1), (1 / 3, 2 / 3), ("lower", "middle", "upper"))
    horizontal = binned(column / max(1, len(chart.x) - 1), (1 / 3, 2 / 3), ("left", "centre", "right"))
    return f"at {vertical} {horizontal} (x {rounded(x, chart.grains[1]):g} y {rounded(y, chart.grains[0]):g})"


def movement(chart: Chart, rows: float, columns: float, still: str) -> str:
    """A displacement in cells as degrees east and north, or right and up in the axes' units."""
    steps = (chart.step, chart.step) if chart.geographic else tuple(smaller(grain) for grain in chart.grains)
    up = rounded(rows * chart.extent[0] / len(chart.y), steps[0])
    along = rounded(columns * chart.extent[1] / len(chart.x), steps[1])
    names = (("east", "west"), ("north", "south")) if chart.geographic else (("right", "left"), ("up", "down"))
    parts = [f"{abs(value):g} {pair[value < 0]}" for value, pair in zip((along, up), names, strict=True) if value]
    return " and ".join(parts) or still


def direction(chart: Chart, up: float, along: float) -> str:
    """One of eight directions of a vector."""
    vertical, horizontal = (
        (("north", "south"), ("east", "west")) if chart.geographic else (("up", "down"), ("right", "left"))
    )
    eighth = round(np.degrees(np.arctan2(up, along)) / 45) % 8
    first = vertical[0] if eighth in (1, 2, 3) else vertical[1] if eighth in (5, 6, 7) else ""
    second = horizontal[0] if eighth in (7, 0, 1) else horizontal[1] if eighth in (3, 4, 5) else ""
    return first + second if chart.geographic else " and ".join(filter(None, (first, second)))


def growth_words(growth: float, slow: float) -> str:
    """`slow`: a relative growth that is just worth a word."""
    return binned(
        growth, (-5 * slow, -slow, slow, 5 * slow), ("decaying", "weakening", "steady", "growing", "growing fast")
    )


def latitude(degrees: float, grain: float) -> str:
    value = rounded(degrees, grain)
    return f"{abs(value):g}{'NS'[value < 0]}"


def longitude(degrees: float, grain: float) -> str:
    """Degrees east or west of Greenwich, whatever the grid counts from; the date line is 180E."""
    value = rounded((degrees + 180) % 360 - 180, grain)
    return f"{abs(value):g}{'EW'[-180 < value < 0]}"


def round_below(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= value * (1 + 1e-9)))


def smaller(grain: float) -> float:
    """The next smaller of the numbers that `round_below` gives."""
    return round_below(grain * 0.6)


def rounded(value: float, grain: float) -> float:
    return round(round(value / grain) * grain, 6) + 0.0  # no negative zero


def number(value: float) -> str:
    """Two significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 1 - int(np.floor(np.log10(abs(value))))
    return (
        f"{round(value, digits):.{max(0, digits)}f}".rstrip("0").rstrip(".")
        if digits > 0
        else f"{round(value, digits):.0f}"
    )


def binned(value: float, edges: Sequence[float], names: Sequence[str]) -> str:
    """The name of the bin that `value` falls into; one more name than edges."""
    return names[int(np.searchsorted(edges, value))]


def named(variable: Variable) -> str:
    """A variable's name with its units, to begin a sentence."""
    name = sentence_case((variable.long_name or variable.name).replace("_", " "))
    units = re.sub(r"\*\*|\^", "", variable.units)  # m**2 s**-2 -> m2 s-2
    return f"{name} ({units})" if units not in ("", "1") else name


def sentence_case(name: str) -> str:
    return name[:1].upper() + name[1:]


# The paragraph.


def compose(clauses: Sequence[Clause], max_words: int, max_pieces: int = MAX_PIECES) -> str:
    """The most important clauses that fit, in the order in which they were said."""
    kept: set[int] = set()
    for index in sorted(range(len(clauses)), key=lambda index: clauses[index].rank):
        text = paragraph([clauses[i] for i in sorted({*kept, index})])
        if len(text.split()) <= max_words and pieces(text) <= max_pieces:
            kept.add(index)
    return paragraph([clauses[i] for i in sorted(kept)])


def paragraph(clauses: Sequence[Clause]) -> str:
    sentences: dict[tuple[object, ...], tuple[str, list[str]]] = {}
    for clause in clauses:
        sentences.setdefault(clause.sentence, (clause.head, []))[1].append(clause.text)
    return " ".join(f"{head}{': ' * bool(head)}{'; '.join(texts)}." for head, texts in sentences.values())


def pieces(text: str) -> int:
    """At most how many word pieces a BERT-like tokenizer makes of `text`: longer words and numbers break.

    Of scripts without spaces every sign is one.
    """
    parts = re.findall(r"[\u2e80-\uffff]|[^\W\d_\u2e80-\uffff]+|\d+|[^\w\s]|_", text)
    return sum(1 + (len(part) - 1) // (3 if part.isdigit() else 7) for part in parts)
