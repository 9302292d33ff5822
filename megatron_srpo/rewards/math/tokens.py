"""A tidy text cut into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Thousands: where a comma can also separate the members of a list, it does.
SPACED = re.compile(r"(?<![\d.,])(?<!\d )\d{1,3}(?: \d{3})+(?! ?\d|\s*/)")  # 2 101/102 is a mixed number
GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
SEPARATOR = re.compile(r",\s|;")
_WORDS = (
    "infinity inf infty sqrt pi sin cos tan cot sec csc ln log lg exp arcsin arccos arctan sinh cosh tanh "
    "or and alpha beta theta"
)
WORDS = _WORDS.split()
TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<repeating>\d*\.\d*\\overline\s*\{\s*\d+\s*\})"
    r"|(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\w]))?)"
    rf"|(?P<word>(?<![A-Za-z])(?:{'|'.join(WORDS)})(?![A-Za-z]))"
    r"|(?P<command>\\(?:[A-Za-z]+|[^A-Za-z]))"
    r"|(?P<text>«[^«»]*»)"
    r"|(?P<letter>[A-Za-z])"
    r"|(?P<sign>\*\*|!!|<=|>=|(?<=\s)!=|[-+*/^_=<>(){}\[\]|,;:!%°'&])"
)


class Unreadable(Exception):
    """A text that is not mathematics as we know it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text."""

    kind: str
    text: str
    spaced: bool
    """Whether white space stands before it."""


def tokens(text: str, grouped: bool = True) -> list[Token]:
    """The tokens of a tidy text.

    Args:
        text: what `math_text.tidy` returned.
        grouped: whether 1,234 is a number; else it is a list.

    Raises:
        Unreadable: at a character that is no mathematics.
    """
    found: list[Token] = []
    text = _without_groups(text, grouped)
    position, spaced = 0, False
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise Unreadable
        position = match.end()
        if match.lastgroup != "space":
            found.append(Token(match.lastgroup, match.group(), spaced))
        spaced = match.lastgroup == "space"
    return found


def _without_groups(text: str, grouped: bool) -> str:
    """Numbers without what separates their thousands."""
    text = SPACED.sub(lambda match: match[0].replace(" ", ""), text.replace("{,}", "\x01"))
    text = re.sub(r"(?<=\d)\x01(?=\d{3})", "", text)
    if not grouped or "," not in text:
        return text
    separated = SEPARATOR.search(text) is not None
    depths = _depths(text)
    return GROUPED.sub(
        lambda match: match[0].replace(",", "") if separated or not depths[match.start()] else match[0], text
    )


def _depths(text: str) -> list[int]:
    """How many brackets are open at each character."""
    depths, depth = [], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        depths.append(depth)
    return depths
