"""Where the final answer of a response stands, and whether the response has the asked form.

Responses come from a model under training and can be a megabyte of nested tags and braces, so everything here
takes time in proportion to the length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from megatron_srpo.recipe.reward import AnswerFormat

Fallback = Literal["none", "last_number"]

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# A box, a brace, and what only looks like a brace.  Two backslashes are a line break, unless a box follows.
BRACES = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_ARGUMENT = r"\{\s{0,3}[+-]?\d+(?:\.\d+)?\s{0,3}\}"
# A minus sign that stands between two terms belongs to no number.
NUMBER = re.compile(
    rf"(?:(?<![\w)}}\].])[+\-−])?(?:\\[dtc]?frac\s{{0,3}}{_ARGUMENT}\s{{0,3}}{_ARGUMENT}"  # noqa: RUF001
    rf"|(?<![\w.])(?:{_PLAIN})"
    r"(?:[eE][+-]?\d+(?!\w)|\s{0,3}(?:\\times|\\cdot|×)\s{0,3}10\^(?:\{[+-]?\d+\}|\d+)"  # noqa: RUF001
    r"|\s?/\s?\d+(?![\d.])|\s?\\?%)?)"
)


@dataclass(frozen=True)
class Extraction:
    """What was found in one response."""

    answer: str | None
    """The final answer as it is written, or None when there is not exactly one."""
    format_ok: bool
    """Whether the whole response has the asked form."""
    reason: str = ""
    """Why there is no answer, in a few words; empty where there is one."""


def extract(response: str, answer_format: AnswerFormat, fallback: Fallback = "none") -> Extraction:
    """The final answer, if there is exactly one, and whether the whole response has the right form.

    An answer can be there in a response of broken form (no thinking, text around it); an answer that is
    repeated, left open, or inside the thinking is none.

    Args:
        response: the response's text without special tokens.
        answer_format: the form that the prompt asks for.
        fallback: `last_number` takes the last number after the thinking where that form holds no answer; the
            form stays broken.
    """
    found = _boxed(response) if answer_format == "boxed" else _tagged(response, answer_format)
    if found.answer is None and fallback == "last_number":
        number = last_number(text_after_thinking(response))
        if number is not None:
            return Extraction(number, False)
    return found


def text_after_thinking(response: str) -> str:
    """What follows the last `</think>`, or everything where there is no thinking; nothing while it is open."""
    text = response.rpartition("</think>")[2]
    return "" if "<think>" in text else text


def last_number(text: str) -> str | None:
    """The last integer, decimal, fraction or percentage in a text, as it is written."""
    last = None
    for found in NUMBER.finditer(text):
        last = found.group()
    return last


def _none(reason: str) -> Extraction:
    return Extraction(None, False, reason)


def _tagged(response: str, answer_format: AnswerFormat) -> Extraction:
    """The content of the one pair of answer tags."""
    opened, closed = response.count("<answer>"), response.count("</answer>")
    if opened == 0:
        return _none("no <answer>")
    if opened > 1 or closed > 1:
        return _none(f"{max(opened, closed)} answers" if opened > 1 else "</answer> stands twice")
    before, _, rest = response.partition("<answer>")
    content, closing, after = rest.partition("</answer>")
    if not closing:
        return _none("<answer> is not closed")
    if "</think>" in rest:
        return _none("the answer is inside the thinking")
    answer = content.strip()
    if not answer:
        return _none("the answer is empty")
    if "<think>" in content:
        return _none("the thinking is inside the answer")
    if answer_format == "answer":
        return Extraction(answer, not after.strip())
    return Extraction(answer, not after.strip() and _is_one_thought(before))


def _is_one_thought(text: str) -> bool:
    """Whether a text is `<think>`, something, `</think>`, and nothing else."""
    text = text.strip()
    start, end = TAGS[:2]
    once = text.count(start) == 1 and text.count(end) == 1
    return once and text.startswith(start) and text.endswith(end) and bool(text[len(start) : -len(end)].strip())


def _boxed(response: str) -> Extraction:
    """The content of the one `\\boxed{...}` after the thinking; several count when they hold the same text."""
    contents, is_open = outermost_boxes(text_after_thinking(response))
    if is_open:
        return _none("\\boxed is not closed")
    if not contents:
        return _none("no \\boxed")
    different = set(contents)
    if len(different) > 1:
        return _none(f"{len(different)} different boxes")
    content = different.pop()
    return Extraction(content, True) if content else _none("the box is empty")


def outermost_boxes(text: str) -> tuple[list[str], bool]:
    """The contents of all boxes that stand in no other box, and whether a box is left open."""
    spans, is_open = box_spans(text)
    return [text[start:end].strip() for _, start, end, _ in spans], is_open


def box_spans(text: str) -> tuple[list[tuple[int, int, int, int]], bool]:
    """Where the outermost boxes begin, their contents begin and end, and they end; whether a box is left open."""
    spans: list[tuple[int, int, int, int]] = []
    braces: list[re.Match[str] | None] = []  # the open ones; None where it opens no box
    boxes = 0
    for found in BRACES.finditer(text):
        token = found.group()
        if token.startswith("\\boxed"):
            braces.append(found)
            boxes += 1
        elif token == "{":
            braces.append(None)
        elif token == "}" and braces:
            box = braces.pop()
            boxes -= box is not None
            if box is not None and boxes == 0:
                spans.append((box.start(), box.end(), found.start(), found.end()))
    return spans, boxes > 0
