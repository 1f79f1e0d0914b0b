"""What a caption claims of the fields, read from free text by the words of weather charts, traffic maps and fires.

Three kinds of claim: "trend" (warming, falling), "place" (a ridge or a cold pool lies there) and "movement" (it
moves east, poleward). On planes two more: "spread" (the area that stands out grows, to the right) and "balance"
(inflow exceeds outflow). A sentence is read word by word; a place belongs to the last thing named that has none yet,
or else to what follows; a movement to the last thing named, or else to the whole pattern. What cannot be told
(of which variable, a direction without a subject) makes no claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.store import Variable

Kind = Literal["trend", "place", "movement", "spread", "balance"]
KINDS: tuple[Kind, ...] = ("trend", "place", "movement")  # on any grid
PLANE_KINDS: tuple[Kind, ...] = (*KINDS, "spread", "balance")
Range = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where something is said to be: named regions, all at once, and ranges of the axes.

    names: of "north", "south", "east", "west", "centre", "east hemisphere", "west hemisphere", "tropics",
    "subtropics", "midlatitudes", "polar". y, x: degrees, or a plane's coordinates.
    """

    names: frozenset[str] = frozenset()
    y: Range | None = None
    x: Range | None = None

    @property
    def given(self) -> bool:
        return bool(self.names or self.y or self.x)

    @property
    def measured(self) -> bool:
        """Whether it says degrees or coordinates."""
        return bool(self.y or self.x)


NOWHERE = Place()


@dataclass(frozen=True)
class Claim:
    """One checkable statement.

    variable: its number; None: whichever. sign: +1 or -1 for a high or a low, a rise or a fall, an area that grows
    or shrinks, a variable that is more or less than the `other`; 0 for a front or, with a movement, for the whole
    pattern. direction: e, w, n, s, or p and q for poleward and equatorward.
    extreme: the field's own extreme may be meant rather than that of its anomaly (warmest, maximum).
    """

    kind: Kind
    variable: int | None
    sign: int
    place: Place = NOWHERE
    direction: str = ""
    extreme: bool = False
    other: int | None = None


NUMBER = r"\d{1,3}(?:\.\d+)?"
DEGREE = r"\s*(?:°|º|degrees?\b|deg\b\.?)?\s*"
LATITUDE = rf"(?:{NUMBER}{DEGREE}[ns]\b|{NUMBER}\s*(?:°|º|degrees?\b|deg\b\.?)\s*(?:north|south)\b)"
LONGITUDE = rf"(?:{NUMBER}{DEGREE}[ew]\b|{NUMBER}\s*(?:°|º|degrees?\b|deg\b\.?)\s*(?:east|west)\b)"
TO = r"\s*(?:-|\u2013|to|and)\s*"
COMPASS = r"(?:(?:north|south)[\s-]?(?:east|west)|north|south|east|west)"

