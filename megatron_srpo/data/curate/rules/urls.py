"""Web addresses that only say where a problem came from."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import STRONG
from megatron_srpo.data.curate.rules.encoding import decoded, decoded_code
from megatron_srpo.data.curate.rules.fields import change_prompt, settled
from megatron_srpo.data.curate.rules.html import without_html
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import outside

ADDRESS = (
    r"(?:(?:https?|ftp)://|(?<![\w.@/-])www\.(?=[A-Za-z\d]))[^\s<>\"'`{}|\\^$\[\]“”]{1,2000}+"
    r"|(?<![\w.@/-])(?:[a-z\d-]{2,30}\.){1,3}(?:com|org|net|edu|io|ru|jp|cn)/[^\s<>\"'`{}|\\^$\[\]]{1,500}+"
)
LINK = re.compile(
    rf"(?<!!)\[(?P<text>[^\[\]\n]{{0,300}})\]\(\s?<?(?:{ADDRESS}|mailto:[^\s()]{{1,200}}|/[a-z][^\s()]{{0,300}})"
    r"(?<!\))(?:\s\"[^\"\n]{0,200}\")?>?\s?\)"
)
BALANCED = r"(?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,2000}"
LINK_WITH_BRACKETS = re.compile(
    rf"(?<!!)\[(?P<text>[^\[\]\n]{{0,300}})\]\(\s?<?(?:(?:https?|ftp)://|www\.|mailto:|/(?=[a-z]{{2}})){BALANCED}"
    r"(?:\s\"[^\"\n]{0,200}\")?>?\s?\)"
)
HREF = re.compile(r"\\href\s?\{[^{}\n]{0,1000}\}\s?\{([^{}\n]{0,300})\}|\\url\s?\{[^{}\n]{0,1000}\}")
# `See`, `Source:` and the like go with the address.
LEAD_WORD = (
    r"(?:for (?:more|further) (?:details|information),?|see(?: also)?|source|from|taken from|link|url"
    r"|via|visit|please"
    r"|read more(?: at)?|available(?: online)?(?: at)?|original(?: problem| source"
    r"| statement)?(?: at)?|adapted from"
    r"|at|here|refer to|reference|problem link|found at|more (?:info|information|details)(?: at)?"
    r"|check(?: out)?|on)"
)
BARE = re.compile(
    rf"(?P<bracket>[(\[]\s?)?(?P<lead>(?<![^\s(\[.,])(?:{LEAD_WORD}\s?:?\s){{1,3}})?[(\[<]?(?P<address>{ADDRESS})[)\]>]?",
    re.IGNORECASE,
)
PHRASE = re.compile(
    r"(?P<before>(?:^|(?<=[.?!)\]])\s|\n))(?P<phrase>(?:[A-Z(*][\w'’*:-]*)(?:[ ]\(?[\w'’*:-]{1,20}){0,8}?)[ ]"
    rf"(?:{ADDRESS})\.?(?=\s*$|\s*\n)"
)
# Before an address that the problem is about.
INPUT = re.compile(
    r"(?:\b(?:such as|like|for example|e\.g\.|example|of the form|form|returns?|becomes?|input|output"
    r"|is|url|address|to"
    r"|link|website|named|called|be)\s?:?,?|[=→]|->|[\[(,]\s?)\s?$",
    re.IGNORECASE,
)
SAMPLES = re.compile(r"^[ #*\-]{0,8}(?:sample |example )?(?:in|out)put\b|^[ #*\-]{0,8}examples?\b", re.I | re.M)
ABOUT = re.compile(r"\b(?:urls?|uris?|domains?|hostnames?|web ?addresses|websites?|hyperlinks?)\b", re.IGNORECASE)
TAIL = ".,;:!?*_"
GAP = re.compile(r"[ \t]{2,}+")
EMPTY_BRACKETS = re.compile(r"\((?:\s|[.,;:])?\)|\[\]")
SPACE_BEFORE_STOP = re.compile(r"(?<=\w) (?=[.,;?!](?:\s|$))")
STRAY_STOP = re.compile(r"(?<=[.?!])[ \t]?\.(?!\.)")
WORTH_A_LOOK = re.compile(r"://|www\.|\]\(|\\(?:url|href)\b|\.(?:com|org|net|edu|io|ru|jp|cn)/")
MOST_ROUNDS = 5


def urls(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Takes out web addresses and the targets of links; a link's text stays."""
    change, decode = (without_urls, decoded) if draft.domain == "math" else (without_urls_in_task, decoded_code)
    return change_prompt(draft, lambda text: settled(text, change, decode, without_html), "addresses taken out")


def without_urls(text: str) -> str:
    """A text without addresses, but for those in code and quotes."""
    return _settled(text, is_code=False)


def without_urls_in_task(text: str) -> str:
    """The same for a programming task, where an address may be data."""
    return _settled(text, is_code=True)


def _settled(text: str, is_code: bool) -> str:
    for _ in range(MOST_ROUNDS):
        if not WORTH_A_LOOK.search(text):
            break
        before = text
        # Code only: an address may hold a dollar, and formulas hold no addresses.
        text = outside(text, _without_urls_in_task if is_code else _without_urls, ("code",))
        if text == before:
            break
    return text


def _without_urls(text: str) -> str:
    return _changed(text, len(text), False)


def _without_urls_in_task(text: str) -> str:
    samples = SAMPLES.search(text)
    return _changed(text, samples.start() if samples else len(text), ABOUT.search(text) is not None)


def _changed(text: str, end: int, about: bool) -> str:
    """Without the addresses before the samples; where addresses are the subject, without those only in links."""

    def link(found: re.Match[str]) -> str:
        return found["text"]

    def bare(found: re.Match[str]) -> str:
        address = found["address"]
        if (found.start() >= end and not found["lead"]) or _is_quoted(text, found.start("address")):
            return found[0]
        if about and INPUT.search(text, max(0, found.start("address") - 30), found.start("address")):
            return found[0]
        closed = found[0].rstrip(TAIL).endswith((")", "]")) or text[found.end() : found.end() + 1] in (")", "]")
        bracket = "" if closed or not found["bracket"] else found["bracket"]
        tail = address[len(address.rstrip(TAIL + (")" if "(" not in address else ""))) :]
        return bracket + tail.lstrip(")").replace(",", "")

    changed = LINK_WITH_BRACKETS.sub(link, text)
    changed = HREF.sub(lambda found: found[1] or "", changed)
    if changed != text:
        return changed
    before = text
    if not about:
        # A short phrase that does nothing but lead to an address, to the end of its line or sentence.
        text = PHRASE.sub(lambda found: found[0] if STRONG.search(found["phrase"]) else found["before"], text)
    changed = BARE.sub(bare, text)
    return text if changed == before else _tidy(changed)


def _is_quoted(text: str, start: int) -> bool:
    return text[max(0, start - 1) : start] in ('"', "'", "“", "‘", "`") and start > 0


def _tidy(text: str) -> str:
    """Without the gaps that addresses left."""
    text = EMPTY_BRACKETS.sub("", text)
    text = SPACE_BEFORE_STOP.sub("", GAP.sub(" ", text))
    return STRAY_STOP.sub("", text).strip()
