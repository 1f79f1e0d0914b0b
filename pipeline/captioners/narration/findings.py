"""What a chart shows, each finding in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.captioners.narration.chart import Chart, Mask
from pipeline.captioners.narration.measures import Centre, centre, dominant_wave, drift, peak, slopes
from pipeline.captioners.narration.places import direction, movement, place
from pipeline.captioners.narration.rounding import binned, number, rounded, smaller
from pipeline.captioners.narration.vocabulary import Words, growth_words
from pipeline.coarse import reach, spread

EVEN = 0.005  # of their mean: two totals that differ by less are called equal
FAINT = 0.1  # standard deviations that are not worth a word


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
