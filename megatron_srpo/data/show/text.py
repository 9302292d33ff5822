"""Texts of data sets for rich: never markup, and as `megatron_srpo.plain` writes them."""

from __future__ import annotations

from rich.text import Text

from megatron_srpo.plain import plain

LINE = 100  # characters; what a line of text is taken for when a text is shortened


def literal(text: object, style: str = "") -> Text:
    """For rich: a text that is no markup."""
    return Text(plain(str(text)), style)


def shortened(text: str, characters: int, lines: int = 1_000_000) -> str:
    """The beginning of a text, with how much more there is."""
    head = "\n".join(text[:characters].split("\n")[:lines])
    left = len(text) - len(head)
    return text if left <= 0 else f"{head} ... ({left:,} more characters)"
