"""Marks of Markdown in a mathematics problem."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.fields import change_prompt, settled
from megatron_srpo.data.curate.rules.html import without_html
from megatron_srpo.data.curate.rules.noise import without_noise
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import MARK, outside
from megatron_srpo.data.curate.rules.urls import without_urls

# Emphasis: stars that touch what they emphasise, and no number or letter on the other side.
BOLD_ITALIC = re.compile(r"(?<![\w*])\*\*\*(?=[^\s*])([^*\n]{1,2000}+)(?<!\s)\*\*\*(?!\*)")
BOLD = re.compile(r"(?:(?<![*\w)])|(?<=\w)(?=\*\*[A-Z]))\*\*(?=[^\s*])([^*\n]{1,2000}+)(?<!\s)\*\*(?!\*)")
BOLD_LOOSE = re.compile(r"(?<![*\w)])\*\*[ \t]?(?=[^\s*])([^*\n]{1,2000}+)\*\*(?!\*)")
STRONG = re.compile(rf"(?<![\w\\_{MARK}])__(?=[^\W_])([^_\n]{{1,2000}}+)(?<![\s_])__(?![\w_])")
ITALIC = re.compile(r"(?<![\w*\\)\]}])\*(?=[^\s*\d])(?!\w\*\w)([^*\n]{1,2000}+)(?<![\s\d*])\*(?![\w*(\[{\\])")
UNDERSCORED = re.compile(rf"(?<![\w\\_{MARK}])_(?=[^\W\d_]{{2}})([^_\n]{{1,300}}+)(?<![\s_\\])_(?![\w_])")
STRUCK = re.compile(r"~~(?=\S)([^~\n]{1,2000}+)~~")
HEADING = re.compile(
    rf"^[ ]{{0,3}}#{{1,6}}[ \t]{{1,9}}(?=[A-Za-z\d(*{MARK}])(?:([^\n]*?)[ \t]{{1,9}}#{{1,6}}[ \t]{{0,9}}$)?", re.M
)
QUOTE = re.compile(rf"^[ ]{{0,3}}(?:>[ \t]?){{1,5}}(?=[A-Za-z\"“*{MARK}(]|$)", re.MULTILINE)
RULE = re.compile(r"^[ ]{0,3}(?:-{3,200}|\*{3,200}|(?:[-*][ ]){2,60}[-*])[ \t\r]{0,9}$", re.MULTILINE)
ESCAPED = re.compile(r"(?<!\\)\\([_*#>~|!-])")
# A sum that is worked out in writing has a line of dashes too.
COLUMN = re.compile(r"[\s\d+\-−×*/.,=A-Z|]*")
BREAKS = re.compile(r"\n{3,}")
SIGNS = re.compile(r"[*_#>~]|\\[_*#>~|!-]|---")
MOST_ROUNDS = 4


def markdown(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Takes out marks of Markdown: emphasis, headings, quotes, lines and escaped signs."""
    # A mark may have hidden a label.
    earlier = (without_html, without_urls, without_noise)
    return change_prompt(draft, lambda text: settled(text, without_markdown, *earlier), "marks taken out")


def without_markdown(text: str) -> str:
    """A text without marks of Markdown outside its formulas and code."""
    for _ in range(MOST_ROUNDS):
        if not SIGNS.search(text):
            break
        changed = outside(text, _plain)
        if changed == text:
            break
        text = changed
    return text


def _plain(text: str) -> str:
    plain = text
    if "*" in plain:
        plain = BOLD.sub(r"\1", BOLD_ITALIC.sub(r"\1", plain))
        plain = BOLD_LOOSE.sub(r"\1", plain)
        plain = ITALIC.sub(r"\1", plain)
    if "_" in plain:
        plain = UNDERSCORED.sub(r"\1", STRONG.sub(r"\1", plain))
    if "~~" in plain:
        plain = STRUCK.sub(r"\1", plain)
    if "#" in plain:
        plain = HEADING.sub(lambda found: found[1] or "", plain)
    if ">" in plain:
        plain = QUOTE.sub("", plain)
    if "--" in plain or "**" in plain or "* *" in plain or "- -" in plain:
        plain = _without_rules(plain)
    plain = ESCAPED.sub(r"\1", plain)
    return plain if plain == text else BREAKS.sub("\n\n", plain).strip()


def _without_rules(text: str) -> str:
    """Without lines that only separate."""
    lines = text.split("\n")
    kept = [
        line for number, line in enumerate(lines) if not (RULE.fullmatch(line) and not _in_column(lines, number))
    ]
    return text if len(kept) == len(lines) else "\n".join(kept)


def _in_column(lines: list[str], number: int) -> bool:
    """Whether the line above or below is one of a written sum or of a table."""
    around = [
        line[:200]
        for line in (*lines[max(0, number - 1) : number], *lines[number + 1 : number + 2])
        if line.strip()
    ]
    return any(COLUMN.fullmatch(line) or "|" in line for line in around)