TOKENS = (
    ("latitudes", rf"{NUMBER}(?:{DEGREE}[ns]\b)?{DEGREE}{TO}{LATITUDE}"),
    ("longitudes", rf"{NUMBER}(?:{DEGREE}[ew]\b)?{DEGREE}{TO}{LONGITUDE}"),
    ("latitude", LATITUDE),
    ("longitude", LONGITUDE),
    ("slope", rf"\bfall(?:ing|s)?\s+(?:to(?:ward)?s?\s+(?:the\s+)?)?(?:{COMPASS}|up|down|left|right)\b"),
    ("origin", rf"\bfrom\s+(?:the\s+)?(?:{COMPASS}|left|right|top|bottom)\s+(?=to)"),
    ("named", r"\b(?:north|south)\s+(?:atlantic|pacific|america|sea|africa)\b"),
    ("pole", r"\b(?:north|south)\s+pole\b"),
    (
        "verb",
        r"\b(?:mov(?:e[sd]?|ing|ement)|drift(?:s|ed|ing)?|shift(?:s|ed|ing)?|propagat\w+|travel\w*|migrat\w+"
        r"|advanc\w+|track(?:s|ed|ing)|progress\w*|displac\w+|retreat\w*|head(?:s|ed|ing))\b",
    ),
    ("towards", rf"\b{COMPASS}wards?\b|\b(?:pole|equator|left|right|up|down)wards?\b"),
    ("hemisphere", r"\b(?:east|west)ern\s+hemisphere\b"),
    ("compass", rf"\b{COMPASS}(?:ern(?:most)?)?\b|\bnh\b|\bsh\b"),
    ("band", r"\b(?:sub-?tropic|extra-?tropic|tropic|mid-?(?:dle)?[\s-]?latitude|equator|arctic|antarctic)\w*"),
    ("band2", r"\b(?:high|low|middle|polar|temperate)(?:er)?[\s-]+(?:latitude|region|zone|cap)s?\b"),
    ("band3", r"\bpol(?:ar|es?)\b"),
    ("side", r"\b(?:upper|lower|top|bottom|left|right|cent(?:re|er|ral)|up|down)\b"),
    ("front", r"\b(?:(?:warm|cold)\s+)?fronts?\b|\bgradients?\b"),
    ("trend", r"\b(?:warm(?:ing|s|ed)|ris(?:e[sn]?|ing)|rose|increas\w+|cool(?:ing|s|ed)|fall(?:s|en|ing)?|fell"
              r"|decreas\w+|declin\w+|drop(?:s|ped|ping))\b"),
    ("warm", r"\b(?:warm(?:er|est|th)?|hot(?:ter|test)?)\b"),
    ("cold", r"\b(?:cold(?:er|est)?|cool(?:er|est)?)\b"),
    ("ridge", r"\b(?:ridg\w+|anti-?cyclon\w*|high[\s-]pressure)\b"),
    ("trough", r"\b(?:trough\w*|cyclon\w*|low[\s-]pressure)\b"),
    ("high", r"\b(?:high(?:s|est)?|maxim(?:um|a)|peaks?|positive\s+anomal\w+)\b(?![\s-]*(?:level|altitude))"),
    ("low", r"\b(?:low(?:s|est)?|minim(?:um|a)|negative\s+anomal\w+)\b(?![\s-]*(?:level|altitude))"),
    ("word", r"[a-z][a-z0-9_]*\d*"),
    ("stop", r"[,;:()]"),
)  # fmt: skip
COORDINATE = r"-?\d+(?:\.\d+)?"
AT = rf"\s*(?:=|:|\u2248|~|of|about|near|around)?\s*{COORDINATE}(?:{TO}{COORDINATE})?(?!\s*(?:%|percent))"
LENGTH = r"(?:\s*(?:k?m|met(?:re|er)s?|cells?)\b)?"
PLANE_TOKENS = (
    ("point", rf"\(\s*{COORDINATE}{LENGTH}\s*,\s*{COORDINATE}{LENGTH}\s*\)"),
    ("x", rf"\b(?:x|columns?){AT}{LENGTH}"),
    ("y", rf"\b(?:y|rows?){AT}{LENGTH}"),
    ("ascent", r"\b(?:plume|smoke|gas(?:es)?|air|layer|flames?)\s+ris\w+"),
    ("spread", r"\b(?:spread(?:s|ing)?|expand\w*|widen\w*|shrink\w*|shrunk|contract(?:s|ed|ing))\b"),
    (
        "than",
        r"\b(?:exceed(?:s|ed|ing)?|outweigh\w*|surpass\w*)\b"
        r"|\b(?:more|higher|larger|greater|stronger|less|lower|smaller|weaker)\b(?=(?:\s+\w+){0,2}\s+than\b)",
    ),
    ("trend", r"\b(?:climb\w*|surg\w+|subsid(?:es?|ed|ing)|dwindl\w+|eas(?:es|ed|ing)|thin(?:s|ned|ning))\b"),
    ("warm", r"\b(?:hot[\s-]?spots?|plumes?|flames?)\b"),
    ("high", r"\b(?:busy|busi(?:er|est)|crowded|congested|dense(?:st)?|thickest)\b"),
    ("low", r"\b(?:quietest|emptiest|sparse(?:st)?|clearest)\b"),
)


def _pattern(tokens: Sequence[tuple[str, str]]) -> re.Pattern[str]:
    """One that tells which of `tokens`, each a name and a pattern, it has found; the first that fits."""
    names: dict[str, int] = {}
    parts = []
    for name, pattern in tokens:
        names[name] = names.get(name, 0) + 1  # a name may stand for several patterns
        parts.append(f"(?P<{name}{'_' * (names[name] - 1)}>{pattern})")
    return re.compile("|".join(parts))


GLOBE_PATTERN, PLANE_PATTERN = _pattern(TOKENS), _pattern((*PLANE_TOKENS, *TOKENS))

