"""Texts of strangers where a terminal shows them.

Anybody may have written what a data set holds: what could move the cursor, change colours or the direction of
writing is shown as an escape.
"""

from __future__ import annotations

import unicodedata

TAB = "    "


def plain(text: str) -> str:
    """The text with line breaks, and with all else that is invisible written as an escape such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def line_of(text: str) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()))


def _visible(character: str) -> str:
    if character == "\n" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if character == "\t":
        return TAB
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
