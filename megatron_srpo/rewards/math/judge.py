"""Is a response's answer to a mathematics problem right?

The answer and the reference are read as mathematics and compared as values: `1/2` is `0.5`, `(x+1)^2` is
`x^2+2x+1`, `{3, 1}` is `1, 3`.  A policy under training looks for what a judge lets pass, so an answer is

* one candidate: no `12 or 15`, no `12 15`, no equation whose sides differ;
* worked out: where the reference is a number, the answer is one too, not the problem's own expression
  (`47 + 38` equals 85, but answers nothing), and a fraction only where the reference is none that is whole.

Nothing here runs text as a program, needs a signal or a thread, or takes long: what is of astronomical size is
refused before it is worked out.  Only references that our reader cannot read are left to math-verify.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from megatron_srpo.recipe.reward import AnswerFormat, MathSection
from megatron_srpo.rewards.answers import extract
from megatron_srpo.rewards.math.compare import agree, candidates
from megatron_srpo.rewards.math.library import library_agrees
from megatron_srpo.rewards.math.reader import read
from megatron_srpo.rewards.math.text import Written, readings, tidy
from megatron_srpo.rewards.math.tokens import Unreadable
from megatron_srpo.rewards.math.tree import Node, Num, Op, Seq
from megatron_srpo.rewards.math.units import Unit
from megatron_srpo.rewards.math.values import NotWorkedOut, exact
from megatron_srpo.rewards.math.words import squeezed, without_number_words, words_agree
from megatron_srpo.rewards.score import Score

LONGEST_ANSWER = 400  # characters, or twice the reference; nothing longer is a final answer
LONGEST_REFERENCE = 20_000
SHOWN = 40  # characters of an answer in a reason
WORD = re.compile(r"[0-9A-Za-z]{1,40}")  # a name, or digits in another base
INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
TOLERANCE = MathSection().tolerance


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and why, in a few words."""

    right: bool
    reason: str


@dataclass(frozen=True)
class Reading:
    """One way to read a text: a value and its unit."""

    node: Node
    unit: Unit | None


@dataclass(frozen=True)
class Reference:
    """A reference answer that has been read."""

    text: str
    tidy: str
    readings: tuple[Reading, ...]


def score_math(response: str, gold: str, answer_format: AnswerFormat, section: MathSection) -> Score:
    """Score one response against the reference answer.

    Args:
        response: the response's text without special tokens.
        gold: the reference answer, plain or LaTeX; a JSON list of texts holds several that are all right.
        answer_format: the form that the prompt asks for.
        section: the recipe's reward.math.
    """
    found = extract(response, answer_format, section.fallback)
    if found.answer is None:
        return Score(0, found.format_ok, None, found.reason)
    verdict = judge(found.answer, gold, section.tolerance)
    return Score(int(verdict.right), found.format_ok, found.answer, verdict.reason)


def answers_agree(answer: str, gold: str, tolerance: float = TOLERANCE) -> bool:
    """Whether a final answer is one worked-out value that equals the reference, or one of several references."""
    return judge(answer, gold, tolerance).right


def judge(answer: str, gold: str, tolerance: float = TOLERANCE) -> Verdict:
    """Whether a final answer is right, and why."""
    verdicts = []
    for text in references(gold):
        verdict = _judge_one(answer.strip(), text.strip(), tolerance)
        if verdict.right:
            return verdict
        verdicts.append(verdict)
    return verdicts[0] if len(verdicts) == 1 else Verdict(False, f"{shown(answer)} is none of the references")


@lru_cache(maxsize=4096)
def references(gold: str) -> tuple[str, ...]:
    """The texts of a JSON list, any of which is right; else the one text that the reference is."""
    if gold.lstrip().startswith("["):
        try:
            texts = json.loads(gold)
        except (ValueError, RecursionError):
            return (gold,)
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return tuple(texts)
    return (gold,)


def shown(text: str) -> str:
    """A text for a reason: short, on one line, and of characters that can be printed."""
    short = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in short)


def _judge_one(answer: str, gold: str, tolerance: float) -> Verdict:
    if len(answer) > max(LONGEST_ANSWER, 2 * len(gold)):
        return Verdict(False, f"an answer of {len(answer)} characters")
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold):
        return _verdict(int(answer) == int(gold), answer, gold)
    reference = reference_of(gold)
    text = tidy(answer)
    if text is None:
        return Verdict(False, "more than one answer around the box")
    text = without_number_words(text)
    if not text or not reference.tidy:
        return Verdict(False, "the answer is empty" if not text else "the reference is empty")
    by_words = words_agree(text, reference.tidy)
    if by_words is not None:
        return _verdict(by_words, text, gold)
    if squeezed(text) == squeezed(reference.tidy):
        return _verdict(True, text, gold)
    return _judge_values(text, reference, tolerance)