SIGNS = {"warm": 1, "ridge": 1, "high": 1, "cold": -1, "trough": -1, "low": -1, "front": 0}
EXTREME = re.compile(r"est$|^maxim|^minim|^peak")
NEGATED = re.compile(r"\b(?:no|not|without|neither|nor|little)\s+(?:\w+\s+){0,2}$")
DIRECTION = re.compile(r"(?:north|south|east|west)$")
FALLING = re.compile(r"cool|fall|fell|decreas|declin|drop|subsid|dwindl|eas|thin")
SHRINKING = re.compile(r"shr|contract")
OF = re.compile(r"\s+(?:of|in|for)\s+(?:the\s+)?")
LESS = re.compile(r"less|lower|smaller|weaker")
SENTENCE = re.compile(r"(?<=[.!?])\s+|;\s+(?=(?:in|over|the)\b)|\n+")
BETWEEN_NAMES = re.compile(r"[\s-]*(?:(?:of|the|in|hemispher\w+|hemisphere's|part|half|side)[\s-]*)*")
BETWEEN_DEGREES = re.compile(r"[\s,(/]*(?:(?:and|near|around|about|at|by)\s+)*")
SIDES = {"upper": "north", "top": "north", "up": "north", "lower": "south", "bottom": "south", "down": "south",
         "left": "west", "right": "east"}  # fmt: skip
LETTERS = {"north": "n", "south": "s", "east": "e", "west": "w"}

TEMPERATURE_UNITS = {"k", "kelvin", "c", "degc", "°c", "celsius", "degree_celsius", "degrees_celsius"}
NO_NAME = {"at", "of", "the", "in", "hpa", "and", "level", "mean", "m", "pressure_level", "field"}
MASS_WORDS = ("geopotential", "height", "pressure")


@dataclass
class _Thing:
    """Something named in a sentence, until all that is said of it has been read."""

    kind: Kind
    variable: int | None
    sign: int
    place: Place
    extreme: bool = False
    other: int | None = None
    own_place: bool = False
    end: int = 0  # of its name, in the sentence


@dataclass
class _Sentence:
    """What has been read of a sentence."""

    region: Place = NOWHERE
    things: list[_Thing] = field(default_factory=list)
    moving: bool = False
    spreading: bool = False  # the directions that follow are of the area just named
    movements: list[tuple[_Thing | None, Place, int | None, str]] = field(default_factory=list)
    place_end: int = -1  # where the last place ended, and what it was given to
    place_of: _Thing | None = None
    compared: tuple[int, int] | None = None  # a variable that is more (+1) or less (-1) than what is named next


