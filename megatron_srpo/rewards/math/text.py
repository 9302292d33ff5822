"""From an answer as people write it to plain mathematics: one spelling for each sign, nothing around the value.

Words that stand in the mathematics (`\\text{cm}`) come out between `«` and `»`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction

from megatron_srpo.rewards.answers import box_spans
from megatron_srpo.rewards.math.units import SCALES, Unit, money, read_label, read_unit

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
SPELLINGS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),  # noqa: RUF001
    **dict.fromkeys("×✕⨯", r"\times "),  # noqa: RUF001
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("÷∕⁄", "/"),  # noqa: RUF001
    **dict.fromkeys("º˚", "°"),
    **dict.fromkeys("\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\xad", ""),  # without width
    "√": r"\sqrt ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "∪": r"\cup ",  # noqa: RUF001
    "∩": r"\cap ",
    "∖": r"\setminus ",  # noqa: RUF001
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "ℝ": r"\mathbb{R}",  # noqa: RUF001
    "ℤ": r"\mathbb{Z}",  # noqa: RUF001
    "ℕ": r"\mathbb{N}",  # noqa: RUF001
    "ℚ": r"\mathbb{Q}",  # noqa: RUF001
    "ℂ": r"\mathbb{C}",  # noqa: RUF001
    "′": "'",  # noqa: RUF001
    "θ": r"\theta ",
    "α": r"\alpha ",  # noqa: RUF001
    "β": r"\beta ",
    "γ": r"\gamma ",  # noqa: RUF001
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
}
FORMATTING = re.compile(
    r"\\(?:displaystyle|textstyle|limits|nolimits|hfill|hspace|boldsymbol|bm|ensuremath|rm|bf|it)(?![A-Za-z])"
    r"|\\(?:m?left|m?right|[bB]igg?[lrm]?)(?![A-Za-z])\.?|\\!"
)
SPACES = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|\\hskip(?![A-Za-z])|~|\s+")
COMMANDS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\%|\s*\bper ?cent(?:age)?\b|\s*\bpct\b|«\s*per ?cent\s*»"), "%"),
    (re.compile(r"\{\s*,\s*\}"), "{,}"),
)
TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)|operatorname)\*?\s*"
    r"\{([^{}\\«»]*)\}"
)
# A line break of LaTeX, then the signs that only say "this is mathematics".
DELIMITERS = re.compile(r"\\\\|\\[()\[\]]|\\\$")
LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|finally)\b,?\s+)?"
    r"(?:(?:the|my|our|its)\s+)?(?:(?:final|correct|right|exact|simplified|numerical)\s+)*"
    r"(?:answer|result|solution|value)s?\s*(?:is|are|:|=|equals)\s*(?:either|both)?:?\s*"
    r"|(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:it|this|that)\s+(?:is|equals)\s+|either\s+|only\s+"
    # The probability is, its total area is: words that hedge nothing.
    r"|(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:the|its|their|his|her)\s+(?:(?!(?:or|nor|not|neither|and|but)\b)[a-z]+\s+)"
    r"{1,6}?(?:is|are|was|were|equals)\s+(?:either\s+|both\s+)?",
    re.IGNORECASE,
)
# The name of an angle, as in \\angle ABC = 135.
ANGLE = re.compile(r"(?:m\s*)?\\angle\s*\{?\s*[A-Z]{1,3}\s*\}?\s*=\s*")
FOR_ALL = re.compile(r"\s+for all (?:real |positive |integer )?(?:numbers? |values of )?[a-z]$")
RATIO_IN_WORDS = re.compile(r"(\d+)\s+to\s+(\d+)")
TIME_OF_DAY = re.compile(r"(\d{1,2}:\d\d)\s*«?\s*([ap])\s*\.?\s*m\s*\.?\s*»?", re.IGNORECASE)
BASE_IN_WORDS = re.compile(
    r"_\s*\{?\s*«?\s*(two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*»?\s*\}?$"
)
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
BASES |= {"twelve": 12, "sixteen": 16}
# What leaves open whether the box is the answer.
HEDGES = re.compile(r"\b(?:or|nor|not|neither|either|and|but|maybe|perhaps|possibly|unless|wrong|\w+n't)\b")
MARKED = re.compile(r"\s*«[^«»]*»\s*")
CURRENCY = re.compile(r"([+-]?)\s*(?:US\s*)?([$€£¥])\s*(?=[\d.+-])")
# 0.333... is as good as 0.333; three dots elsewhere leave something out.
DOTS = re.compile(r"(?<=\d)(\.\d+)\s*(?:\.\.\.|…|\\[lc]?dots)$")
NUMBER_HEAD = re.compile(
    r"[+-]?(?:[\d.,]|\{,\}|[ ](?=\d))+(?:\s*/\s*\d+)?|[+-]?\d*\s*\\frac\s*(?:\{\d+\}\{\d+\}|\d\d)"
)
TEMPERATURE = re.compile(r"°\s*«?\s*([CFK])\s*»?$")
SCALE = re.compile(rf"(?<=[\d\s.}}])\s*«?\s*({'|'.join(SCALES)})s?\s*»?$", re.IGNORECASE)


@dataclass(frozen=True)
class Written:
    """One way to read a text: mathematics, and the unit behind or before it."""

    body: str
    unit: Unit | None = None
    scale: int = 1


def tidy(text: str) -> str | None:
    """The text with one spelling for each sign, without markup around the whole; None when it holds no answer.

    There is no answer where a box stands in a text with other digits or candidates, or where braces do not
    match.
    """
    unboxed = _open_box(_without_stars(_spell(text).strip()))
    if unboxed is None:
        return None
    text = unboxed
    if "\\begin" not in text:  # elsewhere two backslashes are one that was escaped
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    text = TEXT.sub(lambda found: f"«{found[1].strip()}»", text)
    text = TEXT.sub(lambda found: f"«{found[1].strip()}»", text)
    text = re.sub(r"«([^«»]*\d[^«»]*)»", r"\1", text) if MARKED.fullmatch(text) else text
    for pattern, spelling in COMMANDS:
        text = pattern.sub(spelling, text)
    text = SPACES.sub(" ", FORMATTING.sub("", _without_delimiters(text))).strip()
    text = _without_stars(text)
    if (lead_in := LEAD_IN.match(text)) and lead_in.end() < len(text):
        text = _without_stars(text[lead_in.end() :].strip())
    text = _plain_form(text)
    text = DOTS.sub(r"\1", re.sub(r"^\\approx\s*", "", text))
    return _without_full_stop(text)


def _plain_form(text: str) -> str:
    """Names, ratios, times of day and bases in the form in which references have them."""
    text = FOR_ALL.sub("", ANGLE.sub("", text, count=1) if ANGLE.match(text) else text)
    text = BASE_IN_WORDS.sub(lambda found: f"_{{{BASES[found[1]]}}}", text)
    if ratio := RATIO_IN_WORDS.fullmatch(text):
        return f"{ratio[1]}:{ratio[2]}"
    if time := TIME_OF_DAY.fullmatch(text.rstrip(".")):
        return f"{time[1]} «{time[2].lower()}m»"
    return text


def _spell(text: str) -> str:
    """Digits of all scripts as 0 to 9, full-width letters as plain ones, and one sign for each meaning."""
    if text.isascii():
        return text
    pieces = []
    for index, char in enumerate(text):
        if char.isascii():
            pieces.append(char)
        elif char in SUPERSCRIPTS:
            follows = index > 0 and text[index - 1] in SUPERSCRIPTS
            pieces.append(SUPERSCRIPTS[char] + "}" if follows else f"^{{{SUPERSCRIPTS[char]}}}")
            if follows:
                pieces[-2] = pieces[-2].removesuffix("}")
        elif char in SUBSCRIPTS:
            pieces.append(f"_{SUBSCRIPTS[char]}")
        elif char in SPELLINGS:
            pieces.append(SPELLINGS[char])
        else:
            pieces.append(_plain(char))
    return "".join(pieces)


def _plain(char: str) -> str:
    """One character beyond ASCII that has no meaning of its own."""
    if char in "«»":
        return "\x00"  # ours; nobody else may write them
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    if char.isspace():
        return " "
    wide = unicodedata.normalize("NFKC", char)
    numerator, bar, denominator = wide.partition("⁄")  # noqa: RUF001
    if bar:
        return rf"\frac{{{numerator}}}{{{denominator}}}"
    return wide if len(wide) == 1 and wide.isascii() else char


def _without_stars(text: str) -> str:
    """Without the stars of bold text around the whole."""
    while len(text) > 4 and text.startswith("**") and text.rstrip(".").endswith("**"):
        text = text.rstrip(".")[2:-2].strip()
    return text


def _without_full_stop(text: str) -> str:
    return text[:-1].rstrip() if text.endswith((".", ",", ";")) else text


def _open_box(text: str) -> str | None:
    """The content of the one box, if what stands around it only leads to it; the text where there is none."""
    text = re.sub(r"\\fbox\s*\{", r"\\boxed{", text)
    while "\\boxed" in text:
        spans, is_open = box_spans(text)
        if len(spans) != 1 or is_open:
            return None
        before, start, end, after = spans[0]
        around = re.sub(r"\\[()\[\],;! ]|\$", " ", text[:before] + " " + text[after:])
        if "\\" in around or any(char.isdigit() for char in around) or HEDGES.search(around.lower()):
            return None
        text = text[start:end].strip()
    return text


def _without_delimiters(text: str) -> str:
    """Without signs that begin and end mathematics; a single dollar sign is money and stays."""
    keep = {"\\\\": "\\\\", "\\$": "$"}
    pairs = text.count("$") - text.count("\\$")
    if pairs % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    return DELIMITERS.sub(lambda found: keep.get(found[0], " "), text)


def readings(text: str) -> list[Written]:
    """The ways to read a tidy text: as it stands, and with what is behind the value as its unit."""
    unit = None
    name, equals, value = text.rpartition("=")
    if (sign := CURRENCY.match(value.lstrip())) is not None:
        unit = money(sign[2])
        text = name + equals + sign[1] + value.lstrip()[sign.end() :]
    scale = SCALE.search(text)
    if scale is not None and scale.start() > 0:
        return [Written(text[: scale.start()].strip(), unit, SCALES[scale[1].lower()])]
    ways = [Written(text, unit)]
    if (degrees := TEMPERATURE.search(text)) is not None:
        label = Unit(Fraction(1), (), f"degree {degrees[1]}")
        return [*ways, Written(text[: degrees.start()].strip(), label)]
    ways.extend(split for split in _splits(text) if unit is None or split.unit == unit)
    return ways


def _splits(text: str) -> list[Written]:
    """The text before and after the first place where a unit can begin, if there is one."""
    name, equals, value = text.rpartition("=")
    if equals:
        return [replace(way, body=f"{name}={way.body}") for way in _splits(value.strip())]
    number = NUMBER_HEAD.match(text)
    if number is not None and (tail := text[number.end() :].strip()):
        head = text[: number.end()].strip()
        scale = next((name for name in SCALES if re.match(rf"«?{name}s?\b", tail, re.IGNORECASE)), None)
        if scale is not None:
            tail = re.sub(rf"^(«?){scale}s?\s*", r"\1", tail, flags=re.IGNORECASE)
        if "«" not in tail and not text[number.end() - 1 : number.end() + 1].endswith(" ") and len(tail) < 2:
            return []  # 5m is 5 times m
        unit = _unit(tail)
        if unit is not None and any(char.isdigit() for char in head):
            return [Written(head, unit, SCALES[scale] if scale else 1)]
    start = text.find("«")
    if start > 0 and (unit := _unit(text[start:])) is not None:
        return [Written(text[:start].strip(), unit)]
    return []


def _unit(text: str) -> Unit | None:
    """A known unit, or the label that some words are; \\text{ cm }^2 is square centimetres."""
    plain = text.replace("«", " ").replace("»", " ").strip()
    return read_unit(plain) or read_label(plain)
