"""How a paragraph begins: when it is, how long the inputs reach, and what was known at the last frame's time."""

from __future__ import annotations

import numpy as np

from pipeline.captioners.base import CaptionRequest
from pipeline.captioners.narration.rounding import number
from pipeline.captions import clean

MAX_CONTEXT = 20  # words about what was known at the last frame's time


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