class Reader:
    """Reads captions of records with these variables on such a grid."""

    def __init__(self, variables: Sequence[Variable], geographic: bool) -> None:
        self._geographic = geographic
        self._pattern = GLOBE_PATTERN if geographic else PLANE_PATTERN
        self._count = len(variables)
        self._long_names = {v.long_name.lower(): v.name.lower() for v in variables if v.long_name and not geographic}
        names = [_name_words(variable) - (set() if geographic else set(SIDES)) for variable in variables]
        self._words = {word: [n for n, own in enumerate(names) if word in own] for own in names for word in own}
        self._warm = self._only(n for n, v in enumerate(variables) if _is_temperature(v))
        self._mass = self._only(n for n, own in enumerate(names) if own & set(MASS_WORDS))

    def claims(self, text: str) -> list[Claim]:
        """All claims of a caption, in order; none twice."""
        found: list[Claim] = []
        variable: int | None = 0 if self._count == 1 else None
        text = text.lower()
        for long_name, name in self._long_names.items():  # its words may be those of places: what left the cell
            text = text.replace(long_name, name)
        for sentence in SENTENCE.split(text):
            read = _Sentence()
            scores = dict.fromkeys(range(self._count), 0)
            named: int | None = None  # the last variable that a word alone told
            for token in self._pattern.finditer(sentence):
                kind, word = (token.lastgroup or "").rstrip("_"), token[0]
                if kind in ("word", "band") and word in self._words:
                    variable = self._mentioned(scores, word, variable)
                    named = self._words[word][0] if len(self._words[word]) == 1 else named
                    self._compare(read, named, token.end())
                    self._own(read, sentence, token, named)
                elif kind == "than":
                    read.compared = None if named is None else (named, -1 if LESS.match(word) else 1)
                else:
                    self._take(read, sentence, token, kind, word, variable)
            found += _claims_of(read)
        return list(dict.fromkeys(found))

    def _only(self, numbers: Iterator[int]) -> int | None:
        """The one variable of a kind; None if there are several or none, but the only one of the record."""
        several = list(numbers)
        return several[0] if len(several) == 1 else 0 if self._count == 1 else None

    def _mentioned(self, scores: dict[int, int], word: str, before: int | None) -> int | None:
        """The variable that most of the words in this sentence name."""
        for number in self._words[word]:
            scores[number] += 1
        best = [number for number, score in scores.items() if score == max(scores.values())]
        return best[0] if len(best) == 1 else before if before in best else None

    def _own(self, read: _Sentence, sentence: str, token: re.Match[str], named: int | None) -> None:
        """On a plane: "hot spots of inflow", whatever was spoken of before."""
        last = read.things[-1] if read.things and not self._geographic else None
        if last and last.kind == "place" and OF.fullmatch(sentence[last.end : token.start()]):
            last.variable = named

    def _compare(self, read: _Sentence, named: int | None, end: int) -> None:
        """The second of two variables that are compared has been named."""
        if read.compared and named not in (None, read.compared[0]):
            one, sign = read.compared
            read.things.append(_Thing("balance", one, sign, read.region, other=named, end=end))
            read.compared = None

    def _take(
        self, read: _Sentence, sentence: str, token: re.Match[str], kind: str, word: str, variable: int | None
    ) -> None:
        if kind == "stop":
            read.moving = read.spreading = False
        elif kind == "spread":
            if not NEGATED.search(sentence[: token.start()]):
                sign = -1 if SHRINKING.match(word) else 1
                read.things.append(_Thing("spread", variable, sign, read.region, end=token.end()))
                read.moving = read.spreading = True
        elif kind in SIGNS or kind == "trend":
            if not NEGATED.search(sentence[: token.start()]):
                self._name(read, token, kind, word, variable)
            read.moving = read.spreading = False
        elif kind == "verb":
            read.spreading = False
            read.moving = not NEGATED.search(sentence[: token.start()])
        elif read.moving and kind in ("latitude", "longitude") and (way := DIRECTION.search(word)):
            self._move(read, way[0], variable)
        elif kind == "towards" or (read.moving and kind in ("compass", "side") and not word.endswith(("ern", "most"))):
            if not NEGATED.search(sentence[: token.start()]):
                self._move(read, word.replace("wards", "").replace("ward", ""), variable)
        elif kind not in ("word", "slope", "origin", "named", "ascent"):
            self._place(read, sentence, token, kind, word)

    def _name(self, read: _Sentence, token: re.Match[str], kind: str, word: str, variable: int | None) -> None:
        """A thing, or a trend, is named."""
        thermal = kind in ("warm", "cold") or word.startswith(("warm", "cool"))
        mass = kind in ("ridge", "trough")
        thermal = thermal and (self._geographic or self._warm is not None)  # hot spots of traffic
        of = self._warm if thermal else self._mass if mass and self._mass is not None else variable
        if kind == "trend":
            sign = -1 if FALLING.match(word) else 1
            read.things.append(_Thing("trend", of, sign, read.region, end=token.end()))
            return
        last = read.things[-1] if read.things else None
        extreme = EXTREME.search(word) is not None
        if last and _same(last, SIGNS[kind], token.start()):
            last.end, last.extreme = token.end(), last.extreme or extreme
            return
        read.things.append(_Thing("place", of, SIGNS[kind], read.region, extreme, end=token.end()))

    def _move(self, read: _Sentence, word: str, variable: int | None) -> None:
        if word in ("up", "down") and self._geographic:
            return
        word = SIDES.get(word, word)
        letters = {"pole": "p", "equator": "q"}.get(word) or "".join(LETTERS[n] for n in LETTERS if n in word)
        things = [thing for thing in read.things if thing.kind == ("spread" if read.spreading else "place")]
        subject = things[-1] if things else None
        read.movements += [(subject, read.region, variable, letter) for letter in letters]

    def _place(self, read: _Sentence, sentence: str, token: re.Match[str], kind: str, word: str) -> None:
        place = self._where(kind, word)
        if not place.given:
            return
        gap = sentence[read.place_end : token.start()] if read.place_end >= 0 else "."
        if (BETWEEN_DEGREES if place.measured else BETWEEN_NAMES).fullmatch(gap):
            self._extend(read, place)
        else:
            self._attach(read, place)
        read.place_end = token.end()

    def _extend(self, read: _Sentence, place: Place) -> None:
        """A place goes on: a longitude after a latitude, midlatitudes of the north."""
        before = read.place_of.place if read.place_of else read.region
        whole = _joined(before, place)
        if read.place_of:
            read.place_of.place = whole
        else:
            read.region = whole

    def _attach(self, read: _Sentence, place: Place) -> None:
        """A place belongs to the last thing named if that has none of its own, or else to what follows."""
        last = read.things[-1] if read.things else None
        if last and not last.own_place and (place.measured or not last.place.given):
            last.place, last.own_place, read.place_of = place, True, last
        else:
            read.region, read.place_of = place, None

    def _where(self, kind: str, word: str) -> Place:
        if kind in ("point", "x", "y"):
            return _coordinates(kind, word)
        if kind in ("latitude", "latitudes"):
            return Place(y=_degrees(word, "s"))
        if kind in ("longitude", "longitudes"):
            return Place(x=_degrees(word, "w"))
        if kind == "side":
            name = "centre" if word.startswith("cent") else SIDES[word]
            return NOWHERE if self._geographic or word in ("up", "down") else Place(frozenset({name}))
        if kind == "hemisphere":
            return Place(frozenset({f"{word[:4]} hemisphere"}))
        if kind == "compass":
            word = {"nh": "north", "sh": "south"}.get(word, word)
            return Place(frozenset(name for name in LETTERS if name in word))
        return Place(_band(word))


