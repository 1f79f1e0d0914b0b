"""Whether the traffic twin is lively: how fast its fields change, its rhythm, and what incidents are worth knowing.

The figures are unit-free, so that they can be held against those published of TaxiBJ; docs/twins.md does that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.traffic.city import Array
from pipeline.datasets.traffic.days import KINDS, SLOTS, TAIL, Incident
from pipeline.errors import UserError

log = logging.getLogger(__name__)

LEADS = {"30 min": 1, "2 h": 4, "24 h": SLOTS, "7 d": 7 * SLOTS}
LEAD = 4  # slots ahead at which knowing an incident is judged: two hours
JUDGED_DAYS = 60  # a shorter record is measured, not judged
LIVELY = {  # what is allowed: seeds of 60 and of 120 days lie well within
    "persistence error at 30 min": (0.15, 0.25),
    "persistence error at 2 h": (0.37, 0.55),
    "persistence error at 24 h": (0.29, 0.48),
    "persistence error at 7 d": (0.29, 0.62),
    "rhythm of a day": (0.4, 2.0),
    "rhythm of a week": (0.03, 2.0),
    "scatter": (1.5, 1.7),
    "share of a known kind": (0.02, 0.1),
}


@dataclass(frozen=True)
class Sample:
    counts: NDArray[np.float32]  # (time, 2, rows, columns)
    expected: NDArray[np.float32]  # the same without the counts' own scatter
    incidents: list[Incident]
    levels: Array  # (time,) trips that set out in the city


@dataclass(frozen=True)
class Worth:
    """What three forecasters miss of the incidents under way, LEAD slots ahead: mean squared error over all frames.

    All know how many lanes are closed, for how long they have been, and that others will come no sooner than
    chance. The first knows no more, the second also the kind, the third also the end and misses nothing.
    """

    unknown: float
    kind_known: float
    predictable: float  # mean squared error of a plain forecast less that of the counts' own scatter
    frames: float  # share of frames with an incident under way

    @property
    def kind_share(self) -> float:
        """Of the predictable error, what knowing the kind takes away."""
        return (self.unknown - self.kind_known) / self.predictable

    @property
    def end_share(self) -> float:
        """The same for knowing kind and end."""
        return self.unknown / self.predictable


def check_liveliness(sample: Sample) -> None:
    """Logs `measured`; raises UserError if a figure of a record of 60 days or more is out of its range."""
    days = len(sample.counts) // SLOTS
    for name, value in measured(sample).items():
        low, high = LIVELY.get(name, (-np.inf, np.inf))
        finding = f"{name} of the simulated city is {value:.3g}"
        if low <= value <= high:
            log.info("%s", finding)
        elif days < JUDGED_DAYS:
            log.warning("%s, not judged on a record of fewer than %d days", finding, JUDGED_DAYS)
        else:
            raise UserError(f"{finding}; {low:g} to {high:g} is allowed. Another seed may give a livelier city")


def measured(sample: Sample) -> dict[str, float]:
    """Every figure by its name."""
    counts = sample.counts
    worth = incident_worth(sample)
    total = counts.sum(axis=(1, 2, 3), dtype=np.float64)
    hours = (total.reshape(-1, SLOTS) / total.reshape(-1, SLOTS).mean(axis=1, keepdims=True)).ravel()
    return {
        **{f"persistence error at {name}": persistence(counts, lead) for name, lead in LEADS.items()},
        "persistence error at 30 min, share of the largest count": of_largest(counts, counts[1:] - counts[:-1]),
        "plain forecast's error at 30 min, share of the largest count": float(
            plain_error(counts, 1) ** 0.5 / counts.max()
        ),
        "historical average's error, share of the largest count": of_largest(counts, historical_error(counts)),
        "rhythm of a day": peak(total, SLOTS, SLOTS // 4),
        "rhythm of a week": peak(hours, 7 * SLOTS, 3 * SLOTS),
        "scatter": scatter(sample),
        "share of frames with an incident": worth.frames,
        "share of a known kind": worth.kind_share,
        "share of a known end": worth.end_share,
    }


def persistence(counts: NDArray[np.float32], lead: int) -> float:
    """Root mean square change in `lead` slots over the standard deviation of all values; NaN if there is none."""
    if len(counts) <= lead:
        return float("nan")
    change = counts[lead:] - counts[:-lead]
    return float(np.sqrt(np.mean(change**2, dtype=np.float64)) / counts.std(dtype=np.float64))


def of_largest(counts: NDArray[np.float32], errors: NDArray[np.float32]) -> float:
    """Root mean square of `errors` over the largest count; NaN if there are none."""
    return float(np.sqrt(np.mean(errors**2, dtype=np.float64)) / counts.max()) if errors.size else float("nan")


def historical_error(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Errors of the mean of the hour and day of the week over the whole weeks of the first 70 %, on what follows."""
    weeks = int(0.7 * len(counts)) // (7 * SLOTS)
    known = counts[: weeks * 7 * SLOTS].reshape(weeks, 7 * SLOTS, *counts.shape[1:])
    rest = counts[len(known) * 7 * SLOTS :] if weeks else counts[:0]
    return rest - known.mean(axis=0)[np.arange(len(rest)) % (7 * SLOTS)] if weeks else rest