def _verdict(right: bool, answer: str, gold: str) -> Verdict:
    return Verdict(right, f"{shown(answer)} {'equals' if right else 'is not'} {shown(gold)}")


@lru_cache(maxsize=4096)
def reference_of(gold: str) -> Reference:
    """The reference with all its readings; the problems of a run come again and again."""
    text = tidy(gold) if len(gold) <= LONGEST_REFERENCE else gold
    text = gold if text is None else without_number_words(text)
    return Reference(gold, text, tuple(_read_all(text, grouped=True)))


def can_be_reference(answer: str, tolerance: float = TOLERANCE) -> bool:
    """Whether a text, or each of a JSON list, is read as mathematics or as words and agrees with itself."""
    return all(_can_be_reference(text.strip(), tolerance) for text in references(answer))


def _can_be_reference(text: str, tolerance: float) -> bool:
    reference = reference_of(text)
    is_word = WORD.fullmatch(text) is not None or words_agree(reference.tidy, reference.tidy) is not None
    if reference.readings or is_word:
        return _judge_one(text, text, tolerance).right
    # The library reads almost anything that is plain as something, such as 0.3.4.
    return "\\" in text and library_agrees(reference.tidy, reference.tidy)


def canonical(answer: str) -> str:
    """A text for grouping answers: the same for equal rational numbers, and for what is written the same."""
    reference = reference_of(answer.strip())
    if reference.readings and reference.readings[0].unit is None:
        value = exact(reference.readings[0].node)
        if value is not None:
            return f"{value.numerator:x}/{value.denominator:x}"
    return squeezed(reference.tidy)


def _read_all(text: str, grouped: bool) -> list[Reading]:
    """All readings of a tidy text that are mathematics."""
    found = []
    for written in readings(text):
        try:
            found.append(_read(written, grouped))
        except Unreadable:
            continue
    return found


def _read(written: Written, grouped: bool) -> Reading:
    node, unit = read(written.body, grouped), written.unit
    if written.scale != 1:
        node = scaled(node, Fraction(written.scale))
    if unit is not None and unit.dimensions in ((("degree", 1),), (("radian", 1),)):
        return Reading(Op(unit.dimensions[0][0], (node,)), None)
    return Reading(node, unit)


def scaled(node: Node, factor: Fraction) -> Node:
    """The node times a number; a number stays one."""
    if factor == 1:
        return node
    if isinstance(node, Num):
        return Num(node.value * factor, node.decimal, node.fraction, node.percent)
    return Op("times", (node, Num(factor)))


def _judge_values(text: str, reference: Reference, tolerance: float) -> Verdict:
    """Any reading of the answer against any of the reference; the library where there is none of the reference."""
    if not reference.readings:
        return _verdict(library_agrees(text, reference.tidy), text, reference.text)
    found = _read_all(text, grouped=True)
    if "," in text and any(_is_list(reading.node) for reading in reference.readings):
        found += _read_all(text, grouped=False)
    if not found:
        return Verdict(False, f"{shown(text)} cannot be parsed")
    exact_tolerance = Fraction(str(tolerance))
    try:
        for gold in reference.readings:
            for reading in found:
                if _readings_agree(gold, reading, exact_tolerance):
                    return _verdict(True, text, reference.text)
        return Verdict(False, _why_not(found[0].node, reference.readings[0].node, text, reference.text))
    except NotWorkedOut:
        return Verdict(False, f"{shown(text)} cannot be worked out")


def _is_list(node: Node) -> bool:
    return isinstance(node, Seq)


def _readings_agree(gold: Reading, answer: Reading, tolerance: Fraction) -> bool:
    """Equal values in the same unit, in units that convert into each other, or where one side has no unit."""
    one, other = gold.unit, answer.unit
    if one is None or other is None or _any_unit(one) or _any_unit(other):
        return agree(gold.node, answer.node, tolerance)
    if (one.dimensions, one.label) != (other.dimensions, other.label):
        return False
    return agree(gold.node, scaled(answer.node, other.factor / one.factor), tolerance)


def _any_unit(unit: Unit) -> bool:
    """Units of length without a name: 5 square units."""
    return [base for base, _ in unit.dimensions] == ["unit"]


def _why_not(answer: Node, gold: Node, text: str, gold_text: str) -> str:
    """The reason of an answer that is not right."""
    if candidates(answer) > 1 and candidates(gold) == 1 and not isinstance(gold, Seq):
        return f"{candidates(answer)} candidates"
    if isinstance(gold, Num) and isinstance(answer, Num | Op):
        unfinished = Op("times", (gold, Num(Fraction(1))))
        if agree(unfinished, answer, Fraction(0)):
            return f"{shown(text)} is not worked out"
    return f"{shown(text)} is not {shown(gold_text)}"