def _claims_of(read: _Sentence) -> Iterator[Claim]:
    """The claims of a sentence that has been read to its end."""
    for thing in read.things:
        if thing.variable is None or (thing.kind == "place" and not thing.place.given):
            continue
        yield Claim(thing.kind, thing.variable, thing.sign, thing.place, extreme=thing.extreme, other=thing.other)
    for subject, region, variable, letter in read.movements:
        if subject is None:
            yield Claim("movement", variable, 0, region, letter)
        elif subject.kind == "spread":
            if subject.variable is not None and subject.sign > 0:
                yield Claim("spread", subject.variable, 1, subject.place, letter)
        elif subject.variable is not None and subject.sign:
            yield Claim("movement", subject.variable, subject.sign, subject.place, letter)


def _same(thing: _Thing, sign: int, start: int) -> bool:
    """Whether a word of this sign, starting there, names the same thing: "a warm ridge", "a cold minimum"."""
    return thing.kind == "place" and thing.sign == sign and not thing.own_place and start - thing.end < 12


def _name_words(variable: Variable) -> set[str]:
    """The words by which a text may name a variable."""
    words = set(re.findall(r"[a-z]+", f"{variable.long_name} {variable.name}".lower().replace("_", " ")))
    words |= {variable.name.lower(), *re.findall(r"[a-z]\d+", variable.name.lower())}
    if "geopotential" in words:
        words |= {"height", "heights"}
    return {form for word in words - NO_NAME if len(word) > 1 for form in (word, f"{word}s")}


def _is_temperature(variable: Variable) -> bool:
    return variable.units.lower().strip() in TEMPERATURE_UNITS or "temperature" in variable.long_name.lower()


def _degrees(word: str, negative: str) -> Range:
    """A latitude or longitude, or a range of it, in degrees north or east; one hemisphere's letter serves both."""
    parts = re.findall(rf"({NUMBER}){DEGREE}(north|south|east|west|[nsew])?", word)
    last = parts[-1][1][:1]
    values = [float(value) * (-1 if (letter[:1] or last) == negative else 1) for value, letter in parts]
    return (min(values), max(values)) if negative == "s" else (values[0], values[-1])


def _coordinates(kind: str, word: str) -> Place:
    """A point (x, y), or a value or range of one axis."""
    values = [float(value) for value in re.findall(COORDINATE, re.sub(r"(?<=\d)\s*-\s*(?=\d)", " ", word))]
    if kind == "point":
        return Place(x=(values[0], values[0]), y=(values[1], values[1]))
    span = (min(values), max(values))
    return Place(x=span) if kind == "x" else Place(y=span)


def _band(word: str) -> frozenset[str]:
    """Regions by latitude: words for them differ, these are what they stand for."""
    names: list[str]
    if word.endswith("pole"):
        names = ["polar", word.split()[0]]
    elif word.startswith("sub"):
        names = ["subtropics"]
    elif word.startswith(("mid", "extra", "temperate")):
        names = ["midlatitudes"]
    elif word.startswith(("tropic", "equator", "low")):
        names = ["tropics"]
    else:
        names = ["polar", *(["south"] if word.startswith("antarctic") else ["north"] * word.startswith("arctic"))]
    return frozenset(names)


def _joined(one: Place, other: Place) -> Place:
    return replace(one, names=one.names | other.names, y=other.y or one.y, x=other.x or one.x)
