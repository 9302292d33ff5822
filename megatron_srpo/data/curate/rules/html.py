"""HTML in a problem's text."""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.encoding import decoded, decoded_code
from megatron_srpo.data.curate.rules.fields import change_fields
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import outside

BLOCKS = "p|div|center|blockquote|section|article|ul|ol|dl|h[1-6]|header|footer|main|html|body|head|form|fieldset"
LINES = "br|hr|li|dt|dd"
INLINE = (
    "span|strong|em|small|big|font|tt|kbd|samp|var|strike|del|ins|cite|label|abbr|sub|sup|code|pre|nobr|wbr|title"
)
SHORT = "b|i|u|s|a|q"
# Tags of images and tables stay: the rules of these names refuse them.
ATTRIBUTE = r"\s{1,9}[A-Za-z][\w:-]{0,40}(?:\s?=\s?(?:\"[^\"<>]{0,2000}+\"|'[^'<>]{0,2000}+'|[^\s\"'<>=]{1,200}))"
TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>{BLOCKS}|{LINES}|{INLINE}"
    rf"|{SHORT})(?P<attributes>(?:{ATTRIBUTE}){{0,20}}+)\s{{0,9}}/?>"
    r"|<!--(?:(?!-->).){0,2000}-->",
    re.IGNORECASE | re.DOTALL,
)
# A text in quotes that is made of tags is what the problem is about.
QUOTED = re.compile(r"([\"'“])<[^\"“”\n]{1,200}>[\"'”]")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z\d]{1,30});")
CELL_ENTITIES = re.compile(r"&amp;")
ORDINAL = re.compile(r"<sup>\s?(st|nd|rd|th)\s?</sup>", re.IGNORECASE)
BREAKS = re.compile(r"\n{3,}")
EMPTY_SCRIPT = re.compile(r"[_^]\{\s?\}")
MOST_ROUNDS = 6
SPACES_OF_HTML = str.maketrans({"\xa0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u200a": " "})


def html(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Turns HTML tags and entities into plain text or LaTeX."""
    decode = decoded if draft.domain == "math" else decoded_code

    def change(text: str) -> str:
        plain = without_html(text)
        return text if plain == text else decode(plain)

    return change_fields(draft, change, "HTML made plain")


def without_html(text: str) -> str:
    """A text without tags and entities, but for what stands in code."""
    for _ in range(MOST_ROUNDS):
        if "<" not in text and "&" not in text:
            break
        before = text
        text = outside(text, _plain, ("code",))
        if text == before:
            break
    return text


def _plain(text: str) -> str:
    """One round: `&amp;lt;` needs two."""
    plain = text
    if "<" in plain:
        plain = ORDINAL.sub(r"\1", plain)
        plain = _without_tags(plain)
    if "&" in plain:
        plain = ENTITY.sub(_character, plain)
    return plain if plain == text else BREAKS.sub("\n\n", plain).strip("\n")


def _without_tags(text: str) -> str:
    """Without the tags that are HTML for sure."""
    closed = {name.lower() for name in re.findall(r"</([A-Za-z]\w{0,12})\s{0,3}>", text)}
    opened = {name.lower() for name in re.findall(r"<([A-Za-z]\w{0,12})(?=[\s>])", text)}
    kept = (
        [found.span() for found in QUOTED.finditer(text)] if '"<' in text or "'<" in text or "“<" in text else []
    )
    at = 0

    def replaced(tag: re.Match[str]) -> str:
        nonlocal at
        while at < len(kept) and kept[at][1] <= tag.start():
            at += 1
        if at < len(kept) and kept[at][0] < tag.start():
            return tag[0]
        if tag["name"] is None:
            return ""
        name = tag["name"].lower()
        paired = name in opened if tag["close"] else name in closed
        if not paired and (name in SHORT.split("|") or name in ("var", "label", "title", "main", "form")):
            return tag[0] if not tag["attributes"] else ""
        if name == "p" and not paired and not tag["close"] and text[tag.start() - 1 : tag.start()].isalnum():
            return tag[0]
        return _meaning(name, bool(tag["close"]), paired)

    return TAG.sub(replaced, text)


def _meaning(name: str, closes: bool, paired: bool) -> str:
    """What a tag is in plain text or LaTeX."""
    if name in ("sub", "sup"):
        if not paired:
            return ""
        return "}" if closes else {"sub": "_{", "sup": "^{"}[name]
    if name == "pre":
        return "\n```\n" if paired else "\n"
    if name == "code":
        return "`" if paired else ""
    if name == "li":
        return "" if closes else "\n- "
    if name in ("br", "hr", "dt", "dd"):
        return "\n"
    if name in INLINE.split("|") or name in SHORT.split("|"):
        return ""
    return "\n\n" if name in ("p", "blockquote", "div") else "\n"


def _character(entity: re.Match[str]) -> str:
    """The character that an entity stands for; what is none stays."""
    if entity[0][1] != "#" and entity[0][1:] not in html5:
        return entity[0]
    text = unescape(entity[0]).translate(SPACES_OF_HTML)
    return "" if "\ud800" <= text <= "\udfff" else text
