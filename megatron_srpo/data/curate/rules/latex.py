"""LaTeX that was escaped or decoded wrongly, and LaTeX that is beyond repair."""

from __future__ import annotations

import re
from dataclasses import replace

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.fields import change_fields, settled
from megatron_srpo.data.curate.rules.html import without_html
from megatron_srpo.data.curate.rules.latex_names import (
    COMMANDS,
    EATEN,
    EATEN_SPACE,
    EATEN_SPACE_IN_FORMULA,
    LETTER,
)
from megatron_srpo.data.curate.rules.markup import without_markdown
from megatron_srpo.data.curate.rules.noise import without_noise
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import Segment, segments, without_marks
from megatron_srpo.data.curate.rules.urls import without_urls

CONTROL = re.compile(EATEN)
LOST_SPACE = re.compile("|".join(f"{space}(?=(?:{rest})(?![a-z]))" for space, rest in EATEN_SPACE.items()))
LOST_IN_FORMULA = re.compile(
    "|".join(f"{space}(?=(?:{rest})(?![A-Za-z]))" for space, rest in EATEN_SPACE_IN_FORMULA.items())
)
BACKSLASHES = re.compile(r"\\+")
DOUBLED = re.compile(rf"(?<!\\)\\\\(?=(?:{COMMANDS})(?![A-Za-z]))")
# In rows these may be the first word of the next one.
ROW_WORDS = (
    "in|to|le|ge|ne|mu|nu|xi|pi|sin|cos|tan|cot|log|ln|max|min|gcd|det|exp|arg|deg|inf|sup|Re|Im|int|bar|mid|star"
)
DOUBLED_IN_ROWS = re.compile(rf"(?<!\\)\\\\(?=(?!(?:{ROW_WORDS})(?![A-Za-z]))(?:{COMMANDS})(?![A-Za-z]))")
DOUBLED_DELIMITERS = re.compile(
    r"(?<!\\)\\\\\((?P<round>[^\n]{1,500}?)\\\\\)|(?<!\\)\\\\\[(?P<square>[^\n]{1,500}?)\\\\\]"
)
ROWS = re.compile(r"\\begin\{(?:[a-zA-Z]*matrix|d?cases|array|align|split|gather|eqnarray|multline)")
APART = re.compile(
    r"(?<!\\)\\ {1,3}(?=(?:frac|dfrac|tfrac|sqrt|binom|text|mathrm|mathbb|overline|boxed|begin|end|vec"
    r"|hat)\s?[{\\\d]"
    r"|(?:left|right)\s?[\\()\[\]|.{]|(?:times|cdot|cdots|ldots|leq|geq|neq|infty|angle|triangle|circ|equiv|pm"
    r"|alpha|beta|gamma|delta|theta|lambda|sigma|omega|phi|pi|mu|epsilon|sum|int|lim|cup|cap)(?![A-Za-z]))"
)
NAKED = re.compile(
    r"(?<![A-Za-z\\])r?(?:(?<![A-Za-z\\])|(?<=r))(?:rac|frac)(?=\{[^{}]{1,60}\}\{)|(?<![A-Za-z\\])sqrt(?=\{)"
)
ESCAPED_DOLLARS = re.compile(
    r"\\\$(?![\s\d.])([^$\n\\]{1,200}?(?:\\(?!\$)[^$\n\\]{0,200}?){0,20})(?<!\s)\\\$(?!\d)"
)
MONEY = re.compile(
    r"[ ~]?\d[\d,]*(?:\.\d+)?(?![\w^\\+*/={(<>]|\s?[+*/=^<>\\]| -)|[ ~]?\.\d|[ ~]?\d[\d,]*(?:\.\d+)?/(?=[a-z]{3})"
)
EQUATION_BEFORE = re.compile(r"[=<>+*/^]\s?[\d.,]+$")
MONEY_AT_END = re.compile(r"\bin\s?(?:us)?\$$", re.IGNORECASE)
BRACES = re.compile(r"\\\\|\\[{}]|[{}]")
SIDES = re.compile(r"\\(?:(left)|right)(?![A-Za-z])")
NO_DELIMITER = re.compile(r"\\(?:left|right)(?![A-Za-z])\s*(?:[=+\w,]|\$|$)")
ENDS = re.compile(r"\\(begin|end)\s?\{([a-zA-Z]+)\*?\}")
DELIMITERS = re.compile(r"\\\\|\\[()\[\]]")
COMMAND_WITH_BRACE = re.compile(r"\\[A-Za-z]+\s?[{}]|\}\{|[_^]\{")
HALF_FRACTION = re.compile(r"\\[dt]?frac\s?\{[^{}]*\}\s?(?=[$,.;]|$)")
# What stands between two formulas, because a dollar is missing before.
SHIFTED = re.compile(
    r"\$(?!\$)[^\\$]*[\s,.;][A-Za-z]{2,}[,.]?\s\$$|\$\s?[.,;]?\s?(?:and|or|is|are|be|with|then|the"
    r"|where)\s[^\\$]*\$$"
)
LOST = re.compile("[\x07\x08\x0b\x0c\ufffd]")
MOST_ROUNDS = 5