def peak(series: Array, lag: int, beside: int) -> float:
    """How far the autocorrelation at `lag` stands above the higher one of lag -/+ `beside`."""
    return correlation(series, lag) - max(correlation(series, lag - beside), correlation(series, lag + beside))


def correlation(series: Array, lag: int) -> float:
    return float(np.corrcoef(series[lag:], series[:-lag])[0, 1]) if len(series) > lag + 1 else float("nan")


def scatter(sample: Sample) -> float:
    """Variance of the counts about their expectation over the mean count; 1 for a Poisson process."""
    return _noise(sample) / float(sample.counts.mean(dtype=np.float64))


def _noise(sample: Sample) -> float:
    return float(np.mean((sample.counts - sample.expected) ** 2, dtype=np.float64))


# ---- what it is worth to know an incident


def incident_worth(sample: Sample, lead: int = LEAD) -> Worth:
    """To first order: as if no street were full and no two incidents met."""
    missed = np.zeros(2)
    under_way = np.zeros(len(sample.levels), dtype=bool)
    for incident in sample.incidents:
        under_way[incident.start : incident.end] = True
        missed += _missed(incident, sample.levels, lead)
    values = (len(sample.levels) - lead) * sample.counts[0].size
    predictable = plain_error(sample.counts, lead) - _noise(sample)
    return Worth(missed[0] / values, missed[1] / values, predictable, float(under_way.mean()))


def _missed(incident: Incident, levels: Array, lead: int) -> Array:
    """(2,) squared errors of the first and the second forecaster, in sum over cells, flows and times of forecast."""
    through = np.stack([incident.change, incident.change])
    passing, starts, ends = np.split(incident.surge, 3)
    leaving = np.stack([passing + ends, passing + starts])
    gram = np.array([[np.sum(a * b) for b in (through, leaving)] for a in (through, leaving)])
    total = np.zeros(2)
    truth = _course(incident.kind, incident.slots)
    for elapsed in range(incident.slots):
        at = incident.start + elapsed + lead
        if at >= len(levels):
            break
        size = np.array([incident.strength * levels[at] / incident.level, 1.0])
        for forecaster, kinds in enumerate((list(KINDS), [incident.kind])):
            error = (_at(truth, elapsed + lead) - _forecast(kinds, truth, elapsed, lead)) * size
            total[forecaster] += error @ gram @ error
    return total


def _forecast(kinds: list[str], truth: Array, elapsed: int, lead: int) -> Array:
    """(2,) closed share and surge that are expected of the `kinds` whose course so far is that of the `truth`."""
    possible = [
        (chance, course)
        for chance, course in _courses(kinds)
        if len(course) - TAIL > elapsed and np.array_equal(course[: elapsed + 1], truth[: elapsed + 1])
    ]
    chances = np.array([chance for chance, _ in possible])
    return chances @ np.array([_at(course, elapsed + lead) for _, course in possible]) / chances.sum()


def _courses(kinds: list[str]) -> Iterator[tuple[float, Array]]:
    for kind in kinds:
        for slots, chance in KINDS[kind].slots.items():
            yield KINDS[kind].share * chance, _course(kind, slots)


def _course(kind: str, slots: int) -> Array:
    """(slots + TAIL, 2)"""
    return np.stack(KINDS[kind].course(slots), axis=1)


def _at(course: Array, slot: int) -> Array:
    return course[slot] if slot < len(course) else np.zeros(2)


def plain_error(counts: NDArray[np.float32], lead: int) -> float:
    """Mean squared error of a plain forecast: the mean of the hour and day of the week, and what each cell's
    departure from it keeps after `lead` slots by linear regression; both fitted on the record itself."""
    whole = len(counts) // (7 * SLOTS) * 7 * SLOTS
    weekly = counts[:whole].reshape(-1, 7 * SLOTS, *counts.shape[1:]) if whole else counts[None]
    usual = weekly.mean(axis=0, dtype=np.float64).astype(np.float32)
    departure = counts - usual[np.arange(len(counts)) % len(usual)]
    now, later = departure[:-lead], departure[lead:]
    slope = (now * later).sum(axis=0) / np.maximum((now**2).sum(axis=0), 1e-9)
    return float(np.mean((later - slope * now) ** 2, dtype=np.float64))
