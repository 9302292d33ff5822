"""Units of measurement, money and labels: what may stand behind a number.

A known unit is a product of powers of base units times a factor, so that 500 cm is 5 m.  Any other words are a
label (`apples`), which equals only itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]

# base unit: {name: how many base units}
_TABLE: dict[str, dict[str, str]] = {
    "m": {
        "mm millimeter millimetre": "1/1000",
        "cm centimeter centimetre": "1/100",
        "dm decimeter decimetre": "1/10",
        "m meter metre": "1",
        "km kilometer kilometre": "1000",
        "in inch inches": "127/5000",
        "ft foot feet": "381/1250",
        "yd yard": "1143/1250",
        "mi mile": "201168/125",
    },
    "s": {
        "ms millisecond": "1/1000",
        "s sec second": "1",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "g": {"mg milligram": "1/1000", "g gram": "1", "kg kilogram": "1000", "tonne": "1000000"},
    "year": {"month": "1/12", "year yr": "1"},
    "dollar": {"cent ¢": "1/100", "dollar usd $": "1"},
    "euro": {"euro eur €": "1"},
    "pound": {"pound lb £": "1"},
    "yen": {"yen ¥": "1"},
    "degree": {"degree deg °": "1"},
    "radian": {"radian rad": "1"},
    "unit": {"unit": "1"},
    "newton": {"N newton": "1"},
    "joule": {"J joule": "1", "kJ kilojoule": "1000"},
    "watt": {"W watt": "1", "kW kilowatt": "1000"},
    "volt": {"V volt": "1"},
    "hertz": {"Hz hertz": "1"},
}
# Of several base units: name, factor, dimensions.
_COMPOUND = {
    "mph": ("1397/3125", (("m", 1), ("s", -1))),
    "kph": ("5/18", (("m", 1), ("s", -1))),
    "l": ("1/1000", (("m", 3),)),
    "liter": ("1/1000", (("m", 3),)),
    "litre": ("1/1000", (("m", 3),)),
    "ml": ("1/1000000", (("m", 3),)),
    "milliliter": ("1/1000000", (("m", 3),)),
}
# Words that make a statement of what would otherwise be a number with a label.
_STATEMENTS = (
    "is isn are aren was were not no nor or xor either neither and but maybe perhaps possibly else than more less "
    "least most fewer greater about approximately around roughly nearly almost if unless except without wrong "
    "plus minus times over divided multiplied squared cubed half halves third quarter double twice triple mod "
    "modulo to through between until versus vs point negative equal equals instead otherwise incorrect "
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundredths tenths "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion trillion dozen percent power root pi sqrt"
)
STATEMENTS = frozenset(_STATEMENTS.split())
SCALES = {"hundred": 10**2, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
RAISED = {"squared": 2, "cubed": 3}
FACTOR = re.compile(r"([A-Za-z°$€£¥¢]+)|(\^\s*(?:\{\s*-?\d\s*\}|-?\d)|(?<=[A-Za-z])\d)|([/*·.])|\s+")
LONGEST_LABEL = 6  # words


@dataclass(frozen=True)
class Unit:
    """A unit that is known, or a label."""

    factor: Fraction
    dimensions: Dimensions
    label: str = ""


def _known() -> dict[str, tuple[Fraction, Dimensions]]:
    names: dict[str, tuple[Fraction, Dimensions]] = {}
    for base, units in _TABLE.items():
        for words, factor in units.items():
            for word in words.split():
                names[word] = (Fraction(factor), ((base, 1),))
                if len(word) > 2:
                    names[word + "s"] = names[word]
    for name, (text, dimensions) in _COMPOUND.items():
        names[name] = (Fraction(text), dimensions)
        if len(name) > 3:
            names[name + "s"] = names[name]
    names["hrs"] = names["h"]
    return names


KNOWN = _known()


def money(sign: str) -> Unit:
    """The unit of a currency sign."""
    factor, dimensions = KNOWN[sign]
    return Unit(factor, dimensions)


def read_unit(text: str) -> Unit | None:
    """The unit that a text names, as `cm^2`, `miles per hour` or `square feet`; None when it names none."""
    terms: list[tuple[str, int]] = []
    sign, ahead, can_raise = 1, 1, False
    position = 0
    while position < len(text):
        found = FACTOR.match(text, position)
        if found is None:
            return None
        position = found.end()
        word, power, operator = found.groups()
        if word == "per" or operator == "/":
            sign, can_raise = -1, False
        elif power or word in RAISED:
            if not can_raise:
                return None
            exponent = RAISED[word] if word else int(re.sub(r"[^\d-]", "", power))
            terms[-1], can_raise = (terms[-1][0], terms[-1][1] * exponent), False
        elif word in POWERS:
            ahead = POWERS[word]
        elif word:
            terms.append((word, sign * ahead))
            ahead, can_raise = 1, True
    return _combined(terms)


def _combined(terms: list[tuple[str, int]]) -> Unit | None:
    """The product of named units with their powers; None when a name is not known."""
    factor, powers = Fraction(1), dict[str, int]()
    for name, exponent in terms:
        known = KNOWN.get(name) or KNOWN.get(name.lower() if len(name) > 2 or name == "L" else name)
        if known is None:
            return None
        factor *= known[0] ** exponent
        for base, count in known[1]:
            powers[base] = powers.get(base, 0) + count * exponent
    dimensions = tuple(sorted((base, exponent) for base, exponent in powers.items() if exponent))
    return Unit(factor, dimensions) if terms else None


def read_label(text: str) -> Unit | None:
    """A few words that say what is counted; None when they could say something else."""
    words = text.lower().split()
    if (
        not words
        or len(words) > LONGEST_LABEL
        or not all(re.fullmatch(r"[a-z]+(?:[-'][a-z]+)*", w) for w in words)
    ):
        return None
    if STATEMENTS.intersection(piece for word in words for piece in re.split(r"[-']", word)):
        return None
    last = words[-1]
    # One apple, two apples.
    words[-1] = last[:-1] if len(last) > 3 and last.endswith("s") else last
    return Unit(Fraction(1), (), " ".join(words))
