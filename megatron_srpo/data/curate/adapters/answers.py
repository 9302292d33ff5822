"""Reference answers of mathematics: out of their boxes and dollars."""

from __future__ import annotations

import re

from megatron_srpo.rewards.answers import box_spans, outermost_boxes

FRAMES = re.compile(r"\\fbox(?=\s*\{)")
BARE_BOX = re.compile(r"\\f?boxed[ \t]+([^\s{}$]+)")  # \boxed 5, which TeX takes for \boxed{5}
MOST_WRAPPED = 8  # boxes and dollars around each other; more are no answer but an attack on our time
DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def last_box(solution: str) -> str:
    """What stands in the last closed box of a solution, bare; empty where there is none."""
    boxes = all_boxes(solution)
    return boxes[-1] if boxes else ""


def all_boxes(solution: str) -> list[str]:
    """What stands in the closed boxes of a solution, bare."""
    solution = FRAMES.sub(r"\\boxed", solution)
    contents, _ = outermost_boxes(solution)
    found = contents or [box.rstrip(".,;") for box in BARE_BOX.findall(solution)]
    return [bare(box) for box in found]


def bare(answer: str) -> str:
    """The answer without the one box in it, the words around that box, and the dollars around it all."""
    answer = answer.strip()
    for _ in range(MOST_WRAPPED):
        inner = _without_box(_without_dollars(answer)).strip()
        if inner == answer:
            break
        answer = inner
    return answer


def _without_box(answer: str) -> str:
    spans, _ = box_spans(answer)
    if len(spans) != 1:
        return answer  # of several boxes none is the answer; the text stays, and its reader will say so
    box, start, end, after = spans[0]
    has_more = any(character.isdigit() for character in answer[:box] + answer[after:])
    return answer if has_more else answer[start:end]


def _without_dollars(answer: str) -> str:
    for start, end in DELIMITERS:
        inner = answer[len(start) : -len(end)]
        # "$1$ and $2$" begins and ends with dollars, but they are not one pair.
        within = inner.replace(r"\$", "")
        is_one_pair = start not in within and end not in within and not within.endswith("\\")
        if len(answer) > len(start + end) and answer.startswith(start) and answer.endswith(end) and is_one_pair:
            return inner
    return answer
