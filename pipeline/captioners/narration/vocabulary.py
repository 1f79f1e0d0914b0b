"""A forecaster's words for one kind of field, which units alone choose between."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.captioners.narration.rounding import binned
from pipeline.store import Variable

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


def words_for(units: str) -> Words:
    plain_units = re.sub(r"[\s.]", "", units.lower())
    if plain_units in TEMPERATURE_UNITS:
        return TEMPERATURE_WORDS
    return HEIGHT_WORDS if plain_units in HEIGHT_UNITS else Words()


def growth_words(growth: float, slow: float) -> str:
    """`slow`: a relative growth that is just worth a word."""
    return binned(
        growth, (-5 * slow, -slow, slow, 5 * slow), ("decaying", "weakening", "steady", "growing", "growing fast")
    )


def named(variable: Variable) -> str:
    """A variable's name with its units, to begin a sentence."""
    name = sentence_case((variable.long_name or variable.name).replace("_", " "))
    units = re.sub(r"\*\*|\^", "", variable.units)  # m**2 s**-2 -> m2 s-2
    return f"{name} ({units})" if units not in ("", "1") else name


def sentence_case(name: str) -> str:
    return name[:1].upper() + name[1:]
