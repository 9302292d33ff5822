"""Texts of data sets on a terminal.

Anybody may have written them: they are never markup, and what could move the cursor, change colours or the
direction of writing is shown as an escape.
"""

from __future__ import annotations

import unicodedata

from rich.text import Text

TAB = "    "
LINE = 100  # characters; what a line of text is taken for when a text is shortened


def plain(text: str) -> str:
    """The text with line breaks, and with all else that is invisible written as an escape such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def line_of(text: str) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()))


def literal(text: object, style: str = "") -> Text:
    """For rich: a text that is no markup."""
    return Text(plain(str(text)), style)


def shortened(text: str, characters: int, lines: int = 1_000_000) -> str:
    """The beginning of a text, with how much more there is."""
    head = "\n".join(text[:characters].split("\n")[:lines])
    left = len(text) - len(head)
    return text if left <= 0 else f"{head} ... ({left:,} more characters)"


def _visible(character: str) -> str:
    if character == "\n" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if character == "\t":
        return TAB
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