def latex(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Repairs LaTeX that was escaped or decoded wrongly, in prompt and answer."""
    # A dollar at the start may have hidden a label.
    earlier = (without_html, without_urls, without_noise, without_markdown)
    prompt = settled(draft.prompt, repaired, *earlier)
    plain = change_fields(replace(draft, prompt=""), repaired, "LaTeX repaired")
    changed = replace(plain[0] if plain else draft, prompt=prompt)
    changed = replace(changed, answer=repaired_answer(changed.answer))
    if changed == draft:
        return None
    return changed, f"LaTeX repaired: {'answer' if prompt == draft.prompt else 'prompt'}"


def repaired(text: str) -> str:
    """A text with its backslashes as they were meant."""
    for _ in range(MOST_ROUNDS):
        before = text
        text = CONTROL.sub(_with_backslash, text)
        if "\t" in text or "\r" in text or "\n" in text:
            text = LOST_SPACE.sub(_with_backslash, text)
        if "\\" in text:
            text = _with_single_backslashes(text)
            text = APART.sub(r"\\", text)
            if r"\$" in text:
                text = _with_dollars(text)
        if "$" in text or "\\" in text:
            text = "".join(_repaired_segment(segment) for segment in segments(text))
            text = _without_lone_dollar(text)
        if text == before:
            break
    return text


def repaired_answer(text: str) -> str:
    """The same for an answer, all of which is a formula."""
    text = LOST_IN_FORMULA.sub(_with_backslash, text)
    return NAKED.sub(_named, text)


def _with_backslash(eaten: re.Match[str]) -> str:
    return "\\" + LETTER[eaten[0]]


def _named(found: re.Match[str]) -> str:
    return "\\sqrt" if found[0] == "sqrt" else "\\frac"


def _repaired_segment(segment: Segment) -> str:
    if segment.kind != "formula":
        return segment.text
    text = LOST_IN_FORMULA.sub(_with_backslash, segment.text)
    return NAKED.sub(_named, text)


def _with_single_backslashes(text: str) -> str:
    """Commands with one backslash; two are a line break, unless a command's name follows."""
    if "\\\\" not in text or not (DOUBLED.search(text) or DOUBLED_DELIMITERS.search(text)):
        return text
    runs = [len(run) for run in BACKSLASHES.findall(text)]
    if all(run % 2 == 0 for run in runs) and _is_escaped(text):
        return BACKSLASHES.sub(lambda run: "\\" * (len(run[0]) // 2), text)
    doubled = DOUBLED_IN_ROWS if ROWS.search(text) else DOUBLED
    text = doubled.sub(r"\\", text)
    if ROWS.search(text) is None:
        text = DOUBLED_DELIMITERS.sub(_delimited, text)
    return text


def _is_escaped(text: str) -> bool:
    """Whether two backslashes are nowhere a line break, as in JSON that was escaped once too often."""
    rest = DOUBLED.sub("", text)
    return "\\\\\\\\" in text or not re.search(r"\\\\(?=\s|[a-z\d&-])", rest) or ROWS.search(text) is not None


def _delimited(found: re.Match[str]) -> str:
    return rf"\({found['round']}\)" if found["round"] is not None else rf"\[{found['square']}\]"


def _with_dollars(text: str) -> str:
    """Where all dollars are escaped, and stand around formulas, without the escapes."""
    if re.search(r"(?<!\\)\$", text):
        return text
    return ESCAPED_DOLLARS.sub(r"$\1$", text)


def _without_lone_dollar(text: str) -> str:
    """Without one dollar at an end that has no partner."""
    pieces = segments(text)
    if not pieces:
        return text
    last, first = pieces[-1], pieces[0]
    stripped = last.text.rstrip()
    if (
        last.kind == "text"
        and stripped.endswith("$")
        and not stripped.endswith(("\\$", "$$"))
        and stripped.count("$") == 1
        and not MONEY_AT_END.search(stripped)
    ):
        return text[: len(text) - len(last.text)] + stripped[:-1].rstrip()
    start = first.text.lstrip()
    if (
        first.kind == "text"
        and start.startswith("$")
        and start.count("$") == 1
        and sum(map(_dollars, pieces)) == 1
        and not MONEY.match(start, 1)
    ):
        return start[1:].lstrip() + text[len(first.text) :]
    return text


def _dollars(segment: Segment) -> int:
    """The dollars of prose that are neither escaped nor money."""
    if segment.kind != "text" or "$" not in segment.text:
        return 0
    return sum(
        not MONEY.match(segment.text, found.end()) and not _is_sign(segment.text, found.start())
        for found in re.finditer(r"(?<!\\)\$", segment.text)
    )


def _is_sign(text: str, at: int) -> bool:
    """Whether a dollar is the currency's sign: `5$`, `US$`, `($)`, `in $.`"""
    before, after = text[max(0, at - 3) : at], text[at + 1 : at + 2]
    return (
        (before[-1:].isdigit() and not after.isalnum() and not EQUATION_BEFORE.search(text[max(0, at - 12) : at]))
        or before[-2:] in ("US", "AU", "CA", "NZ", "HK")
        or (before[-1:] in ("(", '"', "'") and after in (")", '"', "'"))
        or (before == "in " and after in ("", " ", ".", ",", "?", ")"))
    )


def broken_latex(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses LaTeX that could not be repaired: braces, dollars or brackets without partners."""
    found = broken(draft.prompt)
    if found:
        return f"{found} in the prompt"
    found = broken(draft.answer) or (_unbalanced(draft.answer) if "\\" in draft.answer else None)
    return f"{found} in the answer" if found else None


def broken(text: str) -> str | None:
    """What is broken in a text's LaTeX, if anything."""
    if LOST.search(text):
        return "a lost character"
    if "$" not in text and "\\" not in text and "{" not in text and "}" not in text:
        return None
    pieces = segments(without_marks(text))
    if sum(map(_dollars, pieces)):
        return "a dollar without a partner"
    for kind, piece in pieces:
        if kind == "formula":
            if SHIFTED.match(piece):
                return "a dollar without a partner"
            found = _unbalanced(piece)
            if found:
                return found
    prose = " ".join(piece for kind, piece in pieces if kind == "text")
    return _unbalanced(prose, braces=COMMAND_WITH_BRACE.search(prose) is not None)


def _unbalanced(text: str, braces: bool = True) -> str | None:
    if "\\" not in text and "{" not in text and "}" not in text:
        return None
    if braces and not _braces_match(text):
        return "braces without partners"
    sides = [bool(side[1]) for side in SIDES.finditer(text)]
    if sides.count(True) != sides.count(False):
        return "\\left without \\right"
    if NO_DELIMITER.search(text):
        return "\\left or \\right without a bracket"
    ends = [side[1] for side in ENDS.finditer(text)]
    if ends.count("begin") != ends.count("end"):
        return "\\begin without \\end"
    signs = [sign[0] for sign in DELIMITERS.finditer(text)]
    if signs.count("\\(") != signs.count("\\)") or signs.count("\\[") != signs.count("\\]"):
        return "a delimiter without a partner"
    return "a fraction of one part" if HALF_FRACTION.search(text) else None


def _braces_match(text: str) -> bool:
    depth = 0
    for brace in BRACES.findall(text):
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0
