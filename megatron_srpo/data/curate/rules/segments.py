"""What of a text is prose, what is a formula and what is code.

Everything takes time in proportion to the text, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["text", "formula", "code"]

ENVIRONMENTS = (
    "equation|align|aligned|alignat|gather|gathered|multline|eqnarray|cases|dcases|array|split|matrix|smallmatrix"
    "|pmatrix|bmatrix|vmatrix|Bmatrix|Vmatrix|math|displaymath"
)
# Two backslashes and an escaped dollar come first: they open nothing.
OPENER = re.compile(rf"\\\\|\\\$|`+|\$\$?|\\\(|\\\[|\\begin\{{({ENVIRONMENTS})\*?\}}")
CLOSERS = {
    "```": re.compile("`{3,}+"),
    "``": re.compile("(?<!`)``(?!`)"),
    "`": re.compile("(?<!`)`(?!`)"),
    "$$": re.compile(r"(?<!\\)\$\$"),
    "$": re.compile(r"(?<!\\)\$"),
    r"\(": re.compile(r"\\\)"),
    r"\[": re.compile(r"\\\]"),
} | {name: re.compile(rf"\\end\{{{name}\*?\}}") for name in ENVIRONMENTS.split("|")}
BLANK_LINE = re.compile(r"\n[ \t\r]*+\n")
# Between two dollars that are money there are words: `$5 for a book and $7 for a pen`.
AMOUNT = re.compile(r"[ ~]?[\d.]")
PROSE = re.compile(r"(?<=[\s,.])(?!mod\b|and \d)[A-Za-z]{2,}(?=[\s,.?!])|[.,;?!](?:\s+[A-Za-z]+)?\s+$")
WORDS_IN_FORMULA = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s?\{[^{}]*\}")

MARK = "\ufdd0"
"""Stands for a formula or code in a text that is looked at without them; no character of any text."""
MARK_CODE = "\ufdd1"
"""Stands for code."""
SPACES = re.compile(r"[ \t\r\f\v\xa0\u2000-\u200a\u202f\u3000]+")
LINE_BREAKS = re.compile(r" ?\n[ \n]*+")


class Segment(NamedTuple):
    """A piece of a text, with its delimiters."""

    kind: Kind
    text: str


@lru_cache(maxsize=64)
def segments(text: str) -> tuple[Segment, ...]:
    """The pieces of a text, in order; together they are the text.

    Dollars of money open nothing, nor does a delimiter that nothing closes (but a code fence runs to the end).
    """
    found: list[Segment] = []
    kept_to = at = 0
    upcoming: dict[str, re.Match[str] | None] = {}
    while opener := OPENER.search(text, at):
        at = opener.end()
        kind = opener[1] or ("```" if opener[0].startswith("```") else opener[0])
        if kind not in CLOSERS:
            continue
        # The last search's result serves until we are past it, so that all searches together are one pass.
        closer = upcoming.get(kind)
        if kind not in upcoming or (closer is not None and closer.start() < at):
            closer = upcoming[kind] = CLOSERS[kind].search(text, at)
        end = _end(text, kind, opener, closer)
        if end is None:
            continue
        if opener.start() > kept_to:
            found.append(Segment("text", text[kept_to : opener.start()]))
        found.append(Segment("code" if kind[0] == "`" else "formula", text[opener.start() : end]))
        kept_to = at = end
    if kept_to < len(text):
        found.append(Segment("text", text[kept_to:]))
    return tuple(found)


def _end(text: str, kind: str, opener: re.Match[str], closer: re.Match[str] | None) -> int | None:
    """Where what was opened ends; None where it was no opener."""
    if closer is None:
        return len(text) if kind == "```" else None
    between = text[opener.end() : closer.start()]
    if kind in ("`", "``") and ("\n" in between or not between):
        return None
    if kind in ("$", r"\(") and BLANK_LINE.search(between):
        return None
    if kind == "$" and _is_money(text, between, closer.end()):
        return None
    return closer.end()


def _is_money(text: str, between: str, end: int) -> bool:
    """Whether what follows a dollar is an amount of money and not a formula that ends at the next dollar."""
    if not AMOUNT.match(between):
        return not between.strip() and text[end : end + 1].isdigit()
    return text[end : end + 1].isdigit() or PROSE.search(WORDS_IN_FORMULA.sub("", between)) is not None


def outside(text: str, change: Callable[[str], str], kinds: tuple[Kind, ...] = ("formula", "code")) -> str:
    """The text with a change that does not see formulas and code: a mark stands for each.

    What the change takes out with a mark is lost; marks must keep their order.
    """
    text = without_marks(text)
    hidden: list[str] = []
    shown: list[str] = []
    for kind, piece in segments(text):
        if kind in kinds:
            hidden.append(piece)
            shown.append(MARK)
        else:
            shown.append(piece)
    before = "".join(shown)
    after = change(before)
    if after == before:
        return text
    pieces = after.split(MARK)
    if len(pieces) != len(hidden) + 1:
        return text
    return "".join(piece + code for piece, code in zip(pieces, [*hidden, ""], strict=True))


def without_marks(text: str) -> str:
    """The text without the characters that stand for formulas."""
    return text.replace(MARK, "").replace(MARK_CODE, "") if MARK in text or MARK_CODE in text else text


@lru_cache(maxsize=64)
def prose_of(text: str) -> str:
    """The text with a mark for each formula and each piece of code, and single spaces and line breaks."""
    marks = {"formula": MARK, "code": MARK_CODE}
    shown = "".join(marks.get(kind) or piece for kind, piece in segments(without_marks(text)))
    return squeezed(shown)


@lru_cache(maxsize=64)
def without_code(text: str) -> str:
    """The text with a mark for each piece of code, and single spaces and line breaks."""
    text = without_marks(text)
    if "`" not in text:
        return squeezed(text)
    return squeezed("".join(MARK_CODE if kind == "code" else piece for kind, piece in segments(text)))


def mentions(text: str, words: tuple[str, ...]) -> bool:
    """Whether any of the words, in small letters, is in the text: a cheap look before a pattern searches."""
    small = text.lower()
    return any(word in small for word in words)


def squeezed(text: str) -> str:
    """The text with one space for many, and one line break for many."""
    return LINE_BREAKS.sub("\n", SPACES.sub(" ", text)).strip()
