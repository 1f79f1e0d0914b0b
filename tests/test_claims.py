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


TAXIS = Reader(
    (Variable("inflow", "1", "what entered the cell"), Variable("outflow", "1", "what left the cell")), False
)
FIRE = Reader((Variable("temperature", "K", "temperature"), Variable("smoke", "m-1", "smoke density")), False)
IN, OUT = 0, 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("A hot spot at (35, 2.5)", Place(x=(35, 35), y=(2.5, 2.5))),
        ("A hot spot near x = 35 m, y = 2.5 m", Place(x=(35, 35), y=(2.5, 2.5))),
        ("A hot spot between x 30 and 40", Place(x=(30, 40))),
        ("A hot spot at x 30-40 m", Place(x=(30, 40))),
        ("A hot spot at x -12.5", Place(x=(-12.5, -12.5))),
        ("A hot spot in row 3, column 17", Place(y=(3, 3), x=(17, 17))),
        ("A hot spot in the upper left", named("north", "west")),
        ("A hot spot in the lower right-hand corner", named("south", "east")),
    ],
)
def test_places_on_a_plane_are_read_as_people_write_them(text: str, place: Place) -> None:
    assert FIRE.claims(text) == [Claim("place", 0, 1, place)]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Smoke spreads to the right.", [(1, 1, ""), (1, 1, "e")]),
        ("Temperature: above 430 in 19 % of area, spreading right by 4 and left by 2; hottest 800", None),
        (
            "Temperature: the hot layer expands towards the left and shrinks later",
            [(0, 1, ""), (0, 1, "w"), (0, -1, "")],
        ),
        ("The smoke does not spread to the right.", []),
        ("Something spreads.", []),
    ],
)
def test_what_spreads_is_read_with_the_sides_it_spreads_to(
    text: str, claims: list[tuple[int, int, str]] | None
) -> None:
    expected = [(0, 1, ""), (0, 1, "e"), (0, 1, "w")] if claims is None else claims
    found = [claim for claim in FIRE.claims(text) if claim.kind in ("spread", "movement")]
    assert sorted((claim.variable, claim.sign, claim.direction) for claim in found) == sorted(expected)
    assert {claim.kind for claim in found} <= {"spread"}


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("Inflow exceeds outflow.", Claim("balance", IN, 1, other=OUT)),
        ("Outflow is higher than inflow in the centre.", Claim("balance", OUT, 1, named("centre"), other=IN)),
        ("Inflow is clearly lower than the outflow at x 3 y 5.", Claim("balance", IN, -1, at(5, 3), other=OUT)),
    ],
)
def test_of_two_fields_it_is_read_which_exceeds_which(text: str, claim: Claim) -> None:
    assert TAXIS.claims(text) == [claim]
    assert READER.claims(text) == []


def test_the_words_of_a_long_name_are_no_places() -> None:
    assert TAXIS.claims("What left the cell: rising; high +3 at lower right (x 20 y 3).") == [
        Claim("trend", OUT, 1),
        Claim("place", OUT, 1, Place(frozenset({"south", "east"}), y=(3, 3), x=(20, 20))),
    ]


def test_busy_places_are_high_and_a_plume_that_rises_is_no_trend() -> None:
    assert TAXIS.claims("Inflow is busiest in the centre.") == [Claim("place", IN, 1, named("centre"), extreme=True)]
    assert TAXIS.claims("Hot spots of inflow lie in the upper right")[0].sign == 1
    assert not [claim for claim in FIRE.claims("The smoke rises and the temperature is seen.") if claim.kind == "trend"]
    assert FIRE.claims("Temperature: the fire eases.") == [Claim("trend", 0, -1)]
